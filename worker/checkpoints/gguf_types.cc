// SPDX-License-Identifier: Apache-2.0
// Tensor types of GGUF, here those that are plain or in blocks of 32 with one
// scale. Blocks follow ggml-quants: two nibbles of a byte are values half a
// block apart, scales are float16.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>

#include "worker/checkpoints/gguf_header.h"
#include "worker/checkpoints/gguf_superblocks.h"

namespace quantd::checkpoints {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kHalfBlock = kBlock / 2;
constexpr int64_t kQ4_0Bytes = 2 + kHalfBlock;
constexpr int64_t kQ4_1Bytes = 4 + kHalfBlock;
constexpr int64_t kQ5_0Bytes = 2 + 4 + kHalfBlock;
constexpr int64_t kQ5_1Bytes = 4 + 4 + kHalfBlock;
constexpr int64_t kQ8_0Bytes = 2 + kBlock;

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
void Plain(const uint8_t* blocks, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(Load<T>(blocks + i * int64_t{sizeof(T)}));
  }
}

void Q4_0(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kQ4_0Bytes, values += kBlock) {
    const float scale = Load<c10::Half>(block);
    const uint8_t* codes = block + 2;
    for (int64_t j = 0; j < kHalfBlock; ++j) {
      values[j] = scale * static_cast<float>((codes[j] & 15) - 8);
      values[j + kHalfBlock] = scale * static_cast<float>((codes[j] >> 4) - 8);
    }
  }
}

void Q4_1(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kQ4_1Bytes, values += kBlock) {
    const float scale = Load<c10::Half>(block);
    const float minimum = Load<c10::Half>(block + 2);
    const uint8_t* codes = block + 4;
    for (int64_t j = 0; j < kHalfBlock; ++j) {
      values[j] = scale * static_cast<float>(codes[j] & 15) + minimum;
      values[j + kHalfBlock] =
          scale * static_cast<float>(codes[j] >> 4) + minimum;
    }
  }
}

// Codes of 5 bits: a word of their upper bits, then the nibbles.
float FiveBits(const uint8_t* codes, int64_t j) {
  const int upper = Load<uint32_t>(codes) >> j & 1;
  const int nibble = codes[4 + j % kHalfBlock] >> (j / kHalfBlock * 4) & 15;
  return static_cast<float>(upper << 4 | nibble);
}

void Q5_0(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kQ5_0Bytes, values += kBlock) {
    const float scale = Load<c10::Half>(block);
    for (int64_t j = 0; j < kBlock; ++j) {
      values[j] = scale * (FiveBits(block + 2, j) - 16);
    }
  }
}

void Q5_1(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kQ5_1Bytes, values += kBlock) {
    const float scale = Load<c10::Half>(block);
    const float minimum = Load<c10::Half>(block + 2);
    for (int64_t j = 0; j < kBlock; ++j) {
      values[j] = scale * FiveBits(block + 4, j) + minimum;
    }
  }
}

void Q8_0(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kQ8_0Bytes, values += kBlock) {
    const float scale = Load<c10::Half>(block);
    for (int64_t j = 0; j < kBlock; ++j) {
      values[j] = scale * static_cast<float>(static_cast<int8_t>(block[2 + j]));
    }
  }
}

// Sizes of the types that cannot be read are not needed: such a tensor is
// refused before its place is looked at.
constexpr GgufType kTypes[] = {
    {0, "F32", 1, 4, Plain<float>},
    {1, "F16", 1, 2, Plain<c10::Half>},
    {2, "Q4_0", kBlock, kQ4_0Bytes, Q4_0},
    {3, "Q4_1", kBlock, kQ4_1Bytes, Q4_1},
    {6, "Q5_0", kBlock, kQ5_0Bytes, Q5_0},
    {7, "Q5_1", kBlock, kQ5_1Bytes, Q5_1},
    {8, "Q8_0", kBlock, kQ8_0Bytes, Q8_0},
    {9, "Q8_1", 0, 0, nullptr},
    {15, "Q8_K", 0, 0, nullptr},
    {16, "IQ2_XXS", 0, 0, nullptr},
    {17, "IQ2_XS", 0, 0, nullptr},
    {18, "IQ3_XXS", 0, 0, nullptr},
    {19, "IQ1_S", 0, 0, nullptr},
    {21, "IQ3_S", 0, 0, nullptr},
    {22, "IQ2_S", 0, 0, nullptr},
    {24, "I8", 0, 0, nullptr},
    {25, "I16", 0, 0, nullptr},
    {26, "I32", 0, 0, nullptr},
    {27, "I64", 0, 0, nullptr},
    {28, "F64", 0, 0, nullptr},
    {29, "IQ1_M", 0, 0, nullptr},
    {30, "BF16", 1, 2, Plain<c10::BFloat16>},
    {40, "NVFP4", 0, 0, nullptr},
    {41, "Q1_0", 0, 0, nullptr},
    {42, "Q2_0", 0, 0, nullptr},
};

}  // namespace

const GgufType* FindGgufType(uint32_t id) {
  for (const GgufType& type : kTypes) {
    if (type.id == id) return &type;
  }
  for (const GgufType& type : SuperblockTypes()) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

}  // namespace quantd::checkpoints
