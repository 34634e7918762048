# SPDX-License-Identifier: Apache-2.0
"""Includes point down: every #include of our own headers against layers.txt."""

import re

import tree

ALWAYS = {"proto/base", "proto/spec"}
INCLUDE = re.compile(r'^\s*#include "((?:proto|server|worker|client|tests)/[^"]+)"')


def table():
    allowed = {}
    for line in (tree.ROOT / "tests/checks/layers.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            folder, _, may = line.partition(":")
            allowed[folder.strip()] = set(may.split())
    return allowed


def main():
    allowed, problems = table(), []
    for path in tree.files(".h", ".cc", ".cu", ".cuh"):
        source = tree.name(path)
        folder = source.rsplit("/", 1)[0]
        if source.startswith(("tests/", "deploy/")):
            continue
        if folder not in allowed:
            problems.append(f"{source}: {folder} is not in tests/checks/layers.txt")
            continue
        program_main = source.endswith("/main.cc")
        for line in path.read_text().splitlines():
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1).rsplit("/", 1)[0]
            legal = target == folder or target in allowed[folder] or (
                target in ALWAYS and folder != "proto/base") or program_main
            if folder == "proto/spec" and target == "proto/base":
                legal = True
            if not legal:
                problems.append(f"{source}: may not include {match.group(1)}")
    tree.finish(problems)


if __name__ == "__main__":
    main()
