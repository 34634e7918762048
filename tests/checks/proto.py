# SPDX-License-Identifier: Apache-2.0
"""The contract reads the same everywhere: packages are folders, names follow
one form, imports are used, and what a name does not say stands in a comment.

A field needs a comment unless its type is a message or enum of the contract
with the same name, or its name is one of a fixed form (PLAIN)."""

import re

import tree

PACKAGE = re.compile(r"^package ([a-z0-9_.]+);", re.M)
BLOCK = re.compile(r"^\s*(message|enum|service|oneof) (\w+) \{(\})?")
FIELD = re.compile(r"^\s*(?:repeated |optional )?(map<[^>]*>|[\w.]+) (\w+) = "
                   r"(\d+);")
VALUE = re.compile(r"^\s*(\w+) = (\d+);")
RPC = re.compile(r"^\s*rpc (\w+)\((?:stream )?(\w+)\) returns "
                 r"\((?:stream )?(\w+)\)")
# What these mean is the same in every message.
PLAIN = re.compile(r"(?:page_size|page_token|next_page_token|\w+_(?:id|ids|name|"
                   r"time|bytes|seconds|features)|name|seconds)$")


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def block_problems(kind, name, depth, described):
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) and kind != "oneof":
        yield f"{kind} {name} is not CamelCase"
    # A message of one call is described by the call's name.
    plain = kind == "oneof" or depth > 0 or re.search(
        r"(Request|Response)$", name)
    if kind in ("message", "enum", "service") and not described and not plain:
        yield f"{kind} {name} has no comment"


def field_problems(kind, name, number, described, numbers):
    if name != snake(name):
        yield f"field {name} is not snake_case"
    if number in numbers:
        yield f"number {number} is used twice"
    numbers.add(number)
    same = snake(kind.split(".")[-1]).rstrip("s") == name.rstrip("s")
    if not (described or PLAIN.match(name) or same):
        yield f"field {name} has no comment"


def value_problems(enum, name, number, first):
    prefix = snake(enum).upper() + "_"
    if not name.startswith(prefix):
        yield f"{name} does not begin with {prefix}"
    if first and (number != "0" or name != prefix + "UNSPECIFIED"):
        yield f"the first value of {enum} is not {prefix}UNSPECIFIED = 0"


def rpc_problems(name, request, response):
    if request != name + "Request":
        yield f"{name} takes {request}, not {name}Request"
    if response != name + "Response":
        yield f"{name} returns {response}, not {name}Response"


def file_problems(path):
    text = path.read_text()
    folder = path.parent.relative_to(tree.ROOT / "proto").as_posix()
    package = PACKAGE.search(text)
    if not package or package.group(1).replace(".", "/") != folder:
        yield 1, "the package is not the folder"
    blocks, numbers, described, first = [], [set()], False, False
    for row, line in enumerate(text.splitlines(), 1):
        if match := BLOCK.match(line):
            kind, name, ended = match.groups()
            for what in block_problems(kind, name, len(blocks), described):
                yield row, what
            if not ended:
                blocks.append((kind, name))
                # The fields of a oneof are numbered with its message's.
                numbers.append(numbers[-1] if kind == "oneof" else set())
            first = kind == "enum"
        elif re.match(r"\s*\}", line):
            blocks.pop()
            numbers.pop()
        elif match := RPC.match(line):
            for what in rpc_problems(*match.groups()):
                yield row, what
        elif blocks and (match := FIELD.match(line)):
            for what in field_problems(*match.groups(), described, numbers[-1]):
                yield row, what
        elif blocks and (match := VALUE.match(line)):
            for what in value_problems(blocks[-1][1], *match.groups(), first):
                yield row, what
            first = False
        described = line.lstrip().startswith("//")


def main():
    tree.finish([f"{tree.name(path)}:{row}: {what}"
                 for path in tree.files(".proto")
                 for row, what in file_problems(path)])


if __name__ == "__main__":
    main()
