# SPDX-License-Identifier: Apache-2.0
"""Docs tell the truth: paths they name exist, and each error reason and each
registered component is written up; a component is reached by a test too."""

import os
import pathlib
import re
import subprocess

import tree

PATH = re.compile(r"`((?:proto|server|worker|client|migrations|deploy|tests|docs)"
                  r"/[A-Za-z0-9_./{},*-]+)`")
ID = re.compile(r'set_id\("([a-z0-9_]+)"\)')
PAGE = re.compile(r"docs/[a-z0-9_/]+\.md")
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


def from_the_build():
    """(id, reference) of every row of the registries, as the runner prints
    them; nothing where it is not built."""
    build = pathlib.Path(os.environ.get("QUANTD_BUILD", tree.ROOT / "build"))
    runner = build / "bin/quant-runner"
    if not runner.exists():
        print("docs: components are read from the sources; no quant-runner")
        return
    catalog = subprocess.run([str(runner), "--describe"], capture_output=True,
                             check=True).stdout
    text = subprocess.run(
        ["protoc", "--decode=quantd.v1.Catalog", "-I", "proto",
         "proto/quantd/v1/catalog.proto"], cwd=tree.ROOT, input=catalog,
        capture_output=True, check=True).stdout.decode()
    for entry in re.findall(r"^entries \{(.*?)^\}", text, re.S | re.M):
        row = dict(re.findall(r'^  (id|reference): "(.*)"$', entry, re.M))
        yield row["id"], row.get("reference", "")


def from_the_sources():
    """The same where both words stand in one file as they are."""
    for path in tree.files(".cc"):
        text = path.read_text()
        if tree.name(path).startswith("worker/") and "set_reference(" in text:
            call = text.split("set_reference(", 1)[1].split(");", 1)[0]
            for component in ID.findall(text):
                yield component, call


def unwritten_components():
    tests = "\n".join(p.read_text() for p in tree.files(".cc")
                      if tree.name(p).startswith("tests/")
                      and p.name.endswith("_test.cc"))
    for component, reference in sorted({*from_the_sources(),
                                        *from_the_build()}):
        pages = [tree.ROOT / page for page in PAGE.findall(reference)]
        if not pages:
            yield f"{component}: its reference names no page of docs"
        for page in pages:
            if not page.exists():
                yield f"{component}: {tree.name(page)} does not exist"
            elif not re.search(rf"\b{component}\b",
                               page.stem + "\n" + page.read_text()):
                yield f"{component}: {tree.name(page)} does not mention it"
        if not re.search(rf"\b{component}\b", tests, re.IGNORECASE):
            yield f"{component}: no test names it"


def main():
    problems = (list(missing_paths()) + sorted(set(undocumented_reasons()))
                + list(unwritten_components()))
    tree.finish(problems)


if __name__ == "__main__":
    main()
