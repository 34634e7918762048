# SPDX-License-Identifier: Apache-2.0
"""Size ceilings of files and functions; docs/style.md has the table."""

import re

import tree

FILE_LINES = {".cc": 700, ".cu": 700, ".h": 300, ".cuh": 300, ".py": 700,
              ".rs": 700, ".sql": 700}
TEST_LINES = 1200
FUNCTION_LINES = 80
MAIN_LINES = 150
FOLDER_FILES = 50
BANNED = re.compile(r"(^|/)(utils?|helpers?|common|misc|manager)(\.|/|_)")
# A definition at column 0 (or in a class) that ends in an opening brace; the
# body is everything to the closing brace at the same indentation.
OPENING = re.compile(r"^( {0,2})\S.*\)(?: const| override| noexcept| final)*"
                     r"(?:\s*:\s.*)?\s\{$")


def functions(lines):
    """(first line, length) of every function definition."""
    start, indent = None, ""
    for number, line in enumerate(lines, 1):
        if start is None:
            match = OPENING.match(line)
            if match and not re.match(r"\s*(if|for|while|switch|namespace|else"
                                      r"|\})", line):
                start, indent = number, match.group(1)
        elif line.startswith(indent + "}") and not line.startswith(
                indent + "} "):
            yield start, number - start + 1
            start = None


def main():
    problems, per_folder = [], {}
    for path in tree.files(*FILE_LINES):
        source = tree.name(path)
        lines = path.read_text().splitlines()
        is_test = source.startswith("tests/")
        limit = TEST_LINES if is_test else FILE_LINES[path.suffix]
        if path.name == "main.cc" and not is_test:
            limit = MAIN_LINES
        if len(lines) > limit:
            problems.append(f"{source}: {len(lines)} lines; at most {limit}")
        if BANNED.search(source):
            problems.append(f"{source}: a name that says nothing")
        if path.suffix in (".cc", ".h", ".cu") and not is_test:
            folder = source.rsplit("/", 1)[0]
            per_folder[folder] = per_folder.get(folder, 0) + 1
            for start, length in functions(lines):
                if length > FUNCTION_LINES:
                    problems.append(f"{source}: the function at line {start} "
                                    f"has {length} lines; at most "
                                    f"{FUNCTION_LINES}")
    for folder, count in sorted(per_folder.items()):
        if count > FOLDER_FILES:
            problems.append(f"{folder}: {count} files; at most {FOLDER_FILES}")
    tree.finish(problems)


if __name__ == "__main__":
    main()
