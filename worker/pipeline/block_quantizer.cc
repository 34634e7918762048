// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/block_quantizer.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/methods/method.h"

namespace quantd::pipeline {
namespace {

const ModulePlan* FindPlan(const std::map<std::string, ModulePlan>& plans,
                           const std::string& name) {
  const auto found = plans.find(name);
  return found == plans.end() || !found->second.quantized ? nullptr
                                                          : &found->second;
}

// The input features of a stage whose Gram matrix somebody needs, else 0.
absl::StatusOr<int64_t> GramWidth(
    const models::Stage& stage,
    const std::map<std::string, ModulePlan>& plans) {
  for (const std::string& name : stage.linears) {
    const ModulePlan* plan = FindPlan(plans, name);
    if (plan == nullptr) continue;
    ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan->method));
    if (method->needs() == methods::Needs::kGram) return plan->in_features;
  }
  return 0;
}

v1::LayerReport LayerOf(const ModulePlan& plan) {
  v1::LayerReport layer;
  layer.set_name(plan.name);
  layer.set_block(plan.block);
  layer.set_format(plan.spec.format);
  layer.set_group_size(plan.spec.group_size);
  layer.set_out_features(plan.out_features);
  layer.set_in_features(plan.in_features);
  return layer;
}

// The verdict and the errors of a solution beside those of plain rounding.
absl::StatusOr<v1::LayerReport> Judge(const ModulePlan& plan,
                                      const methods::LinearProblem& problem,
                                      const methods::LinearSolution& solution) {
  v1::LayerReport layer = LayerOf(plan);
  layer.set_verdict(solution.verdict);
  layer.set_reason(solution.reason);
  layer.set_damp(solution.damp);
  ASSIGN_OR_RETURN(const formats::QuantizedLinear rounded,
                   formats::RoundToNearest(problem.weight, problem.spec));
  const double energy =
      methods::OutputEnergy(problem.weight, problem.statistics);
  layer.set_relative_error(methods::RelativeError(
      problem.weight, solution.linear, problem.statistics, energy));
  layer.set_rtn_relative_error(methods::RelativeError(
      problem.weight, rounded, problem.statistics, energy));
  if (problem.statistics != nullptr) {
    layer.set_tokens(problem.statistics->tokens);
  }
  return layer;
}

// A layer whose statistics are not finite: what every method does of it.
absl::StatusOr<methods::LinearSolution> RoundWithout(
    const methods::LinearProblem& problem, const absl::Status& why) {
  methods::LinearSolution solution;
  ASSIGN_OR_RETURN(solution.linear,
                   formats::RoundToNearest(problem.weight, problem.spec));
  solution.verdict = v1::VERDICT_RTN_FALLBACK;
  solution.reason = std::string(why.message());
  return solution;
}

// Smallest and largest mean square of an input feature, for the message.
std::string DiagonalText(const at::Tensor& gram, int64_t tokens) {
  if (!gram.defined() || tokens == 0) return "no statistics";
  const at::Tensor diagonal = gram.diagonal();
  return absl::StrCat("mean squares of its inputs from ",
                      diagonal.min().item<float>() / tokens, " to ",
                      diagonal.max().item<float>() / tokens, " over ", tokens,
                      " tokens");
}

absl::Status FallbackRefused(const v1::LayerReport& layer,
                             const at::Tensor& gram) {
  const std::string statistic = DiagonalText(gram, layer.tokens());
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "NUMERIC_LAYER",
      absl::StrCat(layer.name(), ": ", layer.reason(), "; ", statistic,
                   "; calibrate with more or other text, or let such layers be "
                   "rounded to nearest with policy.on_numeric_failure=rtn"),
      {{"module", layer.name()},
       {"statistic", statistic},
       {"kept", absl::StrCat("gram:", layer.name())}});
}

}  // namespace

absl::StatusOr<calibration::Statistics> BlockQuantizer::Advance(
    const models::Block& block, int64_t stage, int64_t gram_width,
    ActivationCache* cache) {
  std::unique_ptr<calibration::GramAccumulator> gram;
  if (gram_width > 0) {
    gram = std::make_unique<calibration::GramAccumulator>(gram_width,
                                                          options_.device);
  }
  for (int64_t i = 0; i < cache->sequences(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    models::SequenceState state = cache->Load(i);
    if (stage < 0) {
      block.Begin(&state);
    } else {
      block.Apply(stage, &state);
    }
    if (gram != nullptr) gram->Add(state.input);
    cache->Store(i, state);
    progress_.AddTokens(options_.sequence_length);
  }
  calibration::Statistics statistics;
  if (gram != nullptr) RETURN_IF_ERROR(gram->Finish(&statistics));
  return statistics;
}

absl::StatusOr<QuantizedBlock> BlockQuantizer::Run(
    models::Block& block, const std::map<std::string, ModulePlan>& plans,
    ActivationCache* cache) {
  QuantizedBlock out;
  const int64_t stages = block.stages().size();
  // Stage s's linears are replaced before stage s is applied; the turn before
  // the first stage only makes its input.
  for (int64_t s = -1; s < stages; ++s) {
    if (s >= 0) progress_.Report(block.stages()[s].linears.front());
    int64_t width = 0;
    if (s + 1 < stages) {
      ASSIGN_OR_RETURN(width, GramWidth(block.stages()[s + 1], plans));
    }
    absl::StatusOr<calibration::Statistics> statistics =
        calibration::Statistics();
    if (cache != nullptr) statistics = Advance(block, s, width, cache);
    if (absl::IsCancelled(statistics.status())) return statistics.status();
    if (s + 1 < stages) {
      RETURN_IF_ERROR(
          QuantizeStage(block, block.stages()[s + 1], plans, statistics, &out));
    }
  }
  return out;
}

absl::Status BlockQuantizer::QuantizeStage(
    models::Block& block, const models::Stage& stage,
    const std::map<std::string, ModulePlan>& plans,
    const absl::StatusOr<calibration::Statistics>& statistics,
    QuantizedBlock* out) {
  methods::SharedWork shared;
  for (const std::string& name : stage.linears) {
    const ModulePlan* plan = FindPlan(plans, name);
    if (plan == nullptr) continue;
    RETURN_IF_ERROR(cancel_.Check());
    progress_.Report(name);
    const models::Linear& linear = block.linear(name);
    const at::Tensor bias = linear.bias();
    RETURN_IF_ERROR(RunLinear(*plan, linear, statistics, &shared, out));
    const at::Tensor dense = formats::Dequantize(out->modules.at(name));
    block.Replace(name,
                  models::MakeDenseLinear(dense.to(options_.device), bias));
  }
  return absl::OkStatus();
}

absl::Status BlockQuantizer::RunLinear(
    const ModulePlan& plan, const models::Linear& linear,
    const absl::StatusOr<calibration::Statistics>& statistics,
    methods::SharedWork* shared, QuantizedBlock* out) {
  const absl::Duration began = base::Clock::Real().Monotonic();
  ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
  const at::Tensor weight = linear.DenseWeight();
  methods::LinearProblem problem{
      .weight = weight, .spec = plan.spec, .shared = shared};
  const bool wanted = method->needs() != methods::Needs::kNothing;
  if (wanted && statistics.ok()) problem.statistics = &*statistics;
  absl::StatusOr<methods::LinearSolution> solution =
      wanted && !statistics.ok() ? RoundWithout(problem, statistics.status())
                                 : method->QuantizeLinear(problem, cancel_);
  if (!solution.ok()) return base::AddContext(solution.status(), plan.name);

  ASSIGN_OR_RETURN(v1::LayerReport layer, Judge(plan, problem, *solution));
  const at::Tensor gram =
      problem.statistics == nullptr ? at::Tensor() : problem.statistics->gram;
  layer.set_seconds(
      absl::ToDoubleSeconds(base::Clock::Real().Monotonic() - began));
  progress_.SetLoss(layer.relative_error());
  if (solution->verdict == v1::VERDICT_RTN_FALLBACK) {
    if (!options_.allow_fallback) {
      failure_ = {layer, gram};
      failure_.layer.set_verdict(v1::VERDICT_FAILED);
      return FallbackRefused(layer, gram);
    }
    if (gram.defined()) out->rejected_grams[plan.name] = gram;
  }
  out->layers.push_back(std::move(layer));
  out->modules[plan.name] = std::move(solution->linear);
  return absl::OkStatus();
}

}  // namespace quantd::pipeline
