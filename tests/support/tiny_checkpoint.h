// SPDX-License-Identifier: Apache-2.0
// A small random llama checkpoint for tests that need some model, not a
// particular one. Writes the files by itself, without LibTorch.
#pragma once

#include <cstdint>
#include <string>

namespace quantd::support {

struct TinyLlama {
  int64_t hidden = 64;
  int64_t intermediate = 128;
  int64_t layers = 2;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  // From 256 on the directory also gets a tokenizer.json: bytes are tokens.
  int64_t vocab = 256;
  int64_t context = 512;
  uint64_t seed = 1;
  // Leaves lm_head.weight out.
  bool tied = false;
};

// Writes config.json, model.safetensors (float32) and, see above,
// tokenizer.json into `directory`, which is made where it does not exist. The
// same `model` gives the same bytes. Aborts where a file cannot be written.
void WriteTinyLlama(const TinyLlama& model, const std::string& directory);

}  // namespace quantd::support
