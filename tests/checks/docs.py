# SPDX-License-Identifier: Apache-2.0
"""Docs tell the truth: paths they name exist, and each component, each error
reason and each migration is written up."""

import re

import tree

PATH = re.compile(r"`((?:proto|server|worker|client|migrations|deploy|tests|docs)"
                  r"/[A-Za-z0-9_./{},*-]+)`")
SEAMS = ["methods", "formats", "exports", "evals"]
ROW = re.compile(r'^\s*X?\(?(?:description\.)?set_id\("([a-z0-9_]+)"\)')
REASON = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"')


def expand(pattern):
    """a/{b,c}.md -> a/b.md, a/c.md."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    return [path for part in match.group(1).split(",") for path in expand(
        pattern[:match.start()] + part + pattern[match.end():])]


def missing_paths():
    for doc in tree.files(".md"):
        for match in PATH.finditer(doc.read_text()):
            for path in expand(match.group(1)):
                plain = path.rstrip("/")
                if "<" in plain:
                    continue
                found = (list(tree.ROOT.glob(plain)) if "*" in plain
                         else [p for p in [tree.ROOT / plain] if p.exists()]
                         or list(tree.ROOT.glob(plain + ".*")))
                if not found:
                    yield f"{tree.name(doc)}: {path} does not exist"


def undocumented_reasons():
    documented = "".join(p.read_text() for p in tree.files(".md")
                         if "docs/errors" in tree.name(p))
    for path in tree.files(".cc", ".h"):
        source = tree.name(path)
        if source.startswith("tests/"):
            continue
        text = path.read_text()
        for call in re.finditer(r"MakeError\(", text):
            reason = REASON.search(text, call.end(), call.end() + 240)
            if reason and reason.group(1) not in documented:
                yield f"{source}: {reason.group(1)} is not in docs/errors"


def main():
    problems = list(missing_paths()) + sorted(set(undocumented_reasons()))
    tree.finish(problems)


if __name__ == "__main__":
    main()
