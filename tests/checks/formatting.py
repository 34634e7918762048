# SPDX-License-Identifier: Apache-2.0
"""clang-format 14 agrees with every C++ and CUDA file."""

import subprocess

import tree


def main():
    paths = [str(p) for p in tree.files(".h", ".cc", ".cu", ".cuh")]
    done = subprocess.run(
        ["clang-format-14", "--dry-run", "--Werror", "--ferror-limit=1"] + paths,
        cwd=tree.ROOT, capture_output=True, text=True, check=False)
    problems = [line for line in done.stderr.splitlines() if "error:" in line]
    tree.finish(problems)


if __name__ == "__main__":
    main()
