#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs rounding methods beside one another and prints a table in Markdown.

    tests/bench/methods_table.py                  the bundled tiny model
    tests/bench/methods_table.py --model DIR --text FILE --heldout FILE

Starts a quantd with one worker on a free loopback port, submits one job per
method and width, and reads perplexities, layer errors and times from the
reports. A method may carry parameters, and other fields of the recipe:
    --method adaround:iterations=2000,weights.clip=mse
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = "rtn,hqq,gptq,adaround,brecq,autoround"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=str(ROOT / "build/bin"))
    parser.add_argument("--model", default=str(ROOT / "deploy/models/tiny"))
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--heldout", default="bundled-heldout")
    parser.add_argument("--windows", default="",
                        help="how many windows are scored; all where empty")
    parser.add_argument("--window", default="256")
    parser.add_argument("--nsamples", default="32")
    parser.add_argument("--seqlen", default="256")
    parser.add_argument("--bits", default="3,2")
    parser.add_argument("--group-size", default="64")
    parser.add_argument("--sym", action="store_true")
    # Parameters hold commas, so further methods come with further flags.
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--method", action="append", default=[],
                        help="instead of --methods: one, with parameters")
    return parser.parse_args()


class Server:
    """A quantd that lives as long as the with block."""

    def __init__(self, binaries):
        self.binaries = binaries
        self.place = tempfile.TemporaryDirectory()

    def __enter__(self):
        ports = pathlib.Path(self.place.name) / "ports"
        with open(pathlib.Path(self.place.name) / "log", "w",
                  encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [f"{self.binaries}/quantd", "--embedded", "--data-dir",
                 f"{self.place.name}/data", "--listen", "127.0.0.1:0",
                 "--http-listen", "127.0.0.1:0", "--port-file", str(ports)],
                stderr=log)
        for _ in range(600):
            if ports.exists():
                break
            if self.process.poll() is not None:
                raise SystemExit("methods_table: quantd did not start")
            time.sleep(0.1)
        grpc = [line.partition("=")[2] for line in
                ports.read_text(encoding="utf-8").splitlines()
                if line.startswith("grpc=")]
        self.environment = dict(os.environ, QUANTD_SERVER=grpc[0])
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.place.cleanup()

    def qctl(self, *args, check=True):
        done = subprocess.run([f"{self.binaries}/qctl", *args],
                              env=self.environment, capture_output=True,
                              text=True, check=False)
        if check and done.returncode != 0:
            raise SystemExit(f"methods_table: qctl {' '.join(args)}: "
                             f"{done.stderr.strip()}")
        return done


def submit(server, options, method, bits):
    name, _, params = method.partition(":")
    score = f"perplexity:window={options.window},data={options.heldout}"
    if options.windows:
        score += f",windows={options.windows}"
    command = ["submit", "--method", name, "--model", options.model,
               "--bits", bits, "--group-size", options.group_size,
               "--sym" if options.sym else "--asym", "--keep-lm-head-fp16",
               "--calib", options.text, "--nsamples", options.nsamples,
               "--seqlen", options.seqlen, "--eval", score,
               "--export", "dequantized", "-o", "name"]
    for setting in filter(None, params.split(",")):
        field = setting if "." in setting.partition("=")[0] else (
            f"method.{setting}")
        command += ["--set", field]
    return server.qctl(*command).stdout.split()[-1]


def perplexity(report, subject):
    for row in report["evals"]:
        if row["subject"] == subject:
            for metric in row["metrics"]:
                if metric["name"] == "perplexity":
                    return metric["value"]
    return float("nan")


def cell(server, options, method, bits):
    job = submit(server, options, method, bits)
    server.qctl("wait", job, check=False)
    state = json.loads(server.qctl("get", job, "-o", "json").stdout)
    if "report" not in state:
        return state, None
    return state, state["report"]


def main():
    options = arguments()
    methods = options.method or options.methods.split(",")
    widths = options.bits.split(",")
    rows, floats = [], float("nan")
    with Server(options.bin) as server:
        for method in methods:
            cells = []
            for bits in widths:
                state, report = cell(server, options, method, bits)
                if report is None:
                    failure = state.get("failure", {})
                    cells += [failure.get("reason", "?"), "", ""]
                    continue
                floats = perplexity(report, "float")
                errors = [layer.get("relative_error", 0)
                          for layer in report["layers"]]
                cells += [f"{perplexity(report, 'quantized'):.4f}",
                          f"{sum(errors) / len(errors):.5f}",
                          f"{report['quantize_seconds']:.1f}"]
            rows.append((method, cells))
            print("| " + " | ".join([method, *cells]) + " |", flush=True)
    print()
    head = ["method"]
    for bits in widths:
        head += [f"{bits} bits", "layer error", "s"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    print("| " + " | ".join(
        ["float", *[f"{floats:.4f}", "", ""] * len(widths)]) + " |")
    for method, cells in rows:
        print("| " + " | ".join([method, *cells]) + " |")


if __name__ == "__main__":
    main()
