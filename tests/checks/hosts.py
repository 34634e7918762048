# SPDX-License-Identifier: Apache-2.0
"""No package registry host, no path of one machine, no unfinished words."""

import re

import tree

# Written apart, so that this file does not name what it forbids.
REGISTRIES = ["py" + "pi", "python" + "hosted", "npm" + "js", "crates" + r"\.io",
              "deb" + r"ian\.org", "go" + "lang", "ma" + "ven"]
HOST = re.compile(r"https?://[a-z0-9./-]*(" + "|".join(REGISTRIES) + ")", re.I)
MACHINE = re.compile("/wo" + r"rk/[m.]|/ro" + r"ot/\.")
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X)\\b|not impl"
                        "emented", re.I)


def main():
    problems = []
    for path in tree.files():
        source = tree.name(path)
        if path.suffix in (".safetensors", ".gguf", ".png", ".lock"):
            continue
        text = path.read_text(errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if HOST.search(line):
                problems.append(f"{source}:{number}: names a registry host")
            if MACHINE.search(line):
                problems.append(f"{source}:{number}: names a path of one machine")
            if UNFINISHED.search(line) and path.suffix in (
                    ".cc", ".h", ".cu", ".py", ".rs", ".sh"):
                problems.append(f"{source}:{number}: unfinished by its own words")
    tree.finish(problems)


if __name__ == "__main__":
    main()
