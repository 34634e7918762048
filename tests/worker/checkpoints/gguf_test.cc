// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/worker/checkpoints/gguf_bytes.h"
#include "tests/worker/checkpoints/safetensors_bytes.h"
#include "worker/checkpoints/gguf_header.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::checkpoints {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenBytes(
    const support::TemporaryDirectory& folder, const std::string& bytes) {
  WriteBytes(folder.File("model.gguf"), bytes);
  return OpenCheckpoint(folder.File("model.gguf"));
}

std::string Reason(const std::string& bytes) {
  const support::TemporaryDirectory folder;
  return base::ErrorReason(OpenBytes(folder, bytes).status());
}

std::string Floats(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) bytes += Raw(value);
  return bytes;
}

class GgufBlockTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufBlockTest, ValuesAreThoseOfTheReferenceBitForBit) {
  SKIP_WITHOUT_TEST_DATA();
  const auto blocks =
      ReadSafetensors(support::TestData("fixtures/gguf/blocks.safetensors"));
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  const GgufType* type = nullptr;
  for (uint32_t id = 0; id < 64; ++id) {
    const GgufType* candidate = FindGgufType(id);
    if (candidate != nullptr &&
        candidate->name == absl::string_view(GetParam())) {
      type = candidate;
    }
  }
  ASSERT_NE(type, nullptr);
  for (const char* set : {"raw", "quant"}) {
    // The reference makes blocks of some types only.
    const auto found =
        blocks->find(absl::StrCat(GetParam(), ".", set, ".bytes"));
    if (found == blocks->end() && set[0] == 'q') continue;
    ASSERT_NE(found, blocks->end()) << set;
    const at::Tensor& bytes = found->second;
    const at::Tensor values =
        blocks->at(absl::StrCat(GetParam(), ".", set, ".f32"));
    std::vector<float> read(static_cast<size_t>(values.numel()));
    type->dequantize(bytes.const_data_ptr<uint8_t>(),
                     bytes.numel() / type->block_bytes, read.data());
    const float* expected = values.const_data_ptr<float>();
    int different = 0;
    for (size_t i = 0; i < read.size(); ++i) {
      const bool both_nan = std::isnan(read[i]) && std::isnan(expected[i]);
      different += !both_nan && read[i] != expected[i];
      different += std::signbit(read[i]) != std::signbit(expected[i]);
    }
    EXPECT_EQ(different, 0) << set;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlockTest,
                         ::testing::Values("Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                           "Q8_0", "Q2_K", "Q3_K", "Q4_K",
                                           "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
                                           "TQ1_0", "TQ2_0", "MXFP4", "BF16"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

TEST(GgufReaderTest, TranslatesNamesRowsAndConfig) {
  // Row r of the query projection is all r, in the converter's order: within a
  // head of four rows 0, 2, 1, 3.
  std::string q;
  for (const float row : {0.f, 2.f, 1.f, 3.f, 4.f, 6.f, 5.f, 7.f}) {
    q += Floats(std::vector<float>(8, row));
  }
  const support::TemporaryDirectory folder;
  const auto reader = OpenBytes(
      folder, LlamaMetadata()
                  .Text("tokenizer.ggml.model", "gpt2")
                  .Key("tokenizer.ggml.tokens", kGgufArray,
                       Raw(kGgufString) + Raw<uint64_t>(2) + RawString("a") +
                           RawString("\xc4\xa0"))
                  .Int("tokenizer.ggml.bos_token_id", 1)
                  .Tensor("token_embd.weight", {8, 3}, 0,
                          Floats(std::vector<float>(24, 1)))
                  .Tensor("blk.0.attn_q.weight", {8, 8}, 0, q)
                  .Tensor("blk.0.attn_v.weight", {8, 4}, 1,
                          std::string("\x00\x3c", 2) + std::string(62, '\0'))
                  .Tensor("something.else", {1}, 0, Floats({1}))
                  .Build());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto& tensors = (*reader)->tensors();
  EXPECT_THAT(tensors.at("model.embed_tokens.weight").shape, ElementsAre(3, 8));
  EXPECT_EQ(tensors.at("model.layers.0.self_attn.v_proj.weight").dtype, "F16");
  EXPECT_TRUE(tensors.contains("something.else"));
  const auto rows = (*reader)->Read("model.layers.0.self_attn.q_proj.weight");
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (int64_t r = 0; r < 8; ++r) {
    EXPECT_EQ((*rows)[r][0].item<float>(), static_cast<float>(r));
  }
  const auto half = (*reader)->Read("model.layers.0.self_attn.v_proj.weight");
  EXPECT_EQ(half->scalar_type(), at::kHalf);
  EXPECT_EQ((*half)[0][0].item<float>(), 1.0f);
  const nlohmann::json& config = (*reader)->config();
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["hidden_size"], 8);
  EXPECT_EQ(config["num_key_value_heads"], 1);
  EXPECT_EQ(config["vocab_size"], 3);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["attention_bias"], false);
  EXPECT_EQ(config["bos_token_id"], 1);
  EXPECT_EQ((*reader)->metadata()["tokenizer.ggml.tokens"][1], "\xc4\xa0");
  EXPECT_EQ((*reader)->Digest()->size(), 64u);
}

TEST(GgufReaderTest, BlocksAreReadAsFloat16AndWideOnesAsFloat32) {
  // Q8_0: a float16 scale, then 32 signed bytes.
  const auto block = [](uint16_t scale, int8_t first, int8_t second) {
    return Raw(scale) + Raw(first) + Raw(second) + std::string(30, '\0');
  };
  constexpr uint16_t kOneAndALittle = 0x3c01;  // 1 + 2^-10
  constexpr uint16_t kLargestHalf = 0x7bff;    // 65504
  const support::TemporaryDirectory folder;
  const auto reader = OpenBytes(
      folder,
      LlamaMetadata()
          .Tensor("plain", {32, 2}, 8,
                  block(kOneAndALittle, 127, 3) + block(kLargestHalf, 1, -1))
          .Tensor("wide", {32, 1}, 8, block(kLargestHalf, 2, 1))
          .Tensor("full", {1}, 0, Floats({1.0f / 3}))
          .Build());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto plain = (*reader)->Read("plain");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->scalar_type(), at::kHalf);
  // 127.1240234375 between multiples of 2^-4; 3.0029296875 is halfway between
  // multiples of 2^-9, the even one of which is above.
  EXPECT_EQ((*plain)[0][0].item<float>(), 127.125f);
  EXPECT_EQ((*plain)[0][1].item<float>(), 3.00390625f);
  EXPECT_EQ((*plain)[1][0].item<float>(), 65504.0f);
  EXPECT_EQ((*plain)[1][1].item<float>(), -65504.0f);
  const auto wide = (*reader)->Read("wide");
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_EQ(wide->scalar_type(), at::kFloat);
  EXPECT_EQ((*wide)[0][0].item<float>(), 131008.0f);
  EXPECT_EQ((*reader)->Read("full")->item<float>(), 1.0f / 3);
  EXPECT_EQ((*(*reader)->ReadFloat("plain"))[0][0].item<float>(), 127.125f);
}

TEST(GgufReaderTest, ReadsVersionTwoAndFilesWithoutPaddingAtTheEnd) {
  const auto builder =
      LlamaMetadata().Tensor("output_norm.weight", {3}, 0, Floats({1, 2, 3}));
  EXPECT_EQ(Reason(builder.Build(2)), "");
  std::string unpadded = builder.Build();
  unpadded.resize(unpadded.size() - 20);
  EXPECT_EQ(Reason(unpadded), "");
}

TEST(GgufReaderTest, RecognizesTheRopeOfLlama3AndKeepsOtherDivisors) {
  const auto rope = [](const std::vector<float>& divisors) {
    const support::TemporaryDirectory folder;
    const auto reader =
        OpenBytes(folder, LlamaMetadata()
                              .Float("llama.rope.freq_base", 500000.0f)
                              .Tensor("rope_freqs.weight",
                                      {static_cast<int64_t>(divisors.size())},
                                      0, Floats(divisors))
                              .Build());
    EXPECT_TRUE(reader.ok()) << reader.status();
    return (*reader)->config()["rope_scaling"];
  };
  // The rule of the published models, for 8 frequencies: those with a
  // wavelength below 8192 / 4 are kept, those beyond 8192 divided by 8.
  std::vector<float> published;
  for (int i = 0; i < 8; ++i) {
    const double length = 2 * M_PI * std::pow(500000.0, i / 8.0);
    if (length < 2048) {
      published.push_back(1);
    } else if (length > 8192) {
      published.push_back(8);
    } else {
      const double s = (8192 / length - 1) / 3;
      published.push_back(static_cast<float>(1 / ((1 - s) / 8 + s)));
    }
  }
  const auto llama3 = rope(published);
  EXPECT_EQ(llama3["rope_type"], "llama3");
  EXPECT_EQ(llama3["factor"], 8.0);
  EXPECT_EQ(llama3["original_max_position_embeddings"], 8192);
  const auto other = rope({1.0f, 2.5f, 3.0f, 4.0f});
  EXPECT_EQ(other["rope_type"], "divisors");
  EXPECT_EQ(other["divisors"].size(), 4u);
}

TEST(MalformedGgufTest, EveryTruncationIsRefused) {
  const std::string sound = LlamaMetadata()
                                .Tensor("output_norm.weight", {8}, 0,
                                        Floats({1, 2, 3, 4, 5, 6, 7, 8}))
                                .Build();
  ASSERT_EQ(Reason(sound), "");
  for (size_t length = 0; length < sound.size(); length += 3) {
    const support::TemporaryDirectory folder;
    const absl::Status status =
        OpenBytes(folder, sound.substr(0, length)).status();
    EXPECT_EQ(base::ErrorReason(status), "GGUF_TRUNCATED") << length;
  }
}

TEST(MalformedGgufTest, EachRuleHasItsReason) {
  const std::string data = Floats({1, 2, 3, 4, 5, 6, 7, 8});
  const auto tensor = [&](const std::vector<int64_t>& dims, uint32_t type,
                          uint64_t shift = 0) {
    return Reason(LlamaMetadata().Tensor("t", dims, type, data, shift).Build());
  };
  EXPECT_EQ(tensor({8}, 0), "");
  EXPECT_EQ(Reason("GGUX" + std::string(100, '\0')), "GGUF_MAGIC");
  EXPECT_EQ(Reason(LlamaMetadata().Build(1)), "GGUF_VERSION");
  EXPECT_EQ(Reason(LlamaMetadata().Build(4)), "GGUF_VERSION");
  EXPECT_EQ(Reason(LlamaMetadata().Build(0x03000000)), "GGUF_VERSION");
  EXPECT_EQ(Reason("GGUF" + Raw(3u) + Raw<uint64_t>(1) + Raw(~uint64_t{0})),
            "GGUF_COUNT");
  EXPECT_EQ(
      Reason("GGUF" + Raw(3u) + Raw(uint64_t{1} << 40) + Raw<uint64_t>(0)),
      "GGUF_COUNT");
  EXPECT_EQ(Reason(LlamaMetadata().Int("", 1).Build()), "GGUF_KEY");
  EXPECT_EQ(Reason(LlamaMetadata().Int("a", 1).Int("a", 1).Build()),
            "DUPLICATE_KEY");
  EXPECT_EQ(Reason(LlamaMetadata().Key("a", 13, "").Build()),
            "GGUF_VALUE_TYPE");
  EXPECT_EQ(Reason(LlamaMetadata()
                       .Key("a", kGgufArray,
                            Raw(kGgufArray) + Raw<uint64_t>(1) +
                                Raw(kGgufUint32) + Raw<uint64_t>(0))
                       .Build()),
            "GGUF_VALUE_TYPE");
  EXPECT_EQ(Reason(LlamaMetadata()
                       .Key("a", kGgufArray,
                            Raw(kGgufUint32) + Raw(uint64_t{1} << 61))
                       .Build()),
            "GGUF_TRUNCATED");
  EXPECT_EQ(
      Reason(LlamaMetadata().Key("a", kGgufString, Raw(~uint64_t{0})).Build()),
      "GGUF_TRUNCATED");
  EXPECT_EQ(Reason(LlamaMetadata().Text("a", "\xff").Build()), "GGUF_UTF8");
  EXPECT_EQ(
      Reason(
          LlamaMetadata().Tensor(std::string(257, 'n'), {8}, 0, data).Build()),
      "GGUF_STRING_TOO_LONG");
  EXPECT_EQ(Reason(LlamaMetadata().Int("general.alignment", 24).Build()),
            "GGUF_ALIGNMENT");
  EXPECT_EQ(Reason(LlamaMetadata().Int("general.alignment", 0).Build()),
            "GGUF_ALIGNMENT");
  EXPECT_EQ(Reason(LlamaMetadata().Float("general.alignment", 32).Build()),
            "GGUF_ALIGNMENT");
  EXPECT_EQ(tensor({}, 0), "GGUF_SHAPE");
  EXPECT_EQ(tensor({1, 1, 1, 1, 8}, 0), "GGUF_SHAPE");
  EXPECT_EQ(tensor({0}, 0), "GGUF_SHAPE");
  EXPECT_EQ(tensor({-8}, 0), "GGUF_SHAPE");
  EXPECT_EQ(tensor({8}, 2), "GGUF_SHAPE");
  EXPECT_EQ(tensor({int64_t{1} << 62, 8}, 0), "SIZE_OVERFLOW");
  EXPECT_EQ(tensor({1 << 20}, 0), "GGUF_TRUNCATED");
  EXPECT_EQ(tensor({8}, 99), "GGUF_TYPE_UNKNOWN");
  EXPECT_EQ(tensor({8}, 0, 32), "GGUF_OFFSET");
  EXPECT_EQ(Reason(LlamaMetadata()
                       .Tensor("t", {8}, 0, data)
                       .Tensor("t", {8}, 0, data)
                       .Build()),
            "DUPLICATE_KEY");
  EXPECT_EQ(Reason(LlamaMetadata().Tensor("t", {8}, 0, data).Build() + "x"),
            "TRAILING_BYTES");
}

TEST(MalformedGgufTest, TypesThatAreNotReadAreNamed) {
  const support::TemporaryDirectory folder;
  const absl::Status status =
      OpenBytes(folder, LlamaMetadata()
                            .Tensor("blk.0.ffn_up.weight", {256}, 16,
                                    std::string(66, '\0'))
                            .Build())
          .status();
  EXPECT_EQ(base::ErrorReason(status), "GGUF_TYPE_UNSUPPORTED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("IQ2_XXS"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("blk.0.ffn_up"));
}

TEST(MalformedGgufTest, MetadataMustDescribeAModelThatIsKnown) {
  GgufBuilder gemma;
  gemma.Text("general.architecture", "gemma9");
  EXPECT_EQ(Reason(gemma.Build()), "GGUF_ARCHITECTURE");
  EXPECT_EQ(Reason(GgufBuilder().Build()), "GGUF_ARCHITECTURE");
  EXPECT_EQ(Reason(GgufBuilder().Int("general.architecture", 3).Build()),
            "GGUF_ARCHITECTURE");
  EXPECT_EQ(Reason(LlamaMetadata().Int("llama.expert_count", 8).Build()),
            "GGUF_ARCHITECTURE");
  GgufBuilder bare;
  bare.Text("general.architecture", "llama");
  EXPECT_EQ(Reason(bare.Build()), "GGUF_METADATA");
  EXPECT_EQ(Reason(LlamaMetadata().Int("split.count", 3).Build()),
            "GGUF_SPLIT");
  EXPECT_EQ(Reason(LlamaMetadata()
                       .Tensor("blk.0.attn_q.weight", {8, 6}, 0,
                               Floats(std::vector<float>(48, 0)))
                       .Build()),
            "GGUF_SHAPE");
}

}  // namespace
}  // namespace quantd::checkpoints
