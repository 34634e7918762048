// SPDX-License-Identifier: Apache-2.0
// Sparse layers against a forward pass written down token by token in float64,
// and what the pipeline asks of their stages.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/worker/models/model_run.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/models/sparse_layer.h"

namespace quantd::models {
namespace {

using Json = nlohmann::json;

constexpr int64_t kHidden = 32;
constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = kHidden / kHeads;
constexpr int64_t kExperts = 6;
constexpr int64_t kChosen = 2;
constexpr int64_t kTokens = 12;
constexpr double kEps = 1e-6;
constexpr double kTheta = 10000;

// Layers 0 and 2 are sparse; layer 0 has a window, by the family's rule.
Json QwenConfig() {
  return {{"model_type", "qwen2_moe"},
          {"vocab_size", 64},
          {"hidden_size", kHidden},
          {"intermediate_size", 48},
          {"moe_intermediate_size", 16},
          {"shared_expert_intermediate_size", 24},
          {"num_hidden_layers", 3},
          {"num_attention_heads", kHeads},
          {"num_key_value_heads", kKvHeads},
          {"num_experts", kExperts},
          {"num_experts_per_tok", kChosen},
          {"mlp_only_layers", {1}},
          {"norm_topk_prob", false},
          {"use_sliding_window", true},
          {"sliding_window", 5},
          {"max_window_layers", 2},
          {"max_position_embeddings", 128}};
}

using Generator = std::mt19937;

at::Tensor Normal(at::IntArrayRef sizes, Generator* generator) {
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  std::normal_distribution<float> normal;
  std::generate_n(tensor.data_ptr<float>(), tensor.numel(),
                  [&] { return normal(*generator); });
  return tensor;
}

// Random tensors of a checkpoint.
struct RandomCheckpoint {
  Generator generator{7};
  checkpoints::TensorMap tensors;
};

void AddLinear(const std::string& name, int64_t out, int64_t in,
               RandomCheckpoint* to) {
  to->tensors[name + ".weight"] =
      Normal({out, in}, &to->generator).div(std::sqrt(in));
}

void AddFeedForward(const std::string& name, int64_t width,
                    RandomCheckpoint* to) {
  AddLinear(name + ".gate_proj", width, kHidden, to);
  AddLinear(name + ".up_proj", width, kHidden, to);
  AddLinear(name + ".down_proj", kHidden, width, to);
}

void AddLayer(const std::string& layer, bool sparse, RandomCheckpoint* to) {
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
    to->tensors[absl::StrCat(layer, norm, ".weight")] =
        at::ones({kHidden}).add(Normal({kHidden}, &to->generator), 0.2);
  }
  const std::string attention = layer + "self_attn.";
  const std::pair<const char*, int64_t> heads[] = {
      {"q_proj", kHeads}, {"k_proj", kKvHeads}, {"v_proj", kKvHeads}};
  for (const auto& [name, count] : heads) {
    AddLinear(attention + name, count * kHeadDim, kHidden, to);
    to->tensors[absl::StrCat(attention, name, ".bias")] =
        Normal({count * kHeadDim}, &to->generator);
  }
  AddLinear(attention + "o_proj", kHidden, kHidden, to);
  const std::string mlp = layer + "mlp";
  if (!sparse) return AddFeedForward(mlp, 48, to);
  for (int64_t e = 0; e < kExperts; ++e) {
    AddFeedForward(absl::StrCat(mlp, ".experts.", e), 16, to);
  }
  AddFeedForward(mlp + ".shared_expert", 24, to);
  AddLinear(mlp + ".gate", kExperts, kHidden, to);
  // Decided choices: no tie between float32 and float64.
  to->tensors[mlp + ".gate.weight"].mul_(3);
  AddLinear(mlp + ".shared_expert_gate", 1, kHidden, to);
}

RandomCheckpoint RandomQwen() {
  RandomCheckpoint checkpoint;
  AddLinear("model.embed_tokens", 64, kHidden, &checkpoint);
  AddLinear("lm_head", 64, kHidden, &checkpoint);
  checkpoint.tensors["model.norm.weight"] = at::ones({kHidden});
  for (int64_t i = 0; i < 3; ++i) {
    AddLayer(absl::StrCat("model.layers.", i, "."), i != 1, &checkpoint);
  }
  return checkpoint;
}

// The model as its papers write it down, one token and one head at a time.
class Reference {
 public:
  Reference(const checkpoints::TensorMap& tensors, const Json& config)
      : renormalize_(config["norm_topk_prob"]) {
    for (const auto& [name, tensor] : tensors) {
      tensors_[name] = tensor.to(at::kDouble);
    }
  }

  at::Tensor Logits(const at::Tensor& ids) const {
    at::Tensor x = Weight("model.embed_tokens").index_select(0, ids);
    for (int64_t i = 0; i < 3; ++i) {
      const std::string layer = absl::StrCat("model.layers.", i, ".");
      x = x + Attention(layer, Norm(layer + "input_layernorm", x),
                        i == 0 ? 5 : kTokens);
      const at::Tensor y = Norm(layer + "post_attention_layernorm", x);
      std::vector<at::Tensor> rows;
      for (int64_t t = 0; t < y.size(0); ++t) {
        rows.push_back(i == 1 ? FeedForward(layer + "mlp", y[t])
                              : Sparse(layer + "mlp", y[t]));
      }
      x = x + at::stack(rows);
    }
    return Norm("model.norm", x).matmul(Weight("lm_head").t());
  }

  at::Tensor Sparse(const std::string& mlp, const at::Tensor& x) const {
    const at::Tensor scores = Weight(mlp + ".gate").mv(x).softmax(0);
    at::Tensor left = scores.clone();
    std::vector<int64_t> chosen;
    double total = 0;
    for (int64_t k = 0; k < kChosen; ++k) {
      chosen.push_back(left.argmax().item<int64_t>());
      total += scores[chosen.back()].item<double>();
      left[chosen.back()] = -1;
    }
    at::Tensor sum = at::zeros_like(x);
    for (const int64_t e : chosen) {
      const double weight =
          scores[e].item<double>() / (renormalize_ ? total : 1);
      sum = sum + FeedForward(absl::StrCat(mlp, ".experts.", e), x) * weight;
    }
    const at::Tensor gate = Weight(mlp + ".shared_expert_gate").mv(x).sigmoid();
    return sum + FeedForward(mlp + ".shared_expert", x) * gate;
  }

 private:
  const at::Tensor& Weight(const std::string& name) const {
    return tensors_.at(name + ".weight");
  }
  at::Tensor Norm(const std::string& name, const at::Tensor& x) const {
    return x / (x.square().mean(-1, true) + kEps).sqrt() * Weight(name);
  }
  at::Tensor FeedForward(const std::string& name, const at::Tensor& x) const {
    const at::Tensor gate = Weight(name + ".gate_proj").mv(x);
    return Weight(name + ".down_proj")
        .mv(gate * gate.sigmoid() * Weight(name + ".up_proj").mv(x));
  }
  // [tokens, heads * head_dim] -> rotated, pairs half a head apart.
  static at::Tensor Rotated(const at::Tensor& x) {
    at::Tensor result = x.clone();
    const int64_t half = kHeadDim / 2;
    for (int64_t t = 0; t < x.size(0); ++t) {
      for (int64_t j = 0; j < x.size(1); ++j) {
        const int64_t i = j % kHeadDim;
        const double angle = static_cast<double>(t) *
                             std::pow(kTheta, -2.0 * (i % half) / kHeadDim);
        const int64_t partner = i < half ? j + half : j - half;
        result[t][j] = x[t][j] * std::cos(angle) +
                       x[t][partner] * (i < half ? -1 : 1) * std::sin(angle);
      }
    }
    return result;
  }
  at::Tensor Project(const std::string& name, const at::Tensor& x) const {
    return x.matmul(Weight(name).t()) + tensors_.at(name + ".bias");
  }
  at::Tensor Attention(const std::string& layer, const at::Tensor& x,
                       int64_t window) const {
    const at::Tensor q = Rotated(Project(layer + "self_attn.q_proj", x));
    const at::Tensor k = Rotated(Project(layer + "self_attn.k_proj", x));
    const at::Tensor v = Project(layer + "self_attn.v_proj", x);
    std::vector<at::Tensor> rows;
    for (int64_t t = 0; t < x.size(0); ++t) {
      const int64_t first = std::max<int64_t>(0, t - window + 1);
      std::vector<at::Tensor> heads;
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t kv = h / (kHeads / kKvHeads) * kHeadDim;
        const at::Tensor keys =
            k.slice(0, first, t + 1).narrow(1, kv, kHeadDim);
        const at::Tensor values =
            v.slice(0, first, t + 1).narrow(1, kv, kHeadDim);
        const at::Tensor query = q[t].narrow(0, h * kHeadDim, kHeadDim);
        const at::Tensor scores =
            (keys.mv(query) / std::sqrt(static_cast<double>(kHeadDim)))
                .softmax(0);
        heads.push_back(values.t().mv(scores));
      }
      rows.push_back(at::cat(heads));
    }
    return at::stack(rows).matmul(Weight(layer + "self_attn.o_proj").t());
  }

  const bool renormalize_;
  std::map<std::string, at::Tensor> tensors_;
};

class SharedExpertTest : public ::testing::Test {
 protected:
  void Open(const checkpoints::TensorMap& tensors, const Json& config) {
    ASSERT_TRUE(
        base::WriteFileAtomically(folder_.File("config.json"), config.dump())
            .ok());
    ASSERT_TRUE(checkpoints::WriteSafetensors(folder_.File("model.safetensors"),
                                              tensors)
                    .ok());
    reader_ = checkpoints::OpenCheckpoint(folder_.path()).value();
    loader_ = MakeDenseLoader(*reader_);
    auto model = MakeModel(*reader_, *loader_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  // Before stage `stage` of block 0.
  SequenceState StateBefore(int64_t stage, const Block& block) {
    SequenceState state{.residual = *model_->Embed(ids_), .input = {}};
    block.Begin(&state);
    for (int64_t s = 0; s < stage; ++s) block.Apply(s, &state);
    return state;
  }

  const support::TemporaryDirectory folder_;
  const at::Tensor ids_ = at::arange(kTokens).mul(7).remainder(64);
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<LinearLoader> loader_;
  std::unique_ptr<Model> model_;
};

TEST_F(SharedExpertTest, LogitsAreThoseOfTheEquations) {
  const checkpoints::TensorMap tensors = RandomQwen().tensors;
  for (const bool renormalize : {false, true}) {
    Json config = QwenConfig();
    config["norm_topk_prob"] = renormalize;
    Open(tensors, config);
    const auto run = RunModel(*model_, ids_);
    ASSERT_TRUE(run.ok()) << run.status();
    const at::Tensor expected = Reference(tensors, config).Logits(ids_);
    EXPECT_GT(expected.std().item<double>(), 0.3);
    EXPECT_LT(run->logits.sub(expected).abs().max().item<double>(), 1e-5);
  }
}

TEST_F(SharedExpertTest, EverySecondLayerIsSparseWhereTheConfigSaysSo) {
  RandomCheckpoint checkpoint = RandomQwen();
  Json config = QwenConfig();
  config["mlp_only_layers"] = Json::array();
  config["decoder_sparse_step"] = 2;
  for (const int64_t layer : {0, 2}) {
    AddFeedForward(absl::StrCat("model.layers.", layer, ".mlp"), 48,
                   &checkpoint);
  }
  AddLayer("model.layers.1.", true, &checkpoint);
  Open(checkpoint.tensors, config);
  EXPECT_EQ(model_->BlockLinears(0).size(), 7u);
  EXPECT_EQ(model_->BlockLinears(1).size(), 4u + 3 * (kExperts + 1));
  EXPECT_EQ(model_->BlockLinears(2).size(), 7u);
  EXPECT_TRUE(model_->RouterLinears(0).empty());
  EXPECT_THAT(model_->RouterLinears(1),
              testing::ElementsAre("model.layers.1.mlp.gate",
                                   "model.layers.1.mlp.shared_expert_gate"));
}

TEST_F(SharedExpertTest, EachExpertReadsTheRowsThatAreRoutedToIt) {
  const checkpoints::TensorMap tensors = RandomQwen().tensors;
  Open(tensors, QwenConfig());
  const auto block = *model_->LoadBlock(0, kTokens);
  SequenceState state = StateBefore(2, *block);
  const Routing routing =
      Route(state.input, tensors.at("model.layers.0.mlp.gate.weight"),
            {.experts = kExperts, .chosen = kChosen});
  const auto inputs = block->Inputs(2, state);
  ASSERT_EQ(inputs.size(), static_cast<size_t>(kExperts + 1));
  int64_t row = 0;
  for (size_t e = 0; e < kExperts; ++e) {
    ASSERT_EQ(inputs[e].size(0), routing.rows[e]);
    int64_t last = -1;
    for (int64_t i = 0; i < inputs[e].size(0); ++i, ++row) {
      const int64_t token = routing.token[row].item<int64_t>();
      EXPECT_GT(token, last);
      last = token;
      EXPECT_TRUE(inputs[e][i].equal(state.input[token]));
    }
  }
  EXPECT_EQ(row, kTokens * kChosen);
  EXPECT_TRUE(inputs[kExperts].equal(state.input));
}

TEST_F(SharedExpertTest, RotatedInputsAreThoseOfTheSameExperts) {
  Open(RandomQwen().tensors, QwenConfig());
  numerics::InputRotations rotations;
  for (const LinearShape& linear : model_->BlockLinears(0)) {
    if (!absl::EndsWith(linear.name, "down_proj")) continue;
    rotations.insert(
        {linear.name, numerics::Rotation::Randomized(linear.in_features, 1)});
  }
  const auto loader = WithRotatedInputs(MakeDenseLoader(*reader_), rotations);
  const auto rotated = *MakeModel(*reader_, *loader);
  const auto plain_block = *model_->LoadBlock(0, kTokens);
  const auto block = *rotated->LoadBlock(0, kTokens);
  SequenceState state = StateBefore(3, *plain_block);
  const auto plain = plain_block->Inputs(3, state);
  const auto inputs = block->Inputs(3, state);
  ASSERT_EQ(inputs.size(), static_cast<size_t>(kExperts + 1));
  for (size_t e = 0; e < inputs.size(); ++e) {
    const auto rotation = rotations.find(block->stages()[3].linears[e]);
    EXPECT_TRUE(inputs[e].equal(rotation->second.Apply(plain[e]))) << e;
  }
  EXPECT_LT(RunModel(*rotated, ids_)
                ->logits.sub(RunModel(*model_, ids_)->logits)
                .abs()
                .max()
                .item<double>(),
            1e-5);
}

TEST_F(SharedExpertTest, DownProjectionsReadWhatTheirExpertMade) {
  Open(RandomQwen().tensors, QwenConfig());
  const auto block = *model_->LoadBlock(0, kTokens);
  SequenceState state = StateBefore(2, *block);
  const auto before = block->Inputs(2, state);
  block->Apply(2, &state);
  EXPECT_LE(state.input.size(1), model_->widest_input());
  const auto inputs = block->Inputs(3, state);
  ASSERT_EQ(inputs.size(), before.size());
  const Stage& gate_up = block->stages()[2];
  const Stage& down = block->stages()[3];
  for (size_t e = 0; e < inputs.size(); ++e) {
    EXPECT_EQ(gate_up.input_of[2 * e], static_cast<int64_t>(e));
    EXPECT_EQ(gate_up.input_of[2 * e + 1], static_cast<int64_t>(e));
    EXPECT_EQ(down.input_of[e], static_cast<int64_t>(e));
    if (before[e].size(0) == 0) continue;
    const at::Tensor gate =
        block->linear(gate_up.linears[2 * e]).Apply(before[e]);
    const at::Tensor up =
        block->linear(gate_up.linears[2 * e + 1]).Apply(before[e]);
    EXPECT_LT(
        inputs[e].sub(gate * gate.sigmoid() * up).abs().max().item<float>(),
        1e-6f);
  }
}

TEST_F(SharedExpertTest, ExpertsWithoutATokenAreNoTrouble) {
  checkpoints::TensorMap tensors = RandomQwen().tensors;
  // All scores are equal: the same experts are chosen for every token.
  at::Tensor& router = tensors["model.layers.0.mlp.gate.weight"];
  router = at::zeros_like(router);
  Open(tensors, QwenConfig());
  const auto block = *model_->LoadBlock(0, kTokens);
  SequenceState state = StateBefore(2, *block);
  int64_t without = 0;
  for (const at::Tensor& input : block->Inputs(2, state)) {
    if (input.size(0) == 0) ++without;
  }
  EXPECT_EQ(without, kExperts - kChosen);
  block->Apply(2, &state);
  block->Apply(3, &state);
  EXPECT_TRUE(state.residual.isfinite().all().item<bool>());
}

TEST_F(SharedExpertTest, ImpossibleMixturesAreRefused) {
  const checkpoints::TensorMap tensors = RandomQwen().tensors;
  const std::pair<const char*, Json> bad[] = {
      {"num_experts_per_tok", 7},
      {"num_experts_per_tok", 0},
      {"num_experts", -1},
      {"moe_intermediate_size", 0},
      {"decoder_sparse_step", 0},
      {"mlp_only_layers", {"one"}},
      {"mlp_only_layers", 1},
      {"norm_topk_prob", "yes"},
      {"shared_expert_intermediate_size", 0}};
  for (const auto& [key, value] : bad) {
    Open(tensors, QwenConfig());
    Json config = QwenConfig();
    config[key] = value;
    ASSERT_TRUE(
        base::WriteFileAtomically(folder_.File("config.json"), config.dump())
            .ok());
    reader_ = checkpoints::OpenCheckpoint(folder_.path()).value();
    EXPECT_EQ(base::ErrorReason(MakeModel(*reader_, *loader_).status()),
              "CONFIG_VALUE")
        << key << " " << value;
  }
}

}  // namespace
}  // namespace quantd::models
