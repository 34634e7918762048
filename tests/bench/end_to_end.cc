// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/end_to_end.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "proto/base/clock.h"
#include "proto/base/status_macros.h"
#include "tests/bench/eager_gptq.h"
#include "tests/bench/measure.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/models/model.h"
#include "worker/pipeline/block_quantizer.h"

namespace quantd::bench {
namespace {

// The widths of Qwen3-0.6B, one block of it; 8192 tokens.
constexpr int64_t kHidden = 1024;
constexpr int64_t kIntermediate = 3072;
constexpr int64_t kHeads = 16;
constexpr int64_t kKeyHeads = 8;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kSequences = 16;
constexpr int64_t kTokens = 512;
constexpr int64_t kGroup = 128;
constexpr double kAllTokens = kSequences * kTokens;

// Small weights, norms about one, a few loud input features.
absl::Status WriteModel(const std::string& folder) {
  const nlohmann::json config = {{"model_type", "qwen3"},
                                 {"vocab_size", 64},
                                 {"hidden_size", kHidden},
                                 {"intermediate_size", kIntermediate},
                                 {"num_hidden_layers", 1},
                                 {"num_attention_heads", kHeads},
                                 {"num_key_value_heads", kKeyHeads},
                                 {"head_dim", kHeadDim},
                                 {"max_position_embeddings", 2048},
                                 {"tie_word_embeddings", true}};
  std::ofstream(folder + "/config.json") << config.dump();
  checkpoints::TensorMap tensors;
  const auto linear = [&](const char* name, int64_t out, int64_t in) {
    tensors[std::string("model.layers.0.") + name + ".weight"] =
        at::randn({out, in}).div_(std::sqrt(static_cast<double>(in)));
  };
  const auto norm = [&](const char* name, int64_t width) {
    at::Tensor weight = at::randn({width}).mul_(0.3).exp_();
    weight.narrow(0, 0, 4).mul_(10);
    tensors[std::string("model.") + name + ".weight"] = weight;
  };
  linear("self_attn.q_proj", kHeads * kHeadDim, kHidden);
  linear("self_attn.k_proj", kKeyHeads * kHeadDim, kHidden);
  linear("self_attn.v_proj", kKeyHeads * kHeadDim, kHidden);
  linear("self_attn.o_proj", kHidden, kHeads * kHeadDim);
  linear("mlp.gate_proj", kIntermediate, kHidden);
  linear("mlp.up_proj", kIntermediate, kHidden);
  linear("mlp.down_proj", kHidden, kIntermediate);
  norm("layers.0.input_layernorm", kHidden);
  norm("layers.0.post_attention_layernorm", kHidden);
  norm("layers.0.self_attn.q_norm", kHeadDim);
  norm("layers.0.self_attn.k_norm", kHeadDim);
  norm("norm", kHidden);
  tensors["model.embed_tokens.weight"] = at::randn({64, kHidden});
  return checkpoints::WriteSafetensors(folder + "/model.safetensors", tensors);
}

// Multiplications of one token by the weights of a stage.
double StageWork(const models::Block& block, int64_t stage) {
  double work = 0;
  for (const std::string& name : block.stages()[stage].linears) {
    const models::Linear& linear = block.linear(name);
    work += static_cast<double>(linear.out_features()) *
            static_cast<double>(linear.in_features());
  }
  return work;
}

double BlockWork(const models::Block& block) {
  double work = 0;
  for (size_t s = 0; s < block.stages().size(); ++s) {
    work += StageWork(block, static_cast<int64_t>(s));
  }
  return work;
}

// A block that counts the multiplications by its linears' weights.
class CountingBlock : public models::Block {
 public:
  explicit CountingBlock(models::Block& block) : block_(block) {}
  const std::vector<models::Stage>& stages() const override {
    return block_.stages();
  }
  const models::Linear& linear(const std::string& name) const override {
    return block_.linear(name);
  }
  void Replace(const std::string& name,
               std::unique_ptr<models::Linear> linear) override {
    block_.Replace(name, std::move(linear));
  }
  void RoundKeysAndValues(formats::KvRounding rounding) override {
    block_.RoundKeysAndValues(std::move(rounding));
  }
  void Begin(models::SequenceState* state) const override {
    block_.Begin(state);
  }
  std::vector<at::Tensor> Inputs(
      int64_t stage, const models::SequenceState& state) const override {
    return block_.Inputs(stage, state);
  }
  void Apply(int64_t stage, models::SequenceState* state) const override {
    counted_ +=
        StageWork(block_, stage) * static_cast<double>(state->input.size(0));
    block_.Apply(stage, state);
  }
  double counted() const { return counted_; }

 private:
  models::Block& block_;
  mutable double counted_ = 0;
};

// FLOP that every implementation of one-pass GPTQ has to do: one forward with
// causal attention, T C^2 for each distinct input, its factor and the columns.
double UsefulFlops(const models::Block& block) {
  double flops = 2 * kAllTokens * BlockWork(block);
  flops += 2 * kAllTokens * kTokens * kHeads * kHeadDim;
  for (const models::Stage& stage : block.stages()) {
    const double in =
        static_cast<double>(block.linear(stage.linears[0]).in_features());
    flops += kAllTokens * in * in + 2 * in * in * in / 3;
    for (const std::string& name : stage.linears) {
      flops += static_cast<double>(block.linear(name).out_features()) * in * in;
    }
  }
  return flops;
}

// float32 weights, the Gram matrices of its distinct inputs, and the residual
// stream with the widest input of a stage.
double IdealBytes(const models::Block& block) {
  double floats = BlockWork(block) + kAllTokens * (kHidden + kIntermediate);
  for (const models::Stage& stage : block.stages()) {
    const double in =
        static_cast<double>(block.linear(stage.linears[0]).in_features());
    floats += in * in;
  }
  return floats * sizeof(float);
}

class SilentSink : public pipeline::Sink {
 public:
  void ReportProgress(const v1::Progress&) override {}
  absl::Status StepDone(const v1::Step&,
                        const std::map<std::string, std::string>&) override {
    return absl::OkStatus();
  }
};

std::map<std::string, pipeline::ModulePlan> PlanAll(
    const models::Block& block) {
  std::map<std::string, pipeline::ModulePlan> plans;
  for (const models::Stage& stage : block.stages()) {
    for (const std::string& name : stage.linears) {
      pipeline::ModulePlan& plan = plans[name];
      plan.name = name;
      plan.out_features = block.linear(name).out_features();
      plan.in_features = block.linear(name).in_features();
      plan.quantized = true;
      plan.spec.format = "int4";
      plan.spec.group_size = kGroup;
      plan.method.set_id("gptq");
    }
  }
  return plans;
}

absl::StatusOr<std::unique_ptr<pipeline::ActivationCache>> MakeCache(
    const at::Tensor& input) {
  pipeline::ActivationCache::Options options;
  options.sequences = kSequences;
  options.tokens = kTokens;
  options.hidden = kHidden;
  options.widest_input = kIntermediate;
  options.budget_bytes = int64_t{4} << 30;
  ASSIGN_OR_RETURN(auto cache, pipeline::ActivationCache::Create(options));
  for (int64_t i = 0; i < kSequences; ++i) {
    cache->Store(i, {.residual = input.narrow(0, i * kTokens, kTokens),
                     .input = at::Tensor()});
  }
  return cache;
}

absl::Status RunOurs(models::Block& block, pipeline::ActivationCache* cache) {
  SilentSink sink;
  const v1::StartJob start;
  const pipeline::Journal journal(start, sink, "",
                                  {{pipeline::kBlockStep, "0"}});
  pipeline::ProgressReporter progress(sink, journal, 1, base::Clock::Real());
  const base::CancelToken cancel;
  pipeline::BlockQuantizer quantizer(
      {.allow_fallback = false, .sequence_length = kTokens}, cancel, progress);
  return quantizer.Run(block, PlanAll(block), cache).status();
}

// Every linear's own Hessian in a first pass, then the linears, then a second
// pass through the quantized block.
void RunEager(models::Block& block, const at::Tensor& input) {
  std::map<std::string, at::Tensor> grams;
  const auto stages = static_cast<int64_t>(block.stages().size());
  for (int64_t i = 0; i < kSequences; ++i) {
    models::SequenceState state;
    state.residual = input.narrow(0, i * kTokens, kTokens);
    block.Begin(&state);
    for (int64_t s = 0; s < stages; ++s) {
      for (const std::string& name : block.stages()[s].linears) {
        at::Tensor& gram = grams[name];
        const int64_t in = state.input.size(1);
        if (!gram.defined()) gram = at::zeros({in, in});
        EagerGram(gram, state.input, i);
      }
      block.Apply(s, &state);
    }
  }
  for (auto& [name, gram] : grams) {
    gram.diagonal().add_(0.01 * gram.diagonal().mean().item<double>());
    block.Replace(name, models::MakeDenseLinear(
                            EagerColumns(block.linear(name).DenseWeight(),
                                         EagerFactor(gram), kGroup, 15),
                            at::Tensor()));
  }
  for (int64_t i = 0; i < kSequences; ++i) {
    models::SequenceState state;
    state.residual = input.narrow(0, i * kTokens, kTokens);
    block.Forward(&state);
  }
}

}  // namespace

absl::Status RunEndToEnd(int threads, double peak) {
  const support::TemporaryDirectory folder;
  RETURN_IF_ERROR(WriteModel(folder.path()));
  ASSIGN_OR_RETURN(const auto reader,
                   checkpoints::OpenCheckpoint(folder.path()));
  const auto loader = models::MakeDenseLoader(*reader);
  ASSIGN_OR_RETURN(const auto model, models::MakeModel(*reader, *loader));
  at::Tensor input = at::randn({kSequences * kTokens, kHidden});

  const double before = ResidentBytes() - static_cast<double>(input.nbytes());
  ForgetPeak();
  ASSIGN_OR_RETURN(auto block, model->LoadBlock(0, kTokens));
  const double useful = UsefulFlops(*block);
  const double ideal = IdealBytes(*block);
  const double forward = kAllTokens * BlockWork(*block);
  CountingBlock counting(*block);
  ASSIGN_OR_RETURN(auto cache, MakeCache(input));
  const Stopwatch ours_watch(threads);
  RETURN_IF_ERROR(RunOurs(counting, cache.get()));
  const double ours = ours_watch.Seconds();
  const double resident =
      PeakResidentBytes() - static_cast<double>(input.nbytes());
  cache.reset();

  ASSIGN_OR_RETURN(block, model->LoadBlock(0, kTokens));
  const Stopwatch eager_watch(threads);
  RunEager(*block, input);
  const double eager = eager_watch.Seconds();

  printf("one block of Qwen3-0.6B's widths, %g tokens, int4 g128\n",
         kAllTokens);
  printf(
      "  gptq           %.2f s, %.2f GFLOP of use = %.2f x their time at "
      "peak\n",
      ours, 1e-9 * useful, ours * peak / useful);
  printf("  eager          %.2f s = %.1f x ours\n", eager, eager / ours);
  printf("  forwards per block %.3f\n", counting.counted() / forward);
  printf(
      "  peak memory %.0f MB, %.0f MB of it before; weights, Gram matrices "
      "and activations are %.0f MB: %.2f x, with all %.2f x\n",
      1e-6 * resident, 1e-6 * before, 1e-6 * ideal, (resident - before) / ideal,
      resident / ideal);
  return absl::OkStatus();
}

}  // namespace quantd::bench
