// SPDX-License-Identifier: Apache-2.0
// Checkpoints that other tools wrote, read by ours.
#include <ATen/ops/allclose.h>
#include <gtest/gtest.h>

#include "tests/support/test_data.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/exports/export.h"
#include "worker/exports/gptq_layout.h"

namespace quantd::exports {
namespace {

struct PeerCase {
  std::string folder;
  std::string golden;
  std::string logits;
};

std::string NameOf(const testing::TestParamInfo<PeerCase>& info) {
  return info.param.folder;
}

class GptqPeersTest : public testing::TestWithParam<PeerCase> {
 protected:
  std::string Path(const std::string& file = "") const {
    return support::TestData("fixtures/quantized/" + GetParam().folder + file);
  }
};

TEST_P(GptqPeersTest, WeightsAreThoseOfThePeersDecoder) {
  SKIP_WITHOUT_TEST_DATA();
  const auto reader = checkpoints::OpenCheckpoint(Path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto loader = MakeLoader(**reader);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const auto expected =
      checkpoints::ReadSafetensors(Path("/dequantized.safetensors"));
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_FALSE(expected->empty());
  for (const auto& [name, weight] : *expected) {
    const std::string module = name.substr(0, name.size() - 7);
    const auto linear =
        (*loader)->Load(module, weight.size(0), weight.size(1), false);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_TRUE((*linear)->DenseWeight().equal(weight)) << module;
  }
}

TEST_P(GptqPeersTest, LogitsAreThoseOfTheDequantizedModel) {
  SKIP_WITHOUT_TEST_DATA();
  const auto reader = checkpoints::OpenCheckpoint(Path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto loader = MakeLoader(**reader);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const auto model = models::MakeModel(**reader, **loader);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto golden = checkpoints::ReadSafetensors(Path(GetParam().golden));
  ASSERT_TRUE(golden.ok()) << golden.status();
  const at::Tensor ids = golden->at("input_ids").flatten();
  models::SequenceState state;
  state.residual = *(*model)->Embed(ids);
  for (int64_t i = 0; i < (*model)->num_blocks(); ++i) {
    const auto block = (*model)->LoadBlock(i, ids.size(0));
    ASSERT_TRUE(block.ok()) << block.status();
    (*block)->Forward(&state);
  }
  const at::Tensor logits =
      (*(*model)->LoadHead())->Apply(*(*model)->FinalNorm(state.residual));
  const at::Tensor& expected = golden->at(GetParam().logits);
  EXPECT_TRUE(at::allclose(logits, expected, 1e-4, 1e-4))
      << logits.sub(expected).abs().max().item<float>();
}

PeerCase GptqModel(const std::string& folder) {
  return {folder, "/golden.safetensors", "logits_dequant"};
}

PeerCase AutoRound(const std::string& folder) {
  return {folder, "/logits.safetensors", "logits_dequantized"};
}

INSTANTIATE_TEST_SUITE_P(
    Peers, GptqPeersTest,
    testing::Values(
        GptqModel("gptqmodel_w2g32_sym"), GptqModel("gptqmodel_w3g32_sym"),
        GptqModel("gptqmodel_w4g32_sym"), GptqModel("gptqmodel_w4g32_asym"),
        GptqModel("gptqmodel_w4g32_asym_v2"),
        GptqModel("gptqmodel_w4g32_sym_v2"),
        GptqModel("gptqmodel_w4g32_sym_desc_act"),
        GptqModel("gptqmodel_w4g64_partial"), GptqModel("gptqmodel_w4gm1_sym"),
        GptqModel("gptqmodel_w8g32_sym"), GptqModel("gptqmodel_dynamic"),
        GptqModel("gptqmodel_w5g32_planar"),
        AutoRound("ar_autogptq_w4g32_asym"), AutoRound("ar_autogptq_w4g32_sym"),
        AutoRound("ar_autogptq_w8g128_sym")),
    NameOf);

TEST(GptqPlanarTest, IsWrittenInTheWordsOfThePeer) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string folder =
      support::TestData("fixtures/quantized/gptqmodel_w5g32_planar");
  const auto reader = checkpoints::OpenCheckpoint(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto expected =
      checkpoints::ReadSafetensors(folder + "/dequantized.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_FALSE(expected->empty());
  for (const auto& [name, weight] : *expected) {
    const std::string module = name.substr(0, name.size() - 7);
    const auto linear =
        DecodeGptq(**reader, {module, weight.size(0), weight.size(1)},
                   GptqVersion::kPlanar);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_EQ(linear->format, "int5");
    const auto written = EncodeGptq(module, *linear, GptqVersion::kPlanar);
    ASSERT_TRUE(written.ok()) << written.status();
    for (const auto& [tensor, value] : *written) {
      EXPECT_TRUE(value.equal(*(*reader)->Read(tensor))) << tensor;
    }
  }
}

}  // namespace
}  // namespace quantd::exports
