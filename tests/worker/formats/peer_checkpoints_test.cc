// SPDX-License-Identifier: Apache-2.0
// The float weights of peers' checkpoints rounded by our rules, beside what the
// peers stored. Codes, scales and zero points are theirs, or become theirs once
// a step that they take in fewer bits is taken so here as well. What depends on
// inputs is in tests/worker/methods/peers_test.cc; the last test says where
// each checkpoint is compared.
#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/cancel.h"
#include "tests/worker/formats/peer_tensors.h"
#include "worker/numerics/hadamard.h"

namespace quantd::formats {
namespace {

using checkpoints::TensorMap;

TensorMap ReadModel(const std::string& folder) {
  return ReadFixture("quantized/" + folder + "/model.safetensors");
}

// The modules of a checkpoint that have a tensor of this name.
std::vector<std::string> ModulesWith(const TensorMap& tensors,
                                     const std::string& suffix) {
  std::vector<std::string> modules;
  for (const auto& [name, tensor] : tensors) {
    absl::string_view module = name;
    if (absl::ConsumeSuffix(&module, suffix)) modules.emplace_back(module);
  }
  return modules;
}

at::Tensor ToBfloat16(const at::Tensor& values) {
  return values.to(at::kBFloat16).to(at::kFloat);
}

// Codes of `bits` bits, code i of a row at bit i * bits of its words: uint8
// [rows, count].
at::Tensor UnpackRows(const at::Tensor& words, int bits, int64_t count) {
  const at::Tensor rows = words.contiguous();
  at::Tensor codes = at::zeros({rows.size(0), count}, at::kByte);
  for (int64_t r = 0; r < rows.size(0); ++r) {
    const auto* stream =
        static_cast<const uint32_t*>(rows.const_data_ptr()) + r * rows.size(1);
    uint8_t* to = codes.mutable_data_ptr<uint8_t>() + r * count;
    for (int64_t bit = 0; bit < count * bits; ++bit) {
      const uint32_t set = (stream[bit / 32] >> (bit % 32)) & 1u;
      to[bit / bits] |= static_cast<uint8_t>(set << (bit % bits));
    }
  }
  return codes;
}

// Per group to per weight.
at::Tensor Spread(const at::Tensor& per_group, const at::Tensor& weight) {
  return per_group.to(at::kFloat)
      .repeat_interleave(weight.size(1) / per_group.size(1), 1);
}

// What a checkpoint stores of one linear.
struct Stored {
  at::Tensor codes;   // uint8 [out, in], counted from 0.
  at::Tensor scales;  // float32 [out, groups]
  at::Tensor zeros;   // uint8 [out, groups]; undefined where symmetric.
};

// The layouts of compressed-tensors for integers.
Stored ReadCompressed(const TensorMap& peer, const std::string& module,
                      int bits, at::IntArrayRef sizes) {
  Stored stored;
  stored.scales = peer.at(module + ".weight_scale").to(at::kFloat);
  const auto packed = peer.find(module + ".weight_packed");
  stored.codes =
      packed == peer.end()
          ? peer.at(module + ".weight").to(at::kInt).add(128).to(at::kByte)
          : UnpackRows(packed->second, bits, sizes[1]);
  // Zero points are packed along the outputs.
  const auto zeros = peer.find(module + ".weight_zero_point");
  if (zeros != peer.end()) {
    stored.zeros = UnpackRows(zeros->second.t(), bits, sizes[0]).t();
  }
  return stored;
}

// The layout of GPTQ; `zero_offset` is what a stored zero point lacks.
Stored ReadGptq(const TensorMap& peer, const std::string& module, int bits,
                int zero_offset) {
  Stored stored;
  stored.scales = peer.at(module + ".scales").to(at::kFloat).t().contiguous();
  const at::Tensor columns = peer.at(module + ".qweight").t();
  stored.codes = UnpackRows(columns, bits, columns.size(1) * 32 / bits);
  stored.zeros =
      UnpackRows(peer.at(module + ".qzeros"), bits, stored.scales.size(0))
          .add(zero_offset)
          .t();
  return stored;
}

// llm-compressor's rule, every step rounded to the checkpoint's bfloat16.
Stored RoundInBfloat16(const at::Tensor& weight, int64_t group_size,
                       bool symmetric, int bits) {
  const int middle = 1 << (bits - 1);
  const int64_t width = group_size < 0 ? weight.size(1) : group_size;
  const at::Tensor groups = weight.view({weight.size(0), -1, width});
  const auto code = [middle](const at::Tensor& number) {
    return number.round().clamp(-middle, middle - 1).add(middle).to(at::kByte);
  };
  Stored theirs;
  if (symmetric) {
    theirs.scales =
        ToBfloat16(groups.abs().amax(2).mul(2).div((1 << bits) - 1));
    theirs.codes = code(ToBfloat16(weight.div(Spread(theirs.scales, weight))));
    return theirs;
  }
  const at::Tensor low = groups.amin(2).clamp_max(0);
  const at::Tensor range = ToBfloat16(groups.amax(2).clamp_min(0).sub(low));
  theirs.scales = ToBfloat16(range.div((1 << bits) - 1));
  theirs.zeros =
      code(ToBfloat16(ToBfloat16(low.div(theirs.scales)).neg().sub(middle)));
  const at::Tensor quotient =
      ToBfloat16(weight.div(Spread(theirs.scales, weight)));
  theirs.codes =
      code(ToBfloat16(quotient.add(Spread(theirs.zeros, weight)).sub(middle)));
  return theirs;
}

// What becomes of a weight before it is rounded.
enum class Prepared {
  kNot,
  kSpin,            // R1 and R2 of SpinQuant, Hadamard matrices without signs.
  kSpinWithOnline,  // And R4 before the down projection.
  kQuip,            // A stored matrix before every linear.
};

// `rows` times the Hadamard matrix of `order`, normalised and rounded.
at::Tensor Rotate(const at::Tensor& rows, int64_t order) {
  return ToBfloat16(
      numerics::TimesHadamard(rows.to(at::kDouble).contiguous(), order)
          .div(std::sqrt(static_cast<double>(order)))
          .to(at::kFloat));
}

at::Tensor RotateRows(const at::Tensor& weight, int64_t order) {
  return Rotate(weight.t(), order).t().contiguous();
}

// The gain of the norm that `module` reads moves into it, and R1 turns what it
// reads; what writes to the residual stream is turned back.
at::Tensor Spin(const TensorMap& source, const std::string& module,
                bool online) {
  constexpr int64_t kHeadWidth = 32;
  at::Tensor weight = source.at(module + ".weight");
  const std::string layer = module.substr(0, module.find('.', 13));
  if (absl::EndsWith(module, "o_proj")) {
    return Rotate(RotateRows(weight, weight.size(0)), kHeadWidth);
  }
  if (absl::EndsWith(module, "down_proj")) {
    weight = RotateRows(weight, weight.size(0));
    return online ? Rotate(weight, weight.size(1)) : weight;
  }
  const char* norm = absl::StrContains(module, ".mlp.")
                         ? ".post_attention_layernorm.weight"
                         : ".input_layernorm.weight";
  weight = ToBfloat16(weight.mul(source.at(layer + norm)));
  weight = Rotate(weight, weight.size(1));
  return absl::EndsWith(module, "v_proj") ? RotateRows(weight, kHeadWidth)
                                          : weight;
}

// One matrix is stored for all linears of a width.
at::Tensor Quip(const TensorMap& source, const TensorMap& peer,
                const std::string& module) {
  const at::Tensor weight = source.at(module + ".weight");
  const at::Tensor& matrix = peer.at(
      weight.size(1) == 128 ? "model.layers.0.self_attn.q_proj.v_input.weight"
                            : "model.layers.0.mlp.down_proj.v_input.weight");
  return ToBfloat16(at::mm(weight.to(at::kDouble), matrix)
                        .div(std::sqrt(static_cast<double>(weight.size(1))))
                        .to(at::kFloat));
}

struct CompressedCase {
  std::string folder;
  std::string format;
  int64_t group_size = 32;
  bool symmetric = true;
  Prepared prepared = Prepared::kNot;
  // Rounding to nearest; else what was rounded depends on inputs and scales
  // alone are compared, which come from the weights as they are.
  bool nearest = true;
};

void PrintTo(const CompressedCase& peer, std::ostream* out) {
  *out << peer.folder;
}

at::Tensor Prepare(const TensorMap& source, const TensorMap& peer,
                   const std::string& module, Prepared prepared) {
  switch (prepared) {
    case Prepared::kNot:
      break;
    case Prepared::kSpin:
      return Spin(source, module, /*online=*/false);
    case Prepared::kSpinWithOnline:
      return Spin(source, module, /*online=*/true);
    case Prepared::kQuip:
      return Quip(source, peer, module);
  }
  return source.at(module + ".weight");
}

class CompressedTest : public testing::TestWithParam<CompressedCase> {
 protected:
  void Compare(const at::Tensor& weight, const Stored& stored) const {
    const CompressedCase& peer = GetParam();
    WeightSpec spec = SpecOf(peer.format, peer.group_size, "bfloat16");
    spec.symmetric = peer.symmetric;
    const auto ours = RoundToNearest(weight, spec);
    ASSERT_TRUE(ours.ok()) << ours.status();
    // The range of an asymmetric grid is a difference, which they round.
    if (peer.symmetric) {
      EXPECT_TRUE(ours->scales.equal(stored.scales));
    }
    if (!peer.nearest) return;
    const Stored theirs = RoundInBfloat16(
        weight, peer.group_size, peer.symmetric, FormatOf(peer.format).bits());
    EXPECT_TRUE(theirs.scales.equal(stored.scales));
    EXPECT_TRUE(theirs.codes.equal(stored.codes));
    if (stored.zeros.defined()) {
      EXPECT_TRUE(theirs.zeros.equal(stored.zeros));
    }
    ExpectNotFarther(weight, *ours, stored);
  }

  // On their grid no code of the exact quotient is farther than theirs.
  void ExpectNotFarther(const at::Tensor& weight, const QuantizedLinear& ours,
                        const Stored& stored) const {
    QuantizedLinear theirs = ours;
    theirs.codes = stored.codes;
    theirs.scales = stored.scales;
    if (stored.zeros.defined()) theirs.zeros = stored.zeros;
    QuantizedLinear exact = theirs;
    const Grid grid{theirs.scales.flatten(),
                    theirs.zeros.to(at::kFloat).flatten()};
    exact.codes = FormatOf(GetParam().format)
                      .Nearest(weight.view({-1, ours.group_size}), grid)
                      .view(weight.sizes());
    const auto miss = [&](const QuantizedLinear& linear) {
      return Dequantize(linear).sub(weight).abs();
    };
    EXPECT_TRUE(miss(exact).le(miss(theirs).mul(1 + 1e-5)).all().item<bool>());
  }
};

TEST_P(CompressedTest, EveryLayerIsThePeersUpToItsArithmetic) {
  SKIP_WITHOUT_TEST_DATA();
  const TensorMap source = ReadModel("source_fp32");
  const TensorMap peer = ReadModel(GetParam().folder);
  const int bits = FormatOf(GetParam().format).bits();
  const auto modules = ModulesWith(peer, ".weight_scale");
  EXPECT_EQ(modules.size(), 14u);
  for (const std::string& module : modules) {
    SCOPED_TRACE(module);
    const at::Tensor weight =
        Prepare(source, peer, module, GetParam().prepared);
    Compare(weight, ReadCompressed(peer, module, bits, weight.sizes()));
  }
}

std::vector<CompressedCase> CompressedCases() {
  return {
      {.folder = "llmc_w2a16_g32_sym_rtn", .format = "int2"},
      {.folder = "llmc_w3a16_g32_sym_rtn", .format = "int3"},
      {.folder = "llmc_w4a16_g32_sym_rtn", .format = "int4"},
      {.folder = "llmc_w4a16_g32_asym_rtn",
       .format = "int4",
       .symmetric = false},
      {.folder = "llmc_w5a16_g32_asym_rtn",
       .format = "int5",
       .symmetric = false},
      {.folder = "llmc_w8a16_channel_rtn", .format = "int8", .group_size = -1},
      {.folder = "llmc_w8a8_int_static_asym",
       .format = "int8",
       .group_size = -1},
      {.folder = "llmc_w8a8_kvfp8", .format = "int8", .group_size = -1},
      {.folder = "llmc_quip_v_w4a16_g32",
       .format = "int4",
       .prepared = Prepared::kQuip},
      {.folder = "llmc_spin_r1r2_w4a16_g32",
       .format = "int4",
       .prepared = Prepared::kSpin,
       .nearest = false},
      {.folder = "llmc_spin_r1r2r4_w4a16_g32",
       .format = "int4",
       .prepared = Prepared::kSpinWithOnline,
       .nearest = false},
      {.folder = "llmc_w4a16_g32_sym_gptq", .format = "int4", .nearest = false},
      {.folder = "llmc_w4a16_g32_sym_gptq_actorder",
       .format = "int4",
       .nearest = false}};
}

INSTANTIATE_TEST_SUITE_P(LlmCompressor, CompressedTest,
                         testing::ValuesIn(CompressedCases()),
                         [](const auto& test) { return test.param.folder; });

// The peer takes the mean from every embedding before it rotates them, which an
// RMS norm does not undo; nothing else moves.
TEST(SpinTest, EmbeddingsAndHeadAreThePeers) {
  SKIP_WITHOUT_TEST_DATA();
  const TensorMap source = ReadModel("source_fp32");
  const TensorMap peer = ReadModel("llmc_spin_r1r2_w4a16_g32");
  const at::Tensor& embeddings = source.at("model.embed_tokens.weight");
  const at::Tensor wide = embeddings.to(at::kDouble);
  const at::Tensor centred =
      ToBfloat16(wide.sub(wide.mean(1, /*keepdim=*/true)).to(at::kFloat));
  EXPECT_TRUE(Rotate(centred, centred.size(1))
                  .equal(peer.at("model.embed_tokens.weight").to(at::kFloat)));
  const at::Tensor head =
      ToBfloat16(embeddings.mul(source.at("model.norm.weight")));
  EXPECT_TRUE(Rotate(head, head.size(1))
                  .equal(peer.at("lm_head.weight").to(at::kFloat)));
}

// AutoRound without iterations, which is what its eight bits were made with.
TEST(AutoRoundPeerTest, EightBitsAreThePeersBitForBit) {
  SKIP_WITHOUT_TEST_DATA();
  const TensorMap source = ReadModel("source_fp32");
  const TensorMap peer = ReadModel("ar_autogptq_w8g128_sym");
  const WeightSpec spec =
      With(SpecOf("int8", 128, "float16"), "grid", "full_range");
  const auto modules = ModulesWith(peer, ".qweight");
  EXPECT_EQ(modules.size(), 14u);
  for (const std::string& module : modules) {
    SCOPED_TRACE(module);
    const Stored stored = ReadGptq(peer, module, 8, /*zero_offset=*/1);
    const auto ours = RoundToNearest(source.at(module + ".weight"), spec);
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_TRUE(ours->scales.equal(stored.scales));
    EXPECT_TRUE(ours->zeros.equal(stored.zeros));
    EXPECT_TRUE(ours->codes.equal(stored.codes));
  }
}

// GPTQModel lays the grids of the first 128 columns that it comes to over the
// weights as they are, and those of later groups over weights that depend on
// its calibration tokens, which are not kept.
struct GptqModelCase {
  std::string folder;
  int bits = 4;
  int64_t group_size = 32;
  bool symmetric = true;
  std::string source = "gptqmodel_source_src";
  // What the weights were loaded in.
  at::ScalarType type = at::kHalf;
  int zero_offset = 1;
  // Another order of bits, in which zero points are not read here.
  bool planar = false;
};

void PrintTo(const GptqModelCase& peer, std::ostream* out) {
  *out << peer.folder;
}

class GptqModelTest : public testing::TestWithParam<GptqModelCase> {
 protected:
  // Of another width, and left in floating point, in the checkpoint with
  // settings by module.
  static GptqModelCase CaseOf(const std::string& module) {
    GptqModelCase own = GetParam();
    if (own.folder == "gptqmodel_dynamic" &&
        absl::EndsWith(module, "down_proj")) {
      own.bits = 8;
      own.group_size = 64;
    }
    return own;
  }
  // The grid of every group as rows of [out, groups]; groups are those of
  // `group_index`, int32 [in].
  static QuantizedLinear Grids(const at::Tensor& weight,
                               const at::Tensor& group_index, int64_t groups,
                               const WeightSpec& spec) {
    const at::Tensor order = at::argsort(group_index, /*stable=*/true);
    const auto linear =
        FormatOf(spec.format)
            .ChooseGrids(weight.index_select(1, order).contiguous(), spec,
                         base::CancelToken());
    EXPECT_TRUE(linear.ok()) << linear.status();
    EXPECT_EQ(linear->num_groups(), groups);
    return *linear;
  }
};

TEST_P(GptqModelTest, GridsOfUnchangedWeightsAreThePeers) {
  SKIP_WITHOUT_TEST_DATA();
  const TensorMap source = ReadModel(GetParam().source);
  const TensorMap peer = ReadModel(GetParam().folder);
  const auto modules = ModulesWith(peer, ".qweight");
  EXPECT_GE(modules.size(), 7u);
  for (const std::string& module : modules) {
    SCOPED_TRACE(module);
    const GptqModelCase own = CaseOf(module);
    const at::Tensor weight =
        source.at(module + ".weight").to(own.type).to(at::kFloat);
    const Stored stored = ReadGptq(peer, module, own.bits, own.zero_offset);
    const int64_t groups = stored.scales.size(1);
    WeightSpec spec =
        SpecOf(absl::StrCat("int", own.bits), own.group_size, "float16");
    spec.symmetric = own.symmetric;
    const at::Tensor& index = peer.at(module + ".g_idx");
    const QuantizedLinear ours = Grids(weight, index, groups, spec);
    // Zero points come from scales before these are rounded to what is stored.
    spec.scale_dtype = "float32";
    const at::Tensor zero_points = Grids(weight, index, groups, spec).zeros;
    int64_t same = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const bool zeros = own.planar || zero_points.select(1, g).equal(
                                           stored.zeros.select(1, g));
      same +=
          zeros && ours.scales.select(1, g).equal(stored.scales.select(1, g));
    }
    const int64_t unchanged =
        own.group_size < 0 ? 1 : (128 + own.group_size - 1) / own.group_size;
    EXPECT_EQ(same, std::min(groups, unchanged));
  }
}

std::vector<GptqModelCase> GptqModelCases() {
  return {{.folder = "gptqmodel_w2g32_sym", .bits = 2},
          {.folder = "gptqmodel_w3g32_sym", .bits = 3},
          {.folder = "gptqmodel_w4g32_sym"},
          {.folder = "gptqmodel_w4g32_sym_v2", .zero_offset = 0},
          {.folder = "gptqmodel_w4g32_asym", .symmetric = false},
          {.folder = "gptqmodel_w4g32_asym_v2",
           .symmetric = false,
           .zero_offset = 0},
          {.folder = "gptqmodel_w4g32_sym_desc_act", .type = at::kBFloat16},
          {.folder = "gptqmodel_w4g64_partial",
           .group_size = 64,
           .source = "gptqmodel_source_odd"},
          {.folder = "gptqmodel_w4gm1_sym", .group_size = -1},
          {.folder = "gptqmodel_w5g32_planar", .bits = 5, .planar = true},
          {.folder = "gptqmodel_w8g32_sym", .bits = 8},
          {.folder = "gptqmodel_dynamic"}};
}

INSTANTIATE_TEST_SUITE_P(GptqModel, GptqModelTest,
                         testing::ValuesIn(GptqModelCases()),
                         [](const auto& test) { return test.param.folder; });

constexpr char kSearched[] =
    "chosen by gradients or a search on text that is not kept; read alone";

// The checkpoints that no table of this file has.
const std::map<std::string, std::string>& ComparedElsewhere() {
  static const auto& elsewhere = *new std::map<std::string, std::string>{
      {"ar_autoawq_w4g32_asym", kSearched},
      {"ar_autoawq_w4g32_sym", kSearched},
      {"ar_autogptq_w4g32_asym", kSearched},
      {"ar_autogptq_w4g32_sym", kSearched},
      {"ar_autogptq_w8g128_sym", "AutoRoundPeerTest"},
      {"ar_autoround_w2g32_sym", kSearched},
      {"ar_autoround_w4g32_asym", kSearched},
      {"ar_autoround_w4g32_sym", kSearched},
      {"autoawq_w4g128_gemm", kSearched},
      {"autoawq_w4g32_gemm", kSearched},
      {"llmc_fp8_block", "Fp8PeerTest"},
      {"llmc_fp8_dynamic", "Fp8PeerTest"},
      {"llmc_fp8_static", "Fp8PeerTest"},
      {"llmc_mxfp4", "MxPeerTest"},
      {"llmc_mxfp4a16", "MxPeerTest"},
      {"llmc_mxfp8a16", "MxPeerTest"},
      {"llmc_nvfp4", "Nvfp4PeerTest"},
      {"llmc_nvfp4a16", "Nvfp4PeerTest"},
      {"llmc_w4a16_g32_asym_awq", "transforms/peers_test.cc"},
      {"llmc_w8a8_int_sq_gptq", "transforms/peers_test.cc"}};
  return elsewhere;
}

TEST(PeerCheckpointsTest, EveryOneIsComparedSomewhere) {
  SKIP_WITHOUT_TEST_DATA();
  std::set<std::string> known;
  for (const auto& peer : CompressedCases()) known.insert(peer.folder);
  for (const auto& peer : GptqModelCases()) known.insert(peer.folder);
  for (const auto& [folder, where] : ComparedElsewhere()) known.insert(folder);
  std::set<std::string> stored;
  for (const auto& entry : std::filesystem::directory_iterator(
           support::TestData("fixtures/quantized"))) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && !absl::StrContains(name, "source")) {
      stored.insert(name);
    }
  }
  EXPECT_EQ(stored, known);
}

}  // namespace
}  // namespace quantd::formats
