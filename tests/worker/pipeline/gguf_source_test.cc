// SPDX-License-Identifier: Apache-2.0
// A whole job on a block-quantized GGUF file: what stays in floating point
// takes two bytes a value, and the exported files are the model that was
// computed.
#include <gtest/gtest.h>

#include <random>

#include "proto/base/atomic_file.h"
#include "tests/worker/checkpoints/gguf_bytes.h"
#include "tests/worker/pipeline/local_agent.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::pipeline {
namespace {

using checkpoints::GgufBuilder;
using checkpoints::Raw;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ8_0 = 8;
constexpr int64_t kWidth = 64;
constexpr int64_t kVocabulary = 96;

// Q8_0 blocks of random bytes whose values have a standard deviation of about
// 0.1.
std::string RandomBlocks(int64_t values, std::mt19937* random) {
  std::string bytes;
  for (int64_t block = 0; block < values / 32; ++block) {
    bytes += Raw<uint16_t>(0x1400 + (*random)() % 0x100);
    for (int i = 0; i < 32; ++i) {
      bytes.push_back(static_cast<char>((*random)() & 0xff));
    }
  }
  return bytes;
}

std::string Ones(int64_t count) {
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) bytes += Raw(1.0f);
  return bytes;
}

std::string BlockLlama() {
  std::mt19937 random(5);
  GgufBuilder builder;
  builder.Text("general.architecture", "llama")
      .Int("llama.context_length", 128)
      .Int("llama.embedding_length", kWidth)
      .Int("llama.block_count", 1)
      .Int("llama.feed_forward_length", kWidth)
      .Int("llama.attention.head_count", 2)
      .Int("llama.attention.head_count_kv", 2)
      .Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  const auto matrix = [&](const std::string& name, int64_t rows) {
    builder.Tensor(name, {kWidth, rows}, kQ8_0,
                   RandomBlocks(kWidth * rows, &random));
  };
  const auto norm = [&](const std::string& name) {
    builder.Tensor(name, {kWidth}, kF32, Ones(kWidth));
  };
  matrix("token_embd.weight", kVocabulary);
  matrix("output.weight", kVocabulary);
  norm("output_norm.weight");
  norm("blk.0.attn_norm.weight");
  norm("blk.0.ffn_norm.weight");
  for (const char* module : {"attn_q", "attn_k", "attn_v", "attn_output",
                             "ffn_gate", "ffn_up", "ffn_down"}) {
    matrix(absl::StrCat("blk.0.", module, ".weight"), kWidth);
  }
  return builder.Build();
}

TEST(GgufSourceTest, FloatTensorsOfTheArtifactTakeTwoBytesAValue) {
  const support::TemporaryDirectory folder;
  const std::string model = folder.File("model.gguf");
  ASSERT_TRUE(base::WriteFileAtomically(model, BlockLlama()).ok());
  v1::JobSpec spec;
  spec.mutable_quantize()->set_model(model);
  v1::Recipe& recipe = *spec.mutable_quantize()->mutable_recipe();
  recipe.mutable_method()->set_id("rtn");
  recipe.mutable_weights()->set_format("int4");
  recipe.mutable_weights()->set_group_size(32);
  recipe.mutable_weights()->set_symmetric(true);
  recipe.add_exports()->set_id("gptq");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
  const int step = agent.StepOfKind("export");
  const auto written = checkpoints::ReadSafetensors(
      agent.BlobFile(step, "file:model.safetensors"));
  ASSERT_TRUE(written.ok()) << written.status();
  const auto source = checkpoints::OpenCheckpoint(model);
  ASSERT_TRUE(source.ok()) << source.status();
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const at::Tensor& tensor = written->at(name);
    EXPECT_EQ(tensor.scalar_type(), at::kHalf) << name;
    EXPECT_TRUE(tensor.equal(*(*source)->Read(name))) << name;
  }
  EXPECT_EQ(written->at("model.norm.weight").scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace quantd::pipeline
