// SPDX-License-Identifier: Apache-2.0
// Layouts follow ggml-common.h, values ggml-quants.c: in float32, the scale of
// a part first, then its product with the code, then the minimum.
// docs/formats/gguf.md has them in words.
#include "worker/checkpoints/gguf_superblocks.h"

#include <c10/util/Half.h>

#include <bit>
#include <cstring>

namespace quantd::checkpoints {
namespace {

constexpr int64_t kValues = 256;
constexpr int64_t kSmallBlock = 32;

float Half(const uint8_t* from) {
  c10::Half value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Values are scale * code - minimum.
struct Part {
  float scale = 0;
  float minimum = 0;
};

// One block of `values` values in parts of `part` values.
template <typename PartOf, typename CodeAt>
void Decode(int64_t values, int64_t part, const PartOf& part_of,
            const CodeAt& code_at, float* out) {
  for (int64_t p = 0; p < values / part; ++p) {
    const Part grid = part_of(p);
    for (int64_t v = p * part; v < (p + 1) * part; ++v) {
      out[v] = grid.scale * static_cast<float>(code_at(v)) - grid.minimum;
    }
  }
}

// Two bits of value v: four layers of 32 values in 32 bytes, twice.
int TwoBits(const uint8_t* bytes, int64_t v) {
  return bytes[v / 128 * 32 + v % 32] >> (v % 128 / 32 * 2) & 3;
}

// A nibble of value v: two layers of `layer` values in as many bytes.
int Nibble(const uint8_t* bytes, int64_t layer, int64_t v) {
  return bytes[v / (2 * layer) * layer + v % layer] >> (v / layer % 2 * 4) & 15;
}

// One bit of value v: eight layers of 32 values in 32 bytes.
int Bit(const uint8_t* bytes, int64_t v) {
  return bytes[v % 32] >> (v / 32) & 1;
}

void Q2K(const uint8_t* block, float* out) {
  const float scale = Half(block + 80);
  const float minimum = Half(block + 82);
  Decode(
      kValues, 16,
      [&](int64_t p) {
        return Part{scale * static_cast<float>(block[p] & 15),
                    minimum * static_cast<float>(block[p] >> 4)};
      },
      [&](int64_t v) { return TwoBits(block + 16, v); }, out);
}

void Q3K(const uint8_t* block, float* out) {
  const float scale = Half(block + 108);
  const uint8_t* scales = block + 96;
  Decode(
      kValues, 16,
      [&](int64_t p) {
        const int low = scales[p % 8] >> (p / 8 * 4) & 15;
        const int high = scales[8 + p % 4] >> (p / 4 * 2) & 3;
        return Part{scale * static_cast<float>((low | high << 4) - 32)};
      },
      [&](int64_t v) {
        return TwoBits(block + 32, v) - (Bit(block, v) == 0 ? 4 : 0);
      },
      out);
}

// Scale and minimum of eight parts, 6 bits each in 12 bytes.
Part SixBitPart(const uint8_t* block, int64_t p) {
  const uint8_t* packed = block + 4;
  int scale = packed[p % 4] & 63;
  int minimum = packed[4 + p % 4] & 63;
  if (p >= 4) {
    scale = (packed[4 + p] & 15) | (packed[p - 4] >> 6 << 4);
    minimum = packed[4 + p] >> 4 | (packed[p] >> 6 << 4);
  }
  return {Half(block) * static_cast<float>(scale),
          Half(block + 2) * static_cast<float>(minimum)};
}

void Q4K(const uint8_t* block, float* out) {
  Decode(
      kValues, 32, [&](int64_t p) { return SixBitPart(block, p); },
      [&](int64_t v) { return Nibble(block + 16, 32, v); }, out);
}

void Q5K(const uint8_t* block, float* out) {
  Decode(
      kValues, 32, [&](int64_t p) { return SixBitPart(block, p); },
      [&](int64_t v) {
        return Nibble(block + 48, 32, v) | Bit(block + 16, v) << 4;
      },
      out);
}

void Q6K(const uint8_t* block, float* out) {
  const float scale = Half(block + 208);
  Decode(
      kValues, 16,
      [&](int64_t p) {
        return Part{scale *
                    static_cast<float>(static_cast<int8_t>(block[192 + p]))};
      },
      [&](int64_t v) {
        return (Nibble(block, 64, v) | TwoBits(block + 128, v) << 4) - 32;
      },
      out);
}

// Five values a byte: the leading digits to base 3 of byte / 256.
int Trit(const uint8_t* block, int64_t v) {
  constexpr uint8_t kPowers[] = {1, 3, 9, 27, 81};
  int64_t first = 0;
  int64_t layer = 32;
  if (v >= 240) {
    first = 48;
    layer = 4;
    v -= 240;
  } else if (v >= 160) {
    first = 32;
    layer = 16;
    v -= 160;
  }
  const uint8_t shifted =
      static_cast<uint8_t>(block[first + v % layer] * kPowers[v / layer]);
  return shifted * 3 >> 8;
}

void Tq1(const uint8_t* block, float* out) {
  Decode(
      kValues, kValues, [&](int64_t) { return Part{Half(block + 52)}; },
      [&](int64_t v) { return Trit(block, v) - 1; }, out);
}

void Tq2(const uint8_t* block, float* out) {
  Decode(
      kValues, kValues, [&](int64_t) { return Part{Half(block + 64)}; },
      [&](int64_t v) { return TwoBits(block, v) - 1; }, out);
}

constexpr int8_t kNonLinear[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

void Iq4Nl(const uint8_t* block, float* out) {
  Decode(
      kSmallBlock, kSmallBlock, [&](int64_t) { return Part{Half(block)}; },
      [&](int64_t v) { return kNonLinear[Nibble(block + 2, 16, v)]; }, out);
}

void Iq4Xs(const uint8_t* block, float* out) {
  const float scale = Half(block);
  Decode(
      kValues, 32,
      [&](int64_t p) {
        const int low = block[4 + p / 2] >> (p % 2 * 4) & 15;
        const int high = block[2 + p / 4] >> (p % 4 * 2) & 3;
        return Part{scale * static_cast<float>((low | high << 4) - 32)};
      },
      [&](int64_t v) { return kNonLinear[Nibble(block + 8, 16, v)]; }, out);
}

// Twice the levels of E2M1, so that 2^(e - 128) is their scale, as a float's
// bits: the two least are subnormal.
void Mxfp4(const uint8_t* block, float* out) {
  constexpr int8_t kDoubled[] = {0, 1,  2,  3,  4,  6,  8,  12,
                                 0, -1, -2, -3, -4, -6, -8, -12};
  const uint32_t e = block[0];
  const float scale =
      std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  Decode(
      kSmallBlock, kSmallBlock, [&](int64_t) { return Part{scale}; },
      [&](int64_t v) { return kDoubled[Nibble(block + 1, 16, v)]; }, out);
}

template <void (*kDecode)(const uint8_t*, float*), int64_t kBlockBytes,
          int64_t kBlockValues>
void Each(const uint8_t* block, int64_t count, float* values) {
  for (; count > 0; --count, block += kBlockBytes, values += kBlockValues) {
    kDecode(block, values);
  }
}

template <void (*kDecode)(const uint8_t*, float*), int64_t kBlockBytes,
          int64_t kBlockValues = kValues>
constexpr GgufType Row(uint32_t id, const char* name) {
  return {id, name, kBlockValues, kBlockBytes,
          Each<kDecode, kBlockBytes, kBlockValues>};
}

constexpr GgufType kTypes[] = {
    Row<Q2K, 84>(10, "Q2_K"),      Row<Q3K, 110>(11, "Q3_K"),
    Row<Q4K, 144>(12, "Q4_K"),     Row<Q5K, 176>(13, "Q5_K"),
    Row<Q6K, 210>(14, "Q6_K"),     Row<Iq4Nl, 18, kSmallBlock>(20, "IQ4_NL"),
    Row<Iq4Xs, 136>(23, "IQ4_XS"), Row<Tq1, 54>(34, "TQ1_0"),
    Row<Tq2, 66>(35, "TQ2_0"),     Row<Mxfp4, 17, kSmallBlock>(39, "MXFP4"),
};

}  // namespace

absl::Span<const GgufType> SuperblockTypes() { return kTypes; }

}  // namespace quantd::checkpoints
