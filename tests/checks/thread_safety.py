# SPDX-License-Identifier: Apache-2.0
"""Locks are what they say: clang's thread-safety analysis passes over every
file that deals with a mutex, and every mutex that is a member guards something.

Needs clang++-14 and the compile_commands.json of a build folder; without them
only the second half runs, and a line says so. ccache makes a repeat quick."""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile

import tree

MUTEX_HEADER = "absl/synchronization/mutex.h"
MEMBER = re.compile(r"^\s*(?:mutable )?(absl::Mutex|std::\w*mutex) (\w+_);", re.M)
GUARDS = "ABSL_(?:PT_)?GUARDED_BY|ABSL_EXCLUSIVE_LOCKS_REQUIRED"
KEPT = ("-I", "-D", "-isystem", "-idirafter", "-std")


def unguarded_members():
    """Mutexes whose declaring file names nothing that they guard."""
    for path in tree.files(".h", ".cc"):
        text = path.read_text()
        for kind, member in MEMBER.findall(text):
            if kind != "absl::Mutex":
                yield f"{tree.name(path)}: {kind} {member} has no annotations"
            elif not re.search(rf"(?:{GUARDS})\({member}\)", text):
                yield f"{tree.name(path)}: {member} guards nothing that is named"


def includes(path):
    return re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.M)


def deals_with_a_mutex(path):
    """Whether the file or a header of ours that it includes needs the type."""
    names = includes(path)
    ours = [tree.ROOT / n for n in names if (tree.ROOT / n).is_file()]
    return MUTEX_HEADER in names or any(MUTEX_HEADER in includes(p) for p in ours)


def analysis(command, scratch):
    """The compiler call, or None where the file is not to be looked at."""
    source = pathlib.Path(command["file"])
    if (tree.ROOT not in source.parents or source.suffix != ".cc"
            or tree.name(source).startswith("tests/")
            or not deals_with_a_mutex(source)):
        return None
    words, flags = shlex.split(command["command"]), []
    for index, word in enumerate(words):
        if word in KEPT:
            flags += words[index:index + 2]
        elif word.startswith(KEPT):
            flags.append(word)
    launcher = ["ccache"] if shutil.which("ccache") else []
    return launcher + ["clang++-14", *flags, "-Wthread-safety", "-Werror",
                       "-c", str(source), "-o",
                       f"{scratch}/{tree.name(source).replace('/', '_')}.o"]


def run(call, directory):
    done = subprocess.run(call, cwd=directory, capture_output=True, text=True,
                          check=False)
    return done.stderr[:2000] if done.returncode != 0 else ""


def main():
    problems = list(unguarded_members())
    build = pathlib.Path(os.environ.get("QUANTD_BUILD", tree.ROOT / "build"))
    commands = build / "compile_commands.json"
    if not shutil.which("clang++-14") or not commands.exists():
        print("thread_safety: skipped, clang++-14 or compile_commands.json "
              "is not there")
        tree.finish(problems)
    with tempfile.TemporaryDirectory() as scratch, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        calls = {shlex.join(call): call for command
                 in json.loads(commands.read_text())
                 if (call := analysis(command, scratch))}
        problems += [text for text in pool.map(
            lambda call: run(call, str(build)), calls.values()) if text]
    tree.finish(problems)


if __name__ == "__main__":
    main()
