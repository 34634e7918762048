#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the fuzz targets.

Usage: make_seeds.py FOLDER
Makes a folder in it for each target.
"""
import json
import pathlib
import struct
import sys


def safetensors():
    """Inputs of safetensors_fuzz: data size in two bytes, then the header."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    last = {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}
    for header, size in [
        ({}, 0),
        ({"__metadata__": {"format": "pt"}, "a": entry}, 16),
        ({"a": entry, "b": last}, 24),
        ({"s": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}, 1),
        ({"f": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, 2),
    ]:
        yield struct.pack("<H", size) + json.dumps(header).encode()


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_file(tensor_type, values, data):
    keys = [
        ("general.architecture", 8, string("llama")),
        ("llama.context_length", 4, struct.pack("<I", 64)),
        ("llama.embedding_length", 4, struct.pack("<I", 32)),
        ("llama.block_count", 4, struct.pack("<I", 1)),
        ("llama.feed_forward_length", 4, struct.pack("<I", 32)),
        ("llama.attention.head_count", 4, struct.pack("<I", 2)),
        ("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        ("tokenizer.ggml.tokens", 9,
         struct.pack("<IQ", 8, 2) + string("a") + string("b")),
    ]
    tensors = [("blk.0.attn_q.weight", [values, 4]),
               ("rope_freqs.weight", None)]
    body = b"GGUF" + struct.pack("<IQQ", 3, 2, len(keys))
    for key, kind, value in keys:
        body += string(key) + struct.pack("<I", kind) + value
    body += string(tensors[0][0]) + struct.pack("<I", 2)
    body += struct.pack("<qqIQ", values, 4, tensor_type, 0)
    padded = (len(data) + 31) // 32 * 32
    body += string("rope_freqs.weight") + struct.pack("<I", 1)
    body += struct.pack("<qIQ", 8, 0, padded)
    body += bytes(-len(body) % 32)
    return body + data.ljust(padded, b"\0") + struct.pack("<8f", *[1] * 8)


def gguf():
    """Whole files with one tensor of each type that is read."""
    for tensor_type, row_bytes in [(0, 128), (1, 64), (2, 18), (3, 20),
                                   (8, 34), (30, 64)]:
        yield gguf_file(tensor_type, 32, bytes(range(1, 5)) * row_bytes)


def config():
    """Configurations in both spellings."""
    base = {"model_type": "llama", "hidden_size": 64, "vocab_size": 256,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_hidden_layers": 2, "intermediate_size": 128}
    scalings = [
        {"type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "yarn", "factor": 4.0, "truncate": False,
         "original_max_position_embeddings": 32, "mscale": 1.0,
         "mscale_all_dim": 0.7},
        {"rope_type": "divisors", "divisors": [1.0] * 8},
    ]
    for scaling in scalings:
        yield json.dumps({**base, "rope_theta": 1e4,
                          "rope_scaling": scaling}).encode()
        yield json.dumps({**base, "rope_parameters": {
            "rope_theta": 5e5, **scaling}}).encode()
    yield json.dumps({**base, "use_sliding_window": True, "head_dim": None,
                      "sliding_window": 8, "max_window_layers": 1}).encode()
    yield json.dumps({**base, "hidden_act": "gelu", "layer_types": [
        "full_attention", "sliding_attention"]}).encode()


def recipe():
    """Recipe files, short and long, and a job file."""
    whole = {"method": {"id": "gptq", "params": {"damp": 0.01}},
             "transforms": ["quarot"], "activations": "bf16",
             "weights": {"format": "int4", "group_size": 128,
                         "symmetric": True, "scale_dtype": "float16"},
             "overrides": [{"pattern": "model.layers.0.*", "wq": "int8"},
                           {"pattern": "*.gate", "skip": True}],
             "calibration": {"dataset": "bundled", "num_samples": 8,
                             "sequence_length": 64, "seed": 1},
             "exports": ["gptq"], "evals": ["ppl"],
             "policy": {"on_numeric_failure": "rtn"}, "seed": 7}
    yield json.dumps(whole).encode()
    yield json.dumps({"priority": 3, "labels": {"run": "a"}, "quantize": {
        "model": "tiny", "recipe": whole}}).encode()
    yield b"method: rtn\nweights:\n  format: int4\n  group_size: -1\n"
    yield (b"method: &m {id: gptq, params: {a: 1, b: 0.5, c: \"1\", d: yes}}\n"
           b"exports: [gptq, *m]\noverrides:\n- pattern: '*'\n  skip: true\n")


def mixed():
    """Mixed-precision files in both spellings."""
    yield json.dumps({
        "default": {"wq": "int4", "aq": "bf16", "group_size": 128,
                    "extra": {"damp": 0.01}},
        "overrides": [{"pattern": "model.layers.0.*", "wq": "int6"},
                      {"pattern": "*.mlp.gate", "skip": True}]}).encode()
    yield b"default:\n  wq: int8\noverrides:\n- pattern: a?b\n  aq: fp8\n"


def filter_text():
    """Filters with every field and operator."""
    yield (b'state = RUNNING AND (method = gptq OR method = rtn) '
           b'AND NOT label.run = "x"')
    yield b"kind:evaluate -worker!=a name = b* (model=c OR NOT (name=d name=e))"


def page_token():
    """The token's length, a token, arguments."""
    yield bytes([4]) + b"abcdstate=RUNNING"
    yield bytes([32]) + b"A" * 32


def main():
    root = pathlib.Path(sys.argv[1])
    for maker in (safetensors, gguf, config, recipe, mixed, filter_text,
                  page_token):
        folder = root / maker.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(maker()):
            (folder / f"seed{number:02d}").write_bytes(seed)


if __name__ == "__main__":
    main()
