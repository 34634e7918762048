// SPDX-License-Identifier: Apache-2.0
// The same weights rounded by llm-compressor 0.14, code by code as far as its
// rule is ours. The rule of the grids is the same (symmetric: scale 2 max|w| /
// (2^b - 1), the middle code for 0); what differs is arithmetic: it ran in
// bfloat16, ours is float32. Hence symmetric scales are equal to the bit, and a
// code differs only where bfloat16 rounded a quotient to the middle between two
// codes. GPTQModel's checkpoints cannot be made again: their calibration tokens
// are not kept with them.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"

namespace quantd::methods {
namespace {

// Codes of `bits` bits from a dense little-endian stream of int32 words in each
// row: uint8 [rows, count].
at::Tensor UnpackStream(const at::Tensor& words, int bits, int64_t count) {
  const at::Tensor rows = words.contiguous();
  at::Tensor codes = at::zeros({rows.size(0), count}, at::kByte);
  for (int64_t r = 0; r < rows.size(0); ++r) {
    const auto* stream =
        static_cast<const uint32_t*>(rows.const_data_ptr()) + r * rows.size(1);
    for (int64_t k = 0; k < count; ++k) {
      int code = 0;
      for (int b = 0; b < bits; ++b) {
        const int64_t at = k * bits + b;
        code |= static_cast<int>((stream[at / 32] >> (at % 32)) & 1u) << b;
      }
      codes.data_ptr<uint8_t>()[r * count + k] = static_cast<uint8_t>(code);
    }
  }
  return codes;
}

struct PeerLinear {
  std::string module;
  at::Tensor weight;  // float32 [out, in], before rounding.
  at::Tensor codes;   // uint8 [out, in]
  at::Tensor scales;  // float32 [out, groups]
  at::Tensor zeros;   // uint8 [out, groups]; undefined where symmetric.

  // float32 [out, in]: what symmetric codes of four bits stand for.
  at::Tensor Value() const {
    return codes.to(at::kFloat)
        .sub(8)
        .mul(scales.repeat_interleave(codes.size(1) / scales.size(1), 1));
  }
};

std::string Fixture(const std::string& name) {
  return support::TestData("fixtures/quantized/" + name);
}

std::vector<PeerLinear> ReadPeer(const std::string& folder, int bits) {
  const auto source = *checkpoints::OpenCheckpoint(Fixture("source_fp32"));
  const checkpoints::TensorMap tensors =
      *checkpoints::ReadSafetensors(Fixture(folder + "/model.safetensors"));
  std::vector<PeerLinear> linears;
  for (const auto& [name, packed] : tensors) {
    absl::string_view module = name;
    if (!absl::ConsumeSuffix(&module, ".weight_packed")) continue;
    PeerLinear linear;
    linear.module = std::string(module);
    linear.weight = *source->ReadFloat(linear.module + ".weight");
    linear.codes = UnpackStream(packed, bits, linear.weight.size(1));
    linear.scales = tensors.at(linear.module + ".weight_scale").to(at::kFloat);
    // Zero points are packed along the outputs.
    const auto zeros = tensors.find(linear.module + ".weight_zero_point");
    if (zeros != tensors.end()) {
      linear.zeros =
          UnpackStream(zeros->second.t(), bits, linear.weight.size(0)).t();
    }
    linears.push_back(std::move(linear));
  }
  EXPECT_EQ(linears.size(), 14u) << folder;
  return linears;
}

// Per group to per weight: float32 [out, in].
at::Tensor Spread(const at::Tensor& per_group, const at::Tensor& weight) {
  return per_group.to(at::kFloat)
      .repeat_interleave(weight.size(1) / per_group.size(1), 1);
}

at::Tensor ToBfloat16(const at::Tensor& values) {
  return values.to(at::kBFloat16).to(at::kFloat);
}

// True where a value lies in the middle between two whole numbers.
at::Tensor IsMiddle(const at::Tensor& values) {
  return values.sub(values.floor()).eq(0.5);
}

struct RtnCase {
  std::string folder;
  int bits;
  int64_t group_size;
};

void PrintTo(const RtnCase& rtn, std::ostream* out) { *out << rtn.folder; }

class SymmetricPeerTest : public testing::TestWithParam<RtnCase> {};

TEST_P(SymmetricPeerTest, ScalesAreEqualAndCodesUpToTheirArithmetic) {
  SKIP_WITHOUT_TEST_DATA();
  const auto& [folder, bits, group_size] = GetParam();
  for (const PeerLinear& peer : ReadPeer(folder, bits)) {
    SCOPED_TRACE(peer.module);
    const auto ours = formats::RoundToNearest(
        peer.weight, {absl::StrCat("int", bits), group_size, true, "bfloat16"});
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_TRUE(ours->scales.equal(peer.scales));

    const at::Tensor quotient =
        peer.weight.div(Spread(peer.scales, peer.weight));
    const at::Tensor coarse = ToBfloat16(quotient);
    const int middle = 1 << (bits - 1);
    EXPECT_TRUE(coarse.round()
                    .clamp(-middle, middle - 1)
                    .add(middle)
                    .to(at::kByte)
                    .equal(peer.codes))
        << "the peer's arithmetic is not what this test takes it for";
    const at::Tensor differs = ours->codes.ne(peer.codes);
    EXPECT_FALSE(
        differs.logical_and(IsMiddle(coarse).logical_not()).any().item<bool>());
    // Ours are the nearer ones.
    const at::Tensor own =
        ours->codes.to(at::kFloat).sub(middle).sub(quotient).abs();
    const at::Tensor theirs =
        peer.codes.to(at::kFloat).sub(middle).sub(quotient).abs();
    EXPECT_TRUE(own.le(theirs).all().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(
    LlmCompressor, SymmetricPeerTest,
    testing::Values(RtnCase{"llmc_w2a16_g32_sym_rtn", 2, 32},
                    RtnCase{"llmc_w3a16_g32_sym_rtn", 3, 32},
                    RtnCase{"llmc_w4a16_g32_sym_rtn", 4, 32},
                    RtnCase{"llmc_w8a16_channel_rtn", 8, -1}),
    [](const auto& test) { return test.param.folder; });

class AsymmetricPeerTest : public testing::TestWithParam<RtnCase> {};

// Here the range max - min is rounded to bfloat16 as well, before the scale is
// made of it: scales are equal where that loses nothing.
TEST_P(AsymmetricPeerTest, ScalesAreEqualWhereTheRangeIsABfloat16) {
  SKIP_WITHOUT_TEST_DATA();
  const auto& [folder, bits, group_size] = GetParam();
  for (const PeerLinear& peer : ReadPeer(folder, bits)) {
    SCOPED_TRACE(peer.module);
    const auto ours = formats::RoundToNearest(
        peer.weight,
        {absl::StrCat("int", bits), group_size, false, "bfloat16"});
    ASSERT_TRUE(ours.ok()) << ours.status();
    const at::Tensor groups =
        peer.weight.view({peer.weight.size(0), -1, group_size});
    const at::Tensor low = groups.amin(2).clamp_max(0);
    const at::Tensor range = groups.amax(2).clamp_min(0).sub(low);
    const at::Tensor exact = range.eq(ToBfloat16(range));
    EXPECT_GT(exact.to(at::kFloat).mean().item<float>(), 0.25);
    const at::Tensor same = ours->scales.eq(peer.scales);
    EXPECT_FALSE(exact.logical_and(same.logical_not()).any().item<bool>());
    // The others are neighbours: 8 bits of significand.
    EXPECT_LE(ours->scales.div(peer.scales).sub(1).abs().max().item<float>(),
              0x1p-7f);
    // The zero point is -8 - min / scale (at four bits), two bfloat16 steps.
    const at::Tensor zero =
        ToBfloat16(ToBfloat16(low.div(peer.scales)).neg().sub(1 << (bits - 1)));
    const at::Tensor known = same.logical_and(IsMiddle(zero).logical_not());
    const at::Tensor zero_differs = ours->zeros.ne(peer.zeros);
    EXPECT_FALSE(known.logical_and(zero_differs).any().item<bool>());
    // With the same grid a code is never off by more than the rounding.
    const at::Tensor same_grid =
        Spread(same.logical_and(zero_differs.logical_not()), peer.weight).ne(0);
    const at::Tensor gap =
        ours->codes.to(at::kFloat).sub(peer.codes.to(at::kFloat)).abs();
    EXPECT_LE(gap.mul(same_grid).max().item<float>(), 1);
    EXPECT_LT(gap.mul(same_grid).mean().item<float>(), 0.03);
  }
}

INSTANTIATE_TEST_SUITE_P(
    LlmCompressor, AsymmetricPeerTest,
    testing::Values(RtnCase{"llmc_w4a16_g32_asym_rtn", 4, 32},
                    RtnCase{"llmc_w5a16_g32_asym_rtn", 5, 32}),
    [](const auto& test) { return test.param.folder; });

// The statistics of every linear's input over the fixtures' calibration tokens
// as the peer gathers them: those of a block are taken together from its float
// weights, and the next block reads what the block computes with the weights
// that `stored` holds.
std::map<std::string, calibration::Statistics> PeerStatistics(
    const std::vector<PeerLinear>& stored) {
  const auto reader = *checkpoints::OpenCheckpoint(Fixture("source_fp32"));
  const auto loader = models::MakeDenseLoader(*reader);
  const auto model = *models::MakeModel(*reader, *loader);
  std::vector<at::Tensor> residuals;
  for (const auto& row : nlohmann::json::parse(
           *base::ReadFile(Fixture("source_fp32/calib.json")))) {
    residuals.push_back(
        *model->Embed(at::tensor(row.get<std::vector<int64_t>>(), at::kLong)));
  }
  std::map<std::string, calibration::Statistics> statistics;
  for (int64_t i = 0; i < model->num_blocks(); ++i) {
    const auto block = *model->LoadBlock(i, residuals[0].size(0));
    std::map<std::string, calibration::GramAccumulator> grams;
    for (const at::Tensor& residual : residuals) {
      models::SequenceState state;
      state.residual = residual;
      block->Begin(&state);
      for (size_t s = 0; s < block->stages().size(); ++s) {
        const models::Stage& stage = block->stages()[s];
        const auto inputs = block->Inputs(static_cast<int64_t>(s), state);
        for (size_t l = 0; l < stage.linears.size(); ++l) {
          const at::Tensor& rows = inputs[stage.input_of[l]];
          EXPECT_TRUE(
              grams.try_emplace(stage.linears[l], rows.size(1), at::kCPU)
                  .first->second.Add(rows, base::CancelToken())
                  .ok());
        }
        block->Apply(static_cast<int64_t>(s), &state);
      }
    }
    for (auto& [name, gram] : grams) {
      EXPECT_TRUE(gram.Finish(&statistics[name]).ok());
    }
    for (const PeerLinear& linear : stored) {
      if (!grams.contains(linear.module)) continue;
      block->Replace(linear.module,
                     models::MakeDenseLinear(linear.Value(), at::Tensor()));
    }
    for (at::Tensor& residual : residuals) {
      models::SequenceState state;
      state.residual = residual;
      block->Forward(&state);
      residual = state.residual;
    }
  }
  return statistics;
}

// What GPTQ makes of a layer in the peer's setting, which takes all scales from
// the original weights.
LinearSolution Solve(const PeerLinear& peer, const std::string& act_order,
                     const calibration::Statistics& statistics) {
  v1::Component component;
  component.set_id("gptq");
  (*component.mutable_params())["act_order"].set_string_value(act_order);
  (*component.mutable_params())["static_groups"].set_bool_value(true);
  const auto method = *MakeMethod(component);
  const base::CancelToken cancel;
  return *method->QuantizeLinear({.weight = peer.weight,
                                  .statistics = &statistics,
                                  .spec = {"int4", 32, true, "bfloat16"}},
                                 cancel);
}

// The Gram matrices come from the same tokens through the same weights, which
// the peer ran in bfloat16: a code that lay near the middle between two goes
// the other way, and what follows in its row is corrected otherwise. Codes
// agree for the most part, and neither result is better than the other by more
// than that chance.
struct GptqCase {
  std::string folder;
  std::string act_order;
};

class GptqPeerTest : public testing::TestWithParam<GptqCase> {};

TEST_P(GptqPeerTest, ScalesAreEqualAndLossesAgree) {
  SKIP_WITHOUT_TEST_DATA();
  const std::vector<PeerLinear> peers = ReadPeer(GetParam().folder, 4);
  const auto statistics = PeerStatistics(peers);
  double all_agreement = 0;
  double all_own = 0;
  double all_other = 0;
  for (const PeerLinear& peer : peers) {
    SCOPED_TRACE(peer.module);
    const calibration::Statistics& seen = statistics.at(peer.module);
    const LinearSolution ours = Solve(peer, GetParam().act_order, seen);
    formats::QuantizedLinear theirs = ours.linear;
    theirs.codes = peer.codes;
    theirs.scales = peer.scales;
    const double agreement =
        ours.linear.codes.eq(peer.codes).to(at::kFloat).mean().item<double>();
    const double own = RelativeError(peer.weight, ours.linear, &seen);
    const double other = RelativeError(peer.weight, theirs, &seen);
    const double rounding = RelativeError(
        peer.weight,
        *formats::RoundToNearest(peer.weight, {"int4", 32, true, "bfloat16"}),
        &seen);
    EXPECT_TRUE(ours.linear.scales.equal(peer.scales));
    // Layers behind others read what those were rounded to.
    const bool first_stage =
        absl::StrContains(peer.module, "layers.0.self_attn.") &&
        !absl::EndsWith(peer.module, "o_proj");
    EXPECT_GT(agreement, first_stage ? 0.9 : 0.85) << peer.module;
    all_agreement += agreement;
    EXPECT_LT(own, other * 1.01);
    EXPECT_LT(own, rounding);
    all_own += own;
    all_other += other;
  }
  EXPECT_GT(all_agreement / std::ssize(peers), 0.9);
  EXPECT_NEAR(all_own / all_other, 1, 0.01);
}

INSTANTIATE_TEST_SUITE_P(
    LlmCompressor, GptqPeerTest,
    testing::Values(GptqCase{"llmc_w4a16_g32_sym_gptq", "none"},
                    GptqCase{"llmc_w4a16_g32_sym_gptq_actorder", "static"}),
    [](const auto& test) { return test.param.folder; });

}  // namespace
}  // namespace quantd::methods
