// SPDX-License-Identifier: Apache-2.0
// What every candidate format costs every module: one pass of the calibration
// tokens through the float model, a step per block, before any block is
// quantized. The choice follows from the committed losses alone, so that every
// process of the job makes the same.
#include <ATen/TensorOperators.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/calibration/gram.h"
#include "worker/formats/tensor_scale.h"
#include "worker/methods/method.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/mixed_plan.h"
#include "worker/pipeline/quantize_job.h"

namespace quantd::pipeline {
namespace {

// Gram matrices that are held at once; at least one is. What is above takes
// further passes over the block.
constexpr int64_t kGramBytes = int64_t{4} << 30;

// One input of a block: the modules that read the same rows.
struct MeasuredInput {
  int64_t stage = 0;
  int64_t input = 0;
  std::vector<mixed::Module*> modules = {};
  int64_t width = 0;
};

// How much of the residual stream the stages up to an addition make: the energy
// of what is added and of the stream behind it.
struct Branch {
  double added = 0;
  double stream = 0;
};

double Energy(const at::Tensor& values) {
  return values.square().sum(at::kDouble).item<double>();
}

class MeasureLoop {
 public:
  explicit MeasureLoop(QuantizeJob& job)
      : job_(job),
        model_(*job.source.model),
        length_(job.recipe.calibration().sequence_length()) {
    for (mixed::Module& module : job.mixed->problem.modules) {
      by_name_[module.name] = &module;
    }
  }

  absl::Status Run();

 private:
  int64_t FirstStep() const {
    return job_.journal->StepsOf(kMeasureStep).front();
  }
  absl::Status MakeCache();
  absl::Status Restore(int64_t blocks_done);
  absl::Status MeasureBlock(int64_t index);
  absl::Status MeasureHead();
  std::vector<MeasuredInput> InputsOf(const models::Block& block) const;
  // All sequences through the block, the Gram matrices of `inputs` on the way;
  // to its end where `advance`.
  absl::StatusOr<std::vector<absl::StatusOr<calibration::Statistics>>> Pass(
      const models::Block& block, absl::Span<const MeasuredInput> inputs,
      bool advance);
  // Applies `stage`, and notes what it adds to the residual stream.
  void Apply(const models::Block& block, int64_t stage,
             models::SequenceState* state);
  // The share of the branch that `stage` belongs to; 1 where it adds to none.
  double ShareOf(int64_t stage) const;
  // For every candidate one tensor scale for `modules`, which read the same
  // rows.
  void ShareScales(const models::Block& block,
                   const std::vector<mixed::Module*>& modules);
  // Rounding errors count as shares of the module's output, times the branch's
  // share of the stream and the part of the tokens that reach the module.
  absl::Status MeasureModule(
      const models::Linear& linear,
      const absl::StatusOr<calibration::Statistics>& statistics,
      mixed::Module* module);
  absl::Status Commit(int64_t block, bool with_activations);

  QuantizeJob& job_;
  models::Model& model_;
  const int64_t length_;
  std::map<std::string, mixed::Module*> by_name_;
  std::unique_ptr<ActivationCache> cache_;
  // Of the block at work, by stage.
  std::vector<Branch> branches_;
};

absl::Status MeasureLoop::Run() {
  const int64_t blocks = model_.num_blocks();
  const int64_t first = job_.journal->next() - FirstStep();
  job_.progress->BeginStep(kMeasureStep);
  RETURN_IF_ERROR(MakeCache());
  RETURN_IF_ERROR(Restore(std::min(first, blocks)));
  for (int64_t block = first; block < blocks; ++block) {
    RETURN_IF_ERROR(MeasureBlock(block));
  }
  if (job_.journal->next() <
      FirstStep() + std::ssize(job_.journal->StepsOf(kMeasureStep))) {
    RETURN_IF_ERROR(MeasureHead());
  }
  return absl::OkStatus();
}

absl::Status MeasureLoop::MakeCache() {
  ActivationCache::Options options;
  options.sequences = job_.recipe.calibration().num_samples();
  options.tokens = length_;
  options.hidden = model_.hidden_size();
  options.device = job_.device;
  options.budget_bytes =
      ActivationCache::BudgetBytes(job_.start.memory_reduction());
  options.spill_directory = job_.start.work_directory();
  ASSIGN_OR_RETURN(cache_, ActivationCache::Create(options));
  return absl::OkStatus();
}

// From the newest activations at hand, and on through the float blocks that
// are measured: the bits of the first time.
absl::Status MeasureLoop::Restore(int64_t blocks_done) {
  int64_t from = blocks_done;
  while (from > 0 &&
         !job_.journal->HasFile(FirstStep() + from - 1, kActivationsRole)) {
    --from;
  }
  if (from == 0) {
    RETURN_IF_ERROR(EmbedTokens(job_, cache_.get()));
  } else {
    ASSIGN_OR_RETURN(
        const std::string path,
        job_.journal->FileOf(FirstStep() + from - 1, kActivationsRole));
    RETURN_IF_ERROR(cache_->ReadResidual(path));
  }
  for (int64_t index = from; index < blocks_done; ++index) {
    job_.progress->Report(absl::StrCat("replaying block ", index));
    ASSIGN_OR_RETURN(const auto block, model_.LoadBlock(index, length_));
    branches_.assign(block->stages().size(), Branch());
    RETURN_IF_ERROR(Pass(*block, {}, /*advance=*/true).status());
  }
  return absl::OkStatus();
}

std::vector<MeasuredInput> MeasureLoop::InputsOf(
    const models::Block& block) const {
  std::vector<MeasuredInput> inputs;
  for (size_t s = 0; s < block.stages().size(); ++s) {
    const models::Stage& stage = block.stages()[s];
    for (size_t i = 0; i < stage.linears.size(); ++i) {
      const auto module = by_name_.find(stage.linears[i]);
      if (module == by_name_.end()) continue;
      const int64_t number = static_cast<int64_t>(s);
      if (inputs.empty() || inputs.back().stage != number ||
          inputs.back().input != stage.input_of[i]) {
        inputs.push_back({.stage = number, .input = stage.input_of[i]});
      }
      inputs.back().modules.push_back(module->second);
      inputs.back().width = block.linear(stage.linears[i]).in_features();
    }
  }
  return inputs;
}

absl::StatusOr<std::vector<absl::StatusOr<calibration::Statistics>>>
MeasureLoop::Pass(const models::Block& block,
                  absl::Span<const MeasuredInput> inputs, bool advance) {
  std::vector<calibration::GramAccumulator> grams;
  for (const MeasuredInput& input : inputs) {
    grams.emplace_back(input.width, job_.device);
  }
  const int64_t stages = std::ssize(block.stages());
  const int64_t end = advance ? stages : inputs.back().stage + 1;
  for (int64_t i = 0; i < cache_->sequences(); ++i) {
    RETURN_IF_ERROR(job_.cancel.Check());
    models::SequenceState state = cache_->Load(i);
    block.Begin(&state);
    for (int64_t stage = 0; stage < end; ++stage) {
      RETURN_IF_ERROR(job_.cancel.Check());
      std::vector<at::Tensor> rows;
      for (size_t g = 0; g < inputs.size(); ++g) {
        if (inputs[g].stage != stage) continue;
        if (rows.empty()) rows = block.Inputs(stage, state);
        const at::Tensor& read = rows[static_cast<size_t>(inputs[g].input)];
        if (read.size(0) == 0) continue;
        RETURN_IF_ERROR(grams[g].Add(read, job_.cancel));
      }
      if (advance) {
        Apply(block, stage, &state);
      } else if (stage + 1 < end) {
        block.Apply(stage, &state);
      }
    }
    state.input = at::Tensor();
    if (advance) cache_->Store(i, state);
    job_.progress->AddTokens(length_);
  }
  std::vector<absl::StatusOr<calibration::Statistics>> all;
  for (calibration::GramAccumulator& gram : grams) {
    calibration::Statistics statistics;
    const absl::Status finite = gram.Finish(&statistics);
    all.push_back(finite.ok() ? absl::StatusOr<calibration::Statistics>(
                                    std::move(statistics))
                              : finite);
  }
  return all;
}

void MeasureLoop::Apply(const models::Block& block, int64_t stage,
                        models::SequenceState* state) {
  const at::Tensor before = state->residual;
  block.Apply(stage, state);
  // The stream is replaced and not changed.
  if (state->residual.is_same(before)) return;
  Branch& branch = branches_[static_cast<size_t>(stage)];
  branch.added += Energy(state->residual.sub(before));
  branch.stream += Energy(state->residual);
}

double MeasureLoop::ShareOf(int64_t stage) const {
  for (size_t i = static_cast<size_t>(stage); i < branches_.size(); ++i) {
    if (branches_[i].stream > 0)
      return branches_[i].added / branches_[i].stream;
  }
  return 1;
}

void MeasureLoop::ShareScales(const models::Block& block,
                              const std::vector<mixed::Module*>& modules) {
  const size_t candidates = job_.mixed->strategy->formats().size();
  for (size_t c = 0; c < candidates; ++c) {
    std::vector<formats::JoinedWeight> joined;
    for (const mixed::Module* module : modules) {
      formats::WeightSpec& spec = job_.mixed->specs.at(module->name)[c];
      if (!formats::HasTensorScale(spec)) continue;
      joined.push_back({block.linear(module->name).DenseWeight(), &spec});
    }
    formats::ShareTensorScales(joined);
  }
}

absl::Status MeasureLoop::MeasureModule(
    const models::Linear& linear,
    const absl::StatusOr<calibration::Statistics>& statistics,
    mixed::Module* module) {
  job_.progress->Report(module->name);
  // Where no token came by, or their sums overflow, the weights' own error
  // stands in.
  const bool usable = statistics.ok() && statistics->tokens > 0;
  const calibration::Statistics* looked_at = usable ? &*statistics : nullptr;
  const at::Tensor weight = linear.DenseWeight();
  ASSIGN_OR_RETURN(const double energy,
                   methods::OutputEnergy(weight, looked_at, job_.cancel));
  const double all = static_cast<double>(cache_->sequences() * length_);
  const double reach =
      usable ? static_cast<double>(statistics->tokens) / all : 1 / all;
  module->losses.clear();
  for (const formats::WeightSpec& spec : job_.mixed->specs.at(module->name)) {
    RETURN_IF_ERROR(job_.cancel.Check());
    const auto rounded = formats::RoundToNearest(weight, spec, job_.cancel);
    if (!rounded.ok()) {
      return base::AddContext(rounded.status(), module->name);
    }
    ASSIGN_OR_RETURN(const double error,
                     methods::RelativeError(weight, *rounded, looked_at, energy,
                                            job_.cancel));
    module->losses.push_back(error * reach);
  }
  return absl::OkStatus();
}

absl::Status MeasureLoop::MeasureBlock(int64_t index) {
  job_.progress->BeginStep(kMeasureStep);
  job_.progress->SetBlock(index);
  ASSIGN_OR_RETURN(const auto block, model_.LoadBlock(index, length_));
  branches_.assign(block->stages().size(), Branch());
  const std::vector<MeasuredInput> inputs = InputsOf(*block);
  size_t begin = 0;
  do {
    int64_t bytes = 0;
    size_t end = begin;
    for (; end < inputs.size(); ++end) {
      bytes += inputs[end].width * inputs[end].width *
               static_cast<int64_t>(sizeof(float));
      if (end > begin && bytes > kGramBytes) break;
    }
    const auto batch = absl::MakeConstSpan(inputs).subspan(begin, end - begin);
    ASSIGN_OR_RETURN(const auto statistics,
                     Pass(*block, batch, /*advance=*/end == inputs.size()));
    for (size_t g = 0; g < batch.size(); ++g) {
      ShareScales(*block, batch[g].modules);
      for (mixed::Module* module : batch[g].modules) {
        RETURN_IF_ERROR(
            MeasureModule(block->linear(module->name), statistics[g], module));
      }
    }
    begin = end;
  } while (begin < inputs.size());
  for (const MeasuredInput& input : inputs) {
    for (mixed::Module* module : input.modules) {
      for (double& loss : module->losses) loss *= ShareOf(input.stage);
    }
  }
  const bool head = by_name_.contains(model_.HeadShape().name);
  return Commit(index, head || index + 1 < model_.num_blocks());
}

absl::Status MeasureLoop::MeasureHead() {
  job_.progress->BeginStep(kMeasureStep);
  mixed::Module* module = by_name_.at(model_.HeadShape().name);
  calibration::GramAccumulator gram(model_.HeadShape().in_features,
                                    job_.device);
  for (int64_t i = 0; i < cache_->sequences(); ++i) {
    RETURN_IF_ERROR(job_.cancel.Check());
    ASSIGN_OR_RETURN(const at::Tensor input,
                     model_.FinalNorm(cache_->Load(i).residual));
    RETURN_IF_ERROR(gram.Add(input, job_.cancel));
    job_.progress->AddTokens(length_);
  }
  absl::StatusOr<calibration::Statistics> statistics =
      calibration::Statistics();
  const absl::Status finite = gram.Finish(&*statistics);
  if (!finite.ok()) statistics = finite;
  ASSIGN_OR_RETURN(const auto head, model_.LoadHead());
  RETURN_IF_ERROR(MeasureModule(*head, statistics, module));
  return Commit(module->block, /*with_activations=*/false);
}

absl::Status MeasureLoop::Commit(int64_t block, bool with_activations) {
  std::map<std::string, std::string> files;
  if (with_activations) {
    files[kActivationsRole] = job_.journal->NewFile(
        absl::StrCat("step-", job_.journal->next(), ".activations"));
    RETURN_IF_ERROR(cache_->WriteResidual(files[kActivationsRole]));
  }
  v1::MixedReport measured;
  for (const mixed::Module& module : job_.mixed->problem.modules) {
    if (module.block != block) continue;
    v1::ModuleChoice* row = measured.add_modules();
    row->set_name(module.name);
    row->mutable_losses()->Add(module.losses.begin(), module.losses.end());
  }
  v1::Step step;
  step.set_state(measured.SerializeAsString());
  step.set_seconds(job_.progress->StepSeconds());
  return job_.journal->Commit(std::move(step), files);
}

// The losses of a committed step.
absl::Status ReadLosses(const v1::Step& step, MixedPlan* plan) {
  v1::MixedReport measured;
  const bool parsed = measured.ParseFromString(step.state());
  std::map<std::string, const v1::ModuleChoice*> rows;
  for (const v1::ModuleChoice& row : measured.modules()) {
    rows[row.name()] = &row;
  }
  for (mixed::Module& module : plan->problem.modules) {
    const auto row = rows.find(module.name);
    if (row == rows.end()) continue;
    const auto& losses = row->second->losses();
    module.losses.assign(losses.begin(), losses.end());
    rows.erase(row);
  }
  if (parsed && rows.empty()) return absl::OkStatus();
  return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                         "the committed losses do not fit the job");
}

}  // namespace

absl::Status SettleFormats(QuantizeJob& job) {
  if (job.mixed == nullptr) return absl::OkStatus();
  if (job.mixed->strategy->needs_losses()) {
    for (const int64_t step : job.journal->StepsOf(kMeasureStep)) {
      if (step >= job.journal->next()) return absl::OkStatus();
      RETURN_IF_ERROR(ReadLosses(job.journal->done()[step], job.mixed.get()));
    }
  }
  const mixed::Choice choice = job.mixed->strategy->Choose(job.mixed->problem);
  job.mixed_report = ReportChoice(job.recipe, *job.mixed, choice);
  ASSIGN_OR_RETURN(job.recipe, ApplyChoice(job.recipe, *job.mixed, choice));
  job.mixed.reset();
  ASSIGN_OR_RETURN(job.modules, PlanModules(job.recipe, *job.source.model));
  return absl::OkStatus();
}

absl::Status RunMeasure(QuantizeJob& job) {
  RETURN_IF_ERROR(MeasureLoop(job).Run());
  return SettleFormats(job);
}

}  // namespace quantd::pipeline
