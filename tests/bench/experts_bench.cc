// SPDX-License-Identifier: Apache-2.0
// The experts of one decoder block of Qwen3-30B-A3B's widths, cut down in
// number: GPTQ one after another on all threads, and side by side with a thread
// each, in turns in one run:
//   experts_bench [--threads N] [--repeats N] [--experts N] [--tokens N]
// Wall seconds, the median and the spread (least .. most) of the repeats.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/clock.h"
#include "proto/base/status_macros.h"
#include "tests/bench/measure.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/formats/quantized_linear.h"
#include "worker/models/model.h"
#include "worker/pipeline/block_quantizer.h"

namespace quantd::bench {
namespace {

constexpr int64_t kHidden = 2048;
constexpr int64_t kWidth = 768;
constexpr int64_t kChosen = 8;
constexpr int64_t kSequence = 512;
constexpr int64_t kGroup = 128;

struct Flags {
  int threads = 2;
  int repeats = 3;
  int64_t experts = 32;
  // A token goes to 8 of the experts.
  int64_t tokens = 1024;
};

absl::Status WriteModel(const std::string& folder, int64_t experts) {
  const nlohmann::json config = {
      {"model_type", "qwen3_moe"},       {"vocab_size", 64},
      {"hidden_size", kHidden},          {"intermediate_size", kWidth},
      {"moe_intermediate_size", kWidth}, {"num_experts", experts},
      {"num_experts_per_tok", kChosen},  {"norm_topk_prob", true},
      {"num_hidden_layers", 1},          {"num_attention_heads", 4},
      {"num_key_value_heads", 1},        {"head_dim", 128},
      {"max_position_embeddings", 2048}, {"tie_word_embeddings", true}};
  std::ofstream(folder + "/config.json") << config.dump();
  checkpoints::TensorMap tensors;
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    tensors[absl::StrCat("model.layers.0.", name, ".weight")] =
        at::randn({out, in}).div_(std::sqrt(static_cast<double>(in)));
  };
  const auto norm = [&](const std::string& name, int64_t width) {
    tensors[absl::StrCat("model.", name, ".weight")] =
        at::randn({width}).mul_(0.3).exp_();
  };
  linear("self_attn.q_proj", 512, kHidden);
  linear("self_attn.k_proj", 128, kHidden);
  linear("self_attn.v_proj", 128, kHidden);
  linear("self_attn.o_proj", kHidden, 512);
  linear("mlp.gate", experts, kHidden);
  for (int64_t e = 0; e < experts; ++e) {
    linear(absl::StrCat("mlp.experts.", e, ".gate_proj"), kWidth, kHidden);
    linear(absl::StrCat("mlp.experts.", e, ".up_proj"), kWidth, kHidden);
    linear(absl::StrCat("mlp.experts.", e, ".down_proj"), kHidden, kWidth);
  }
  norm("layers.0.input_layernorm", kHidden);
  norm("layers.0.post_attention_layernorm", kHidden);
  norm("layers.0.self_attn.q_norm", 128);
  norm("layers.0.self_attn.k_norm", 128);
  norm("norm", kHidden);
  tensors["model.embed_tokens.weight"] = at::randn({64, kHidden});
  return checkpoints::WriteSafetensors(folder + "/model.safetensors", tensors);
}

// Stays as it is, so that every repeat has the same weights before it.
class FixedBlock : public models::Block {
 public:
  explicit FixedBlock(const models::Block& block) : block_(block) {}
  const std::vector<models::Stage>& stages() const override {
    return block_.stages();
  }
  const models::Linear& linear(const std::string& name) const override {
    return block_.linear(name);
  }
  void Replace(const std::string&, std::unique_ptr<models::Linear>) override {}
  void RoundKeysAndValues(formats::KvRounding) override {}
  void Begin(models::SequenceState* state) const override {
    block_.Begin(state);
  }
  std::vector<at::Tensor> Inputs(
      int64_t stage, const models::SequenceState& state) const override {
    return block_.Inputs(stage, state);
  }
  void Apply(int64_t stage, models::SequenceState* state) const override {
    block_.Apply(stage, state);
  }

 private:
  const models::Block& block_;
};

class SilentSink : public pipeline::Sink {
 public:
  void ReportProgress(const v1::Progress&) override {}
  absl::Status StepDone(const v1::Step&,
                        const std::map<std::string, std::string>&) override {
    return absl::OkStatus();
  }
};

// GPTQ for the experts; attention stays in floating point.
std::map<std::string, pipeline::ModulePlan> PlanExperts(
    const models::Block& block) {
  std::map<std::string, pipeline::ModulePlan> plans;
  for (const models::Stage& stage : block.stages()) {
    for (const std::string& name : stage.linears) {
      pipeline::ModulePlan& plan = plans[name];
      plan.name = name;
      plan.out_features = block.linear(name).out_features();
      plan.in_features = block.linear(name).in_features();
      plan.quantized = absl::StrContains(name, ".experts.");
      plan.spec.format = "int4";
      plan.spec.group_size = kGroup;
      plan.method.set_id("gptq");
    }
  }
  return plans;
}

class Bench {
 public:
  Bench(const Flags& flags, models::Block& block)
      : flags_(flags),
        block_(block),
        input_(at::randn({flags.tokens, kHidden})) {}

  absl::Status Run();

 private:
  struct Result {
    double seconds = 0;
    pipeline::QuantizedBlock block;
  };
  absl::StatusOr<Result> Quantize(bool side_by_side) const;
  void PrintTimes(const char* what, std::vector<double> seconds) const;
  // Of the experts' two stages, without their solutions.
  double ForwardSeconds() const;

  const Flags flags_;
  FixedBlock block_;
  const at::Tensor input_;
};

absl::StatusOr<Bench::Result> Bench::Quantize(bool side_by_side) const {
  pipeline::ActivationCache::Options options;
  options.sequences = flags_.tokens / kSequence;
  options.tokens = kSequence;
  options.hidden = kHidden;
  options.widest_input = std::max(kHidden, kChosen * kWidth);
  options.budget_bytes = int64_t{4} << 30;
  ASSIGN_OR_RETURN(auto cache, pipeline::ActivationCache::Create(options));
  for (int64_t i = 0; i < options.sequences; ++i) {
    cache->Store(i, {.residual = input_.narrow(0, i * kSequence, kSequence),
                     .input = at::Tensor()});
  }
  SilentSink sink;
  const v1::StartJob start;
  const pipeline::Journal journal(start, sink, "",
                                  {{pipeline::kBlockStep, "0"}});
  pipeline::ProgressReporter progress(sink, journal, 1, base::Clock::Real());
  const base::CancelToken cancel;
  pipeline::BlockQuantizer quantizer(
      {.sequence_length = kSequence, .side_by_side = side_by_side}, cancel,
      progress);
  FixedBlock block = block_;
  Result result;
  const Stopwatch watch(/*threads=*/2);
  ASSIGN_OR_RETURN(result.block,
                   quantizer.Run(block, PlanExperts(block), cache.get()));
  result.seconds = watch.Seconds();
  return result;
}

double Bench::ForwardSeconds() const {
  const Stopwatch watch(/*threads=*/2);
  for (int64_t i = 0; i < flags_.tokens / kSequence; ++i) {
    models::SequenceState state;
    state.residual = input_.narrow(0, i * kSequence, kSequence);
    block_.Forward(&state);
  }
  return watch.Seconds();
}

void Bench::PrintTimes(const char* what, std::vector<double> seconds) const {
  std::sort(seconds.begin(), seconds.end());
  printf("  %-18s %7.3f s (%.3f .. %.3f)\n", what, seconds[seconds.size() / 2],
         seconds.front(), seconds.back());
  fflush(stdout);
}

// Whether codes and scales are the same.
bool Equal(const pipeline::QuantizedBlock& a,
           const pipeline::QuantizedBlock& b) {
  for (const auto& [name, linear] : a.modules) {
    const formats::QuantizedLinear& other = b.modules.at(name);
    if (!linear.codes.equal(other.codes)) return false;
    if (!linear.scales.equal(other.scales)) return false;
  }
  return a.modules.size() == b.modules.size();
}

absl::Status Bench::Run() {
  std::vector<double> after, beside, forward;
  bool equal = true;
  int64_t fewest = flags_.tokens;
  int64_t most = 0;
  for (int i = 0; i < flags_.repeats; ++i) {
    ASSIGN_OR_RETURN(const Result in_turn, Quantize(/*side_by_side=*/false));
    ASSIGN_OR_RETURN(const Result together, Quantize(/*side_by_side=*/true));
    after.push_back(in_turn.seconds);
    beside.push_back(together.seconds);
    forward.push_back(ForwardSeconds());
    equal = equal && Equal(in_turn.block, together.block);
    for (const v1::LayerReport& layer : together.block.layers) {
      fewest = std::min<int64_t>(fewest, layer.tokens());
      most = std::max<int64_t>(most, layer.tokens());
    }
  }
  printf("%ld experts, %ld tokens, %ld to %ld of them each, %d threads\n",
         static_cast<long>(flags_.experts), static_cast<long>(flags_.tokens),
         static_cast<long>(fewest), static_cast<long>(most), flags_.threads);
  PrintTimes("one after another", after);
  PrintTimes("side by side", beside);
  PrintTimes("a forward alone", forward);
  printf("  the same codes and scales: %s\n", equal ? "yes" : "no");
  return absl::OkStatus();
}

absl::Status RunBench(const Flags& flags) {
  const support::TemporaryDirectory folder;
  RETURN_IF_ERROR(WriteModel(folder.path(), flags.experts));
  ASSIGN_OR_RETURN(const auto reader,
                   checkpoints::OpenCheckpoint(folder.path()));
  const auto loader = models::MakeDenseLoader(*reader);
  ASSIGN_OR_RETURN(const auto model, models::MakeModel(*reader, *loader));
  ASSIGN_OR_RETURN(const auto block, model->LoadBlock(0, kSequence));
  return Bench(flags, *block).Run();
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) {
  quantd::bench::Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) {
    const long value = strtol(argv[i + 1], nullptr, 10);
    if (strcmp(argv[i], "--threads") == 0) flags.threads = value;
    if (strcmp(argv[i], "--repeats") == 0) flags.repeats = value;
    if (strcmp(argv[i], "--experts") == 0) flags.experts = value;
    if (strcmp(argv[i], "--tokens") == 0) flags.tokens = value;
  }
  at::set_num_threads(flags.threads);
  const absl::Status status = quantd::bench::RunBench(flags);
  if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
