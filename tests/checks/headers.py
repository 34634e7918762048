# SPDX-License-Identifier: Apache-2.0
"""Every header stands alone. A header with a .cc beside it is the first include
of that file, so the build proves it; the others must be included first by some
test or source file of theirs, or are compiled here."""

import json
import os
import pathlib
import shlex
import subprocess
import tempfile

import tree


def first_include(path):
    for line in path.read_text().splitlines():
        if line.startswith('#include "'):
            return line.split('"')[1]
        if line.startswith("#include <"):
            return None
    return None


def compile_flags(folder, commands):
    """The flags of some file of the same folder, or of any file."""
    for command in commands:
        if pathlib.Path(command["file"]).parent == folder:
            break
    words = shlex.split(command["command"])
    while words and not words[0].endswith(("c++", "g++", "clang++-14")):
        words.pop(0)
    flags, skip = [words[0]], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-o", "-c"):
            skip = True
        elif not word.endswith(".cc"):
            flags.append(word)
    return flags


def main():
    build = pathlib.Path(os.environ.get("QUANTD_BUILD", tree.ROOT / "build"))
    proved = set()
    for path in tree.files(".cc"):
        proved.add(first_include(path))
    problems = []
    commands_file = build / "compile_commands.json"
    commands = (json.loads(commands_file.read_text())
                if commands_file.exists() else [])
    for header in tree.files(".h"):
        source = tree.name(header)
        text = header.read_text()
        if "#pragma once" not in text:
            problems.append(f"{source}: no #pragma once")
        if not text.startswith("// SPDX-License-Identifier: Apache-2.0"):
            problems.append(f"{source}: no licence line")
        if source in proved or header.with_suffix(".cc").exists() or not commands:
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".cc") as unit:
            unit.write(f'#include "{source}"\n')
            unit.flush()
            done = subprocess.run(
                compile_flags(header.parent, commands)
                + ["-fsyntax-only", "-I", str(tree.ROOT), unit.name],
                cwd=commands[0]["directory"], capture_output=True, text=True,
                check=False)
        if done.returncode != 0:
            problems.append(f"{source}: does not stand alone\n"
                            + done.stderr[:600])
    tree.finish(problems)


if __name__ == "__main__":
    main()
