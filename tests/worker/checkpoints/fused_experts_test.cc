// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/fused_experts.h"

#include <ATen/ops/arange.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::checkpoints {
namespace {

constexpr char kLayer[] = "model.layers.3.mlp.";

at::Tensor Numbers(std::vector<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return at::arange(count).to(at::kHalf).view(shape);
}

// 3 experts of width 2 below a hidden size of 4.
TensorMap FusedTensors() {
  const std::string layer = kLayer;
  return {{layer + "experts.gate_up_proj", Numbers({3, 4, 4})},
          {layer + "experts.down_proj", Numbers({3, 4, 2})},
          {layer + "gate.weight", Numbers({3, 4})},
          {"model.norm.weight", Numbers({4})}};
}

class FusedExpertsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(
      const TensorMap& tensors, const std::string& model_type) {
    const nlohmann::json config = {{"model_type", model_type}};
    EXPECT_TRUE(
        base::WriteFileAtomically(folder_.File("config.json"), config.dump())
            .ok());
    EXPECT_TRUE(
        WriteSafetensors(folder_.File("model.safetensors"), tensors).ok());
    return OpenCheckpoint(folder_.path());
  }
  const support::TemporaryDirectory folder_;
};

std::vector<std::string> Names(const CheckpointReader& reader) {
  std::vector<std::string> names;
  for (const auto& [name, info] : reader.tensors()) names.push_back(name);
  return names;
}

TEST_F(FusedExpertsTest, EachExpertHasItsOwnTensors) {
  const TensorMap tensors = FusedTensors();
  const auto reader = Open(tensors, "qwen3_moe");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), 3u * 3 + 2);
  const std::string layer = kLayer;
  const at::Tensor gate_up = tensors.at(layer + "experts.gate_up_proj");
  const at::Tensor down = tensors.at(layer + "experts.down_proj");
  for (int64_t e = 0; e < 3; ++e) {
    const std::string expert = layer + "experts." + std::to_string(e) + ".";
    const auto read = [&](const char* name) {
      const std::string full = expert + name + ".weight";
      const at::Tensor tensor = *(*reader)->Read(full);
      const TensorInfo& info = (*reader)->tensors().at(full);
      EXPECT_EQ(tensor.sizes().vec(), info.shape);
      EXPECT_EQ(static_cast<int64_t>(tensor.nbytes()), info.size_bytes);
      EXPECT_EQ(info.dtype, "F16");
      EXPECT_EQ(tensor.storage().nbytes(), tensor.nbytes());
      return tensor;
    };
    // The gate's rows come before the up projection's.
    EXPECT_TRUE(read("gate_proj").equal(gate_up[e].slice(0, 0, 2)));
    EXPECT_TRUE(read("up_proj").equal(gate_up[e].slice(0, 2, 4)));
    EXPECT_TRUE(read("down_proj").equal(down[e]));
  }
  EXPECT_TRUE((*reader)
                  ->Read(layer + "gate.weight")
                  ->equal(tensors.at(layer + "gate.weight")));
}

TEST_F(FusedExpertsTest, NamesAreThoseOfTheFamily) {
  const TensorMap tensors = FusedTensors();
  const auto reader = Open(tensors, "mixtral");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT(Names(**reader),
              testing::IsSupersetOf(
                  {"model.layers.3.block_sparse_moe.experts.2.w1.weight",
                   "model.layers.3.block_sparse_moe.experts.2.w2.weight",
                   "model.layers.3.block_sparse_moe.experts.2.w3.weight",
                   "model.layers.3.block_sparse_moe.gate.weight"}));
  const std::string layer = kLayer;
  EXPECT_TRUE(
      (*reader)
          ->Read("model.layers.3.block_sparse_moe.experts.1.w3.weight")
          ->equal(tensors.at(layer + "experts.gate_up_proj")[1].slice(0, 2)));
  EXPECT_TRUE((*reader)
                  ->Read("model.layers.3.block_sparse_moe.gate.weight")
                  ->equal(tensors.at(layer + "gate.weight")));
}

TEST_F(FusedExpertsTest, OtherModelsAreLeftAlone) {
  const auto reader = Open(FusedTensors(), "somebody_elses_moe");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), FusedTensors().size());
}

TEST_F(FusedExpertsTest, ShapesThatDoNotFitAreRefused) {
  const std::string layer = kLayer;
  const std::pair<std::vector<int64_t>, std::vector<int64_t>> bad[] = {
      {{3, 4, 4}, {2, 4, 2}},   // Other numbers of experts.
      {{3, 4, 4}, {3, 2, 4}},   // Transposed.
      {{3, 6, 4}, {3, 4, 2}},   // Another width.
      {{12, 4}, {3, 4, 2}},     // Not one matrix per expert.
      {{3, 0, 4}, {3, 4, 0}}};  // No width.
  for (const auto& [gate_up, down] : bad) {
    TensorMap tensors = FusedTensors();
    tensors[layer + "experts.gate_up_proj"] = Numbers(gate_up);
    tensors[layer + "experts.down_proj"] = Numbers(down);
    EXPECT_EQ(base::ErrorReason(Open(tensors, "olmoe").status()),
              "EXPERTS_LAYOUT");
  }
  TensorMap tensors = FusedTensors();
  tensors.erase(layer + "experts.down_proj");
  EXPECT_EQ(base::ErrorReason(Open(tensors, "olmoe").status()),
            "TENSOR_MISSING");
}

}  // namespace
}  // namespace quantd::checkpoints
