# SPDX-License-Identifier: Apache-2.0
"""The compiled CUDA kernels spill nothing and stay below a register ceiling,
for each architecture that is built."""

import os
import pathlib
import re

import tree

MAX_REGISTERS = 128
KERNELS = {"RoundToNearestKernel", "GramKernel", "GptqColumnsKernel"}
ARCHITECTURES = {"sm_80", "sm_90a"}


def main():
    log = pathlib.Path(os.environ.get("QUANTD_BUILD", tree.ROOT / "build"),
                       "ptxas.log")
    if not log.exists():
        tree.finish([] if not os.environ.get("CI") else
                    ["the build left no ptxas.log: was QUANTD_CUDA off?"])
    problems, seen, current = [], set(), None
    for line in log.read_text().splitlines():
        entry = re.search(r"entry function '_Z\w*?\d+([A-Z][a-zA-Z]+Kernel)E?"
                          r".*' for '(\w+)'", line)
        if entry:
            current = entry.groups()
            seen.add(current)
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill", line)
        if spill and spill.groups() != ("0", "0"):
            problems.append(f"{current}: spills {spill.group(1)} bytes")
        used = re.search(r"Used (\d+) registers", line)
        if used and int(used.group(1)) > MAX_REGISTERS:
            problems.append(f"{current}: {used.group(1)} registers")
    for kernel in sorted(KERNELS):
        for architecture in sorted(ARCHITECTURES):
            if (kernel, architecture) not in seen:
                problems.append(f"{kernel} was not compiled for {architecture}")
    tree.finish(problems)


if __name__ == "__main__":
    main()
