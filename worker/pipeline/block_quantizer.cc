// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/block_quantizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/formats/format.h"
#include "worker/methods/method.h"
#include "worker/methods/token_count.h"
#include "worker/methods/usable_statistics.h"
#include "worker/numerics/side_by_side.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/simulated_linear.h"

namespace quantd::pipeline {
namespace {

v1::LayerReport LayerOf(const ModulePlan& plan) {
  v1::LayerReport layer;
  layer.set_name(plan.name);
  layer.set_block(plan.block);
  layer.set_format(plan.spec.format);
  layer.set_group_size(plan.spec.group_size);
  layer.set_out_features(plan.out_features);
  layer.set_in_features(plan.in_features);
  if (plan.activations.has_value()) {
    layer.set_activations(plan.activations->grid.format);
  }
  return layer;
}

// The verdict and the errors of a solution beside those of plain rounding.
absl::StatusOr<v1::LayerReport> Judge(const ModulePlan& plan,
                                      const methods::LinearProblem& problem,
                                      const methods::LinearSolution& solution,
                                      const base::CancelToken& cancel) {
  v1::LayerReport layer = LayerOf(plan);
  layer.set_verdict(solution.verdict);
  layer.set_reason(solution.reason);
  layer.set_damp(solution.damp);
  layer.set_first_loss(solution.first_loss);
  layer.set_last_loss(solution.last_loss);
  for (const methods::LossPoint& point : solution.loss_curve) {
    v1::LossPoint* row = layer.add_loss_curve();
    row->set_step(point.step);
    row->set_loss(point.loss);
  }
  ASSIGN_OR_RETURN(
      const formats::QuantizedLinear rounded,
      formats::RoundToNearest(problem.weight, problem.spec, cancel));
  ASSIGN_OR_RETURN(
      const double energy,
      methods::OutputEnergy(problem.weight, problem.statistics, cancel));
  ASSIGN_OR_RETURN(const double error,
                   methods::RelativeError(problem.weight, solution.linear,
                                          problem.statistics, energy, cancel));
  ASSIGN_OR_RETURN(const double rtn_error,
                   methods::RelativeError(problem.weight, rounded,
                                          problem.statistics, energy, cancel));
  layer.set_relative_error(error);
  layer.set_rtn_relative_error(rtn_error);
  if (problem.statistics != nullptr) {
    layer.set_tokens(problem.statistics->tokens);
  }
  return layer;
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

absl::StatusOr<std::vector<InputGroup>> BlockQuantizer::StageGroups(
    const models::Stage& stage, int64_t index, const Plans& plans) const {
  ASSIGN_OR_RETURN(std::vector<InputGroup> groups,
                   GroupsOf(stage, index, plans));
  if (!options_.side_by_side || !options_.device.is_cpu()) {
    for (InputGroup& group : groups) group.alike = 1;
  }
  return groups;
}

absl::StatusOr<std::vector<GroupStatistics>> BlockQuantizer::StagePass(
    const models::Block& block, int64_t stage, bool advance, Groups groups,
    const Streams& streams) {
  GroupSums sums(groups, options_.device, cancel_);
  const auto& stages = block.stages();
  // A further pass sees the same rows again.
  const bool ranges = advance && stage < std::ssize(stages) &&
                      ranges_->Wants(stages[static_cast<size_t>(stage)]);
  const bool wanted = ranges || sums.Wants(stage);
  const int64_t tokens = options_.sequence_length;
  const auto step = [stage](const models::Block& through,
                            models::SequenceState* state) {
    stage == 0 ? through.Begin(state) : through.Apply(stage - 1, state);
  };
  ActivationCache* cache = streams.cache;
  const FloatReference& reference = streams.reference;
  const int64_t sequences = wanted || advance ? cache->sequences() : 0;
  for (int64_t i = 0; i < sequences; ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    models::SequenceState state = cache->Load(i);
    models::SequenceState float_state;
    if (reference.cache != nullptr) float_state = reference.cache->Load(i);
    if (advance) {
      step(block, &state);
      if (reference.cache != nullptr) step(*reference.block, &float_state);
    }
    if (wanted) {
      std::vector<at::Tensor> compared;
      if (reference.cache != nullptr) {
        compared = reference.block->Inputs(stage, float_state);
      }
      const std::vector<at::Tensor> inputs = block.Inputs(stage, state);
      if (ranges) ranges_->Add(stages[static_cast<size_t>(stage)], inputs);
      RETURN_IF_ERROR(sums.Add(stage, inputs, compared, tokens));
    }
    if (!advance) continue;
    cache->Store(i, state);
    if (reference.cache != nullptr) reference.cache->Store(i, float_state);
    progress_.AddTokens(tokens);
  }
  return sums.Finish(cache->sequences() * tokens);
}

absl::StatusOr<std::vector<GroupStatistics>> BlockQuantizer::BlockPass(
    const models::Block& block, bool first, Groups groups,
    const Streams& streams) {
  GroupSums sums(groups, options_.device, cancel_);
  const int64_t tokens = options_.sequence_length;
  const FloatReference& reference = streams.reference;
  const auto& stages = block.stages();
  int64_t end = groups.back().stage + 1;
  for (int64_t stage = end; first && stage < std::ssize(stages); ++stage) {
    if (ranges_->Wants(stages[static_cast<size_t>(stage)])) end = stage + 1;
  }
  for (int64_t i = 0; i < streams.cache->sequences(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    models::SequenceState state = streams.cache->Load(i);
    block.Begin(&state);
    models::SequenceState float_state;
    if (reference.cache != nullptr) {
      float_state = reference.cache->Load(i);
      reference.block->Begin(&float_state);
    }
    for (int64_t stage = 0; stage < end; ++stage) {
      RETURN_IF_ERROR(cancel_.Check());
      const models::Stage& here = stages[static_cast<size_t>(stage)];
      if (stage > 0) block.Apply(stage - 1, &state);
      std::vector<at::Tensor> compared;
      if (reference.cache != nullptr) {
        if (stage > 0) reference.block->Apply(stage - 1, &float_state);
        compared = reference.block->Inputs(stage, float_state);
      }
      const bool ranges = first && ranges_->Wants(here);
      if (!ranges && !sums.Wants(stage)) continue;
      const std::vector<at::Tensor> inputs = block.Inputs(stage, state);
      if (ranges) ranges_->Add(here, inputs);
      RETURN_IF_ERROR(sums.Add(stage, inputs, compared, tokens));
    }
    progress_.AddTokens(tokens);
  }
  return sums.Finish(streams.cache->sequences() * tokens);
}

absl::Status BlockQuantizer::RunStages(models::Block& block, const Plans& plans,
                                       const Streams& streams,
                                       QuantizedBlock* out) {
  const std::vector<models::Stage>& stages = block.stages();
  const auto last = static_cast<int64_t>(stages.size());
  for (int64_t stage = 0; stage < last; ++stage) {
    ASSIGN_OR_RETURN(const std::vector<InputGroup> groups,
                     StageGroups(stages[stage], stage, plans));
    Groups left = groups;
    do {
      const Groups batch =
          left.subspan(0, GroupsWithin(left, options_.gram_bytes));
      std::vector<GroupStatistics> statistics(batch.size(),
                                              calibration::Statistics());
      if (streams.cache != nullptr) {
        const bool advance = left.size() == groups.size();
        ASSIGN_OR_RETURN(statistics,
                         StagePass(block, stage, advance, batch, streams));
      }
      RETURN_IF_ERROR(
          QuantizeGroups(block, batch, plans, absl::MakeSpan(statistics), out));
      for (const InputGroup& group : batch) {
        RETURN_IF_ERROR(Replace(block, group, plans, *out));
      }
      left.remove_prefix(batch.size());
    } while (!left.empty());
    progress_.Report(stages[stage].linears.front());
  }
  const bool on = streams.cache != nullptr && options_.flow.through_quantized;
  if (!on && streams.reference.cache == nullptr) return absl::OkStatus();
  return StagePass(block, last, /*advance=*/true, {}, streams).status();
}

absl::Status BlockQuantizer::RunAtOnce(models::Block& block, const Plans& plans,
                                       const Streams& streams,
                                       QuantizedBlock* out) {
  std::vector<InputGroup> groups;
  for (size_t s = 0; s < block.stages().size(); ++s) {
    ASSIGN_OR_RETURN(
        const std::vector<InputGroup> of_stage,
        StageGroups(block.stages()[s], static_cast<int64_t>(s), plans));
    groups.insert(groups.end(), of_stage.begin(), of_stage.end());
  }
  for (Groups left = groups; !left.empty();) {
    const Groups batch =
        left.subspan(0, GroupsWithin(left, options_.gram_bytes));
    const bool first = left.size() == groups.size();
    ASSIGN_OR_RETURN(std::vector<GroupStatistics> statistics,
                     BlockPass(block, first, batch, streams));
    RETURN_IF_ERROR(
        QuantizeGroups(block, batch, plans, absl::MakeSpan(statistics), out));
    left.remove_prefix(batch.size());
  }
  for (const InputGroup& group : groups) {
    RETURN_IF_ERROR(Replace(block, group, plans, *out));
  }
  const FloatReference& reference = streams.reference;
  if (reference.cache != nullptr) {
    RETURN_IF_ERROR(ForwardAll(*reference.block, *reference.cache, cancel_,
                               &progress_, reference.cache));
  }
  if (!options_.flow.through_quantized) return absl::OkStatus();
  return ForwardAll(block, *streams.cache, cancel_, &progress_, streams.cache);
}

absl::StatusOr<QuantizedBlock> BlockQuantizer::Run(
    models::Block& block, const Plans& plans, ActivationCache* cache,
    const FloatReference& reference) {
  QuantizedBlock out;
  ranges_ = std::make_unique<InputRanges>(plans);
  ASSIGN_OR_RETURN(const Plans scaled, WithTensorScales(block, plans));
  const Streams streams = {.cache = cache, .reference = reference};
  RETURN_IF_ERROR(options_.flow.stage_by_stage
                      ? RunStages(block, scaled, streams, &out)
                      : RunAtOnce(block, scaled, streams, &out));
  return out;
}

absl::Status BlockQuantizer::QuantizeGroups(
    const models::Block& block, Groups groups, const Plans& plans,
    absl::Span<GroupStatistics> statistics, QuantizedBlock* out) {
  // What is done is kept behind every run of groups that are side by side.
  const int64_t most = int64_t{8} * at::get_num_threads();
  const auto alone = [](const InputGroup& group) {
    return !group.OnOneThread();
  };
  while (!groups.empty()) {
    const auto end = std::find_if(groups.begin(), groups.end(), alone);
    const int64_t beside = std::min<int64_t>(most, end - groups.begin());
    const size_t count = static_cast<size_t>(std::max<int64_t>(1, beside));
    if (beside > 0) {
      RETURN_IF_ERROR(QuantizeSideBySide(block, groups.first(count), plans,
                                         statistics.first(count), out));
    } else {
      RETURN_IF_ERROR(
          QuantizeGroup(block, groups[0], plans, statistics[0], out));
    }
    // The matrices of a stage with experts are many.
    statistics[0] = calibration::Statistics();
    groups.remove_prefix(count);
    statistics.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::Status BlockQuantizer::QuantizeSideBySide(
    const models::Block& block, Groups groups, const Plans& plans,
    absl::Span<GroupStatistics> statistics, QuantizedBlock* out) {
  std::vector<SolvedGroup> solved(groups.size());
  bool fresh = false;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const std::string& name : groups[g].linears) {
      solved[g].kept.push_back(kept_->Take(LayerOf(plans.at(name))));
      fresh = fresh || !solved[g].kept.back().has_value();
    }
  }
  const absl::Status status =
      numerics::SideBySide(std::ssize(groups), [&](int64_t i) {
        const size_t g = static_cast<size_t>(i);
        solved[g].ended =
            SolveGroup(block, groups[g], plans, statistics[g], &solved[g]);
        statistics[g] = calibration::Statistics();
        return solved[g].ended;
      });
  for (SolvedGroup& group : solved) {
    const bool failed = !group.ended.ok();
    TakeOver(std::move(group), out);
    // Groups after the first that failed may have failed as well.
    if (failed) break;
  }
  if (status.ok() && fresh) kept_->Keep({out->modules, out->layers});
  return status;
}

absl::Status BlockQuantizer::SolveGroup(const models::Block& block,
                                        const InputGroup& group,
                                        const Plans& plans,
                                        const GroupStatistics& statistics,
                                        SolvedGroup* out) {
  methods::SharedWork shared;
  for (size_t i = 0; i < group.linears.size(); ++i) {
    RETURN_IF_ERROR(cancel_.Check());
    const std::string& name = group.linears[i];
    progress_.Report(name);
    const ModulePlan& plan = plans.at(name);
    ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
    const LinearInput input = InputOf(*method, statistics, &shared);
    std::optional<steps::SolvedLinear>& solved = out->kept[i];
    if (!solved.has_value()) {
      ASSIGN_OR_RETURN(
          solved, QuantizeLinear(plan, block.linear(name).DenseWeight(), input,
                                 /*done=*/nullptr));
    }
    RETURN_IF_ERROR(
        Accept(*std::move(solved), input, &out->done, &out->failure));
    RETURN_IF_ERROR(ReportRange(*ranges_, &out->done.layers.back()));
  }
  return absl::OkStatus();
}

void BlockQuantizer::TakeOver(SolvedGroup group, QuantizedBlock* out) {
  if (!group.failure.layer.name().empty()) failure_ = std::move(group.failure);
  for (v1::LayerReport& layer : group.done.layers) {
    progress_.SetLoss(layer.relative_error());
    out->layers.push_back(std::move(layer));
  }
  out->modules.merge(group.done.modules);
  out->rejected_grams.merge(group.done.rejected_grams);
}

absl::Status BlockQuantizer::QuantizeGroup(const models::Block& block,
                                           const InputGroup& group,
                                           const Plans& plans,
                                           const GroupStatistics& statistics,
                                           QuantizedBlock* out) {
  methods::SharedWork shared;
  for (const std::string& name : group.linears) {
    RETURN_IF_ERROR(cancel_.Check());
    progress_.Report(name);
    RETURN_IF_ERROR(RunLinear(plans.at(name), block.linear(name), statistics,
                              &shared, out));
    RETURN_IF_ERROR(ReportRange(*ranges_, &out->layers.back()));
  }
  return absl::OkStatus();
}

absl::Status BlockQuantizer::Replace(models::Block& block,
                                     const InputGroup& group,
                                     const Plans& plans,
                                     const QuantizedBlock& done) const {
  RangesByModule ranges;
  for (const v1::LayerReport& layer : done.layers) {
    if (layer.has_input_range()) ranges[layer.name()] = layer.input_range();
  }
  for (const std::string& name : group.linears) {
    ASSIGN_OR_RETURN(
        std::unique_ptr<models::Linear> simulated,
        MakeSimulatedLinear(
            plans.at(name), ranges,
            formats::Dequantize(done.modules.at(name)).to(options_.device),
            block.linear(name)));
    block.Replace(name, std::move(simulated));
  }
  return absl::OkStatus();
}

absl::Status BlockQuantizer::ReportRange(const InputRanges& ranges,
                                         v1::LayerReport* layer) const {
  const absl::Status status = ranges.Report(layer);
  if (status.ok() || !options_.allow_fallback) return status;
  spdlog::warn("{}; every token keeps a range of its own",
               std::string(status.message()));
  return absl::OkStatus();
}

absl::StatusOr<methods::LinearSolution> BlockQuantizer::Solve(
    const std::string& name, const LinearInput& input,
    methods::LinearProblem problem, const QuantizedBlock* done) {
  if (!input.unusable.empty()) {
    return methods::FallBackToNearest(problem, input.unusable, cancel_);
  }
  const auto solved = solved_.find(name);
  if (solved != solved_.end()) return std::move(solved->second);
  problem.observe = [this](int64_t step, int64_t steps, double loss) {
    progress_.ReportLoss(step, steps, loss);
  };
  std::unique_ptr<methods::LoopStore> store;
  if (done != nullptr) {
    store = kept_->StoreOf(name, {done->modules, done->layers});
  }
  problem.store = store.get();
  return input.method.QuantizeLinear(problem, cancel_);
}

absl::StatusOr<steps::SolvedLinear> BlockQuantizer::QuantizeLinear(
    const ModulePlan& plan, const at::Tensor& weight, const LinearInput& input,
    const QuantizedBlock* done) {
  const absl::Duration began = base::Clock::Real().Monotonic();
  const methods::LinearProblem problem{.weight = weight,
                                       .statistics = input.statistics,
                                       .spec = plan.spec,
                                       .shared = input.shared};
  absl::StatusOr<methods::LinearSolution> solution =
      Solve(plan.name, input, problem, done);
  if (!solution.ok()) return base::AddContext(solution.status(), plan.name);
  steps::SolvedLinear solved;
  ASSIGN_OR_RETURN(solved.layer, Judge(plan, problem, *solution, cancel_));
  solved.layer.set_seconds(
      absl::ToDoubleSeconds(base::Clock::Real().Monotonic() - began));
  solved.linear = std::move(solution->linear);
  return solved;
}

absl::Status BlockQuantizer::Accept(steps::SolvedLinear solved,
                                    const LinearInput& input,
                                    QuantizedBlock* out,
                                    LayerFailure* failure) const {
  const v1::LayerReport& layer = solved.layer;
  if (layer.verdict() == v1::VERDICT_RTN_FALLBACK) {
    const at::Tensor gram =
        input.statistics == nullptr ? at::Tensor() : input.statistics->gram;
    if (!options_.allow_fallback) {
      *failure = {layer, gram};
      failure->layer.set_verdict(v1::VERDICT_FAILED);
      return FallbackRefused(layer, gram);
    }
    // Nothing is wrong with a matrix of too few tokens.
    if (gram.defined() && !input.too_few) {
      out->rejected_grams[layer.name()] = gram;
    }
  }
  out->modules[layer.name()] = std::move(solved.linear);
  out->layers.push_back(std::move(solved.layer));
  return absl::OkStatus();
}

BlockQuantizer::LinearInput BlockQuantizer::InputOf(
    const methods::Method& method, const GroupStatistics& statistics,
    methods::SharedWork* shared) {
  LinearInput input{.method = method, .shared = shared};
  const bool wanted = method.needs() != methods::Needs::kNothing;
  if (wanted && statistics.ok()) {
    input.statistics = &*statistics;
    input.unusable = methods::TooFewTokens(*statistics, method.min_tokens());
    input.too_few = !input.unusable.empty();
  } else if (wanted) {
    input.unusable = std::string(statistics.status().message());
  }
  return input;
}

absl::Status BlockQuantizer::RunLinear(
    const ModulePlan& plan, const models::Linear& linear,
    const absl::StatusOr<calibration::Statistics>& statistics,
    methods::SharedWork* shared, QuantizedBlock* out) {
  ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
  const LinearInput input = InputOf(*method, statistics, shared);
  std::optional<steps::SolvedLinear> solved = kept_->Take(LayerOf(plan));
  const bool fresh = !solved.has_value();
  if (fresh) {
    ASSIGN_OR_RETURN(solved,
                     QuantizeLinear(plan, linear.DenseWeight(), input, out));
  }
  progress_.SetLoss(solved->layer.relative_error());
  RETURN_IF_ERROR(Accept(*std::move(solved), input, out, &failure_));
  if (fresh) kept_->Keep({out->modules, out->layers});
  return absl::OkStatus();
}

}  // namespace quantd::pipeline
