# SPDX-License-Identifier: Apache-2.0
"""Trains the bundled tiny llama and writes it as a Hugging Face checkpoint.

Needs the Python packages torch, tokenizers, safetensors and numpy. Takes about
five minutes on two cores:

    python3 train.py --output .

Writes config.json, tokenizer.json, model.safetensors (bfloat16) and prints the
held-out perplexity beside that of a uniform guess.
"""

import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import make_corpus

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "vocab_size": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}
END = "<|end|>"


def make_tokenizer(texts):
    """Byte-level BPE; the end mark is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rms_norm(x, weight):
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
    return weight * (x * scale)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


class Llama(torch.nn.Module):
    """The llama forward pass over a dictionary of Hugging Face tensor names."""

    def __init__(self):
        super().__init__()
        c = CONFIG
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        kv = c["num_key_value_heads"] * c["head_dim"]
        shapes = {"model.embed_tokens": (c["vocab_size"], hidden),
                  "lm_head": (c["vocab_size"], hidden)}
        for i in range(c["num_hidden_layers"]):
            block = f"model.layers.{i}."
            shapes[block + "self_attn.q_proj"] = (hidden, hidden)
            shapes[block + "self_attn.k_proj"] = (kv, hidden)
            shapes[block + "self_attn.v_proj"] = (kv, hidden)
            shapes[block + "self_attn.o_proj"] = (hidden, hidden)
            shapes[block + "mlp.gate_proj"] = (inner, hidden)
            shapes[block + "mlp.up_proj"] = (inner, hidden)
            shapes[block + "mlp.down_proj"] = (hidden, inner)
        weights = {name: torch.randn(s) / math.sqrt(s[1])
                   for name, s in shapes.items()}
        for i in range(c["num_hidden_layers"]):
            weights[f"model.layers.{i}.input_layernorm"] = torch.ones(hidden)
            weights[f"model.layers.{i}.post_attention_layernorm"] = (
                torch.ones(hidden))
        weights["model.norm"] = torch.ones(hidden)
        self.names = sorted(weights)
        self.weights = torch.nn.ParameterList(
            [torch.nn.Parameter(weights[n]) for n in self.names])

    def tensors(self):
        return dict(zip(self.names, self.weights))

    def forward(self, ids):
        c, w = CONFIG, self.tensors()
        heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
        width = c["head_dim"]
        batch, length = ids.shape
        steps = torch.arange(0, width, 2).float() / width
        angles = torch.outer(torch.arange(length).float(),
                             c["rope_theta"] ** -steps)
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos(), angles.sin()
        linear = torch.nn.functional.linear
        x = w["model.embed_tokens"][ids]
        for i in range(c["num_hidden_layers"]):
            b = f"model.layers.{i}."
            y = rms_norm(x, w[b + "input_layernorm"])

            def split(name, n):
                part = linear(y, w[b + "self_attn." + name])
                return part.view(batch, length, n, width).transpose(1, 2)
            q = rotate(split("q_proj", heads), cos, sin)
            k = rotate(split("k_proj", groups), cos, sin)
            v = split("v_proj", groups)
            k = k.repeat_interleave(heads // groups, dim=1)
            v = v.repeat_interleave(heads // groups, dim=1)
            y = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True)
            y = y.transpose(1, 2).reshape(batch, length, heads * width)
            x = x + linear(y, w[b + "self_attn.o_proj"])
            y = rms_norm(x, w[b + "post_attention_layernorm"])
            y = (torch.nn.functional.silu(linear(y, w[b + "mlp.gate_proj"]))
                 * linear(y, w[b + "mlp.up_proj"]))
            x = x + linear(y, w[b + "mlp.down_proj"])
        return linear(rms_norm(x, w["model.norm"]), w["lm_head"])


def loss_of(model, ids):
    logits = model(ids[:, :-1])
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    args = parser.parse_args()
    torch.manual_seed(1)
    texts = make_corpus.documents(seed=1, count=8000)
    tokenizer = make_tokenizer(texts)

    def tokens(documents):
        # As the committed text files join them, so that a window of those is
        # what the model has seen.
        return tokenizer.encode("\n\n".join(documents) + "\n").ids
    stream = torch.tensor(tokens(texts))
    model = Llama()
    print(f"{len(stream)} training tokens, "
          f"{sum(p.numel() for p in model.parameters())} weights", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3,
                                  betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=args.steps, pct_start=0.05)
    batch, length = 8, 160
    for step in range(args.steps):
        starts = torch.randint(0, len(stream) - length - 1, (batch,))
        ids = torch.stack([stream[s:s + length + 1] for s in starts.tolist()])
        loss = loss_of(model, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)

    held = tokens(make_corpus.documents(seed=3, count=220))
    windows = torch.tensor(held[:len(held) // 256 * 256]).view(-1, 256)
    with torch.no_grad():
        perplexity = math.exp(loss_of(model, windows).item())
    print(f"held-out perplexity {perplexity:.3f} over {windows.numel()} tokens; "
          f"a uniform guess has {CONFIG['vocab_size']}")
    tensors = {name + ".weight": tensor.detach().to(torch.bfloat16).contiguous()
               for name, tensor in model.tensors().items()}
    save_file(tensors, str(args.output / "model.safetensors"),
              metadata={"format": "pt"})
    tokenizer.save(str(args.output / "tokenizer.json"))
    (args.output / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main()
