# SPDX-License-Identifier: Apache-2.0
"""What the checks share: the tracked files and a way to report. Run alone it
checks that the top level of the tree has the names it should have."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOP = {"CMakeLists.txt", "LICENSE", "README.md", "client", "deploy", "docs",
       "migrations", "proto", "server", "tests", "worker"}


def files(*suffixes):
    """Tracked and new, not ignored files with one of the suffixes, sorted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / line for line in sorted(set(listed.splitlines())))
    return [p for p in paths if p.is_file()
            and (not suffixes or p.suffix in suffixes)]


def name(path):
    return path.relative_to(ROOT).as_posix()


def finish(problems):
    """Prints each problem on a line and exits with 1 where there is one."""
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    seen = {name(p).split("/")[0] for p in files()}
    extra = {t for t in seen if not t.startswith(".")} - TOP
    finish([f"{t}: not a name of the top level" for t in sorted(extra)])
