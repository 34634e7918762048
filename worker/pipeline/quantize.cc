// SPDX-License-Identifier: Apache-2.0
// The block loop: one step per decoder block, then the head.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/block_quantizer.h"
#include "worker/pipeline/journal.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/simulated_linear.h"
#include "worker/pipeline/transform_stage.h"
#include "worker/steps/step_checkpoint.h"

namespace quantd::pipeline {
namespace {

class BlockLoop {
 public:
  explicit BlockLoop(QuantizeJob& job)
      : job_(job),
        model_(*job.source.model),
        sequence_length_(job.recipe.calibration().sequence_length()),
        quantizer_(
            {job.recipe.policy().on_numeric_failure() == "rtn",
             sequence_length_, job.device,
             job.start.memory_reduction() > 0 ? 0 : BlockQuantizer::kGramBytes,
             job.calibration.flow},
            job.cancel, *job.progress),
        transformer_(job),
        checkpoint_(job.start.checkpoint_directory(),
                    absl::Seconds(job.start.checkpoint_seconds()),
                    base::Clock::Real()) {}

  absl::Status Run();

 private:
  // What is kept from here on is of the journal's next step.
  void BeginCheckpoint();
  absl::Status RunBlock(int64_t block);
  absl::StatusOr<QuantizedBlock> Quantize(int64_t index, models::Block& block);
  absl::Status RunHead();
  absl::StatusOr<calibration::Statistics> HeadStatistics(const ModulePlan& plan,
                                                         InputRanges* ranges);

  absl::Status MakeCache();
  absl::Status RestoreActivations(int64_t blocks_done);
  absl::Status ReplayBlock(int64_t block);

  absl::Status CommitModules(const QuantizedBlock& done,
                             const std::vector<transforms::Edit>& edits,
                             bool with_activations);
  absl::Status KeepFailure(const absl::Status& error);
  std::map<std::string, ModulePlan> PlansOf(int64_t block) const;
  // True where a later step reads the activations.
  bool ActivationsNeededAfter(int64_t block) const;

  QuantizeJob& job_;
  models::Model& model_;
  const int64_t sequence_length_;
  BlockQuantizer quantizer_;
  BlockTransformer transformer_;
  steps::StepCheckpoint checkpoint_;
  // Null where nothing looks at inputs.
  std::unique_ptr<ActivationCache> cache_;
  // The float model's, beside it; null where no method compares the two.
  std::unique_ptr<ActivationCache> reference_;
  // A float block's outputs; null where no block is rounded as a whole and none
  // is the next block's input.
  std::unique_ptr<ActivationCache> targets_;
};

absl::Status BlockLoop::Run() {
  const int64_t blocks = model_.num_blocks();
  const int64_t first = job_.journal->next() - job_.journal->StepOfBlock(0);
  if (job_.needs_tokens) {
    RETURN_IF_ERROR(MakeCache());
    RETURN_IF_ERROR(RestoreActivations(std::min(first, blocks)));
  }
  for (int64_t block = first; block < blocks; ++block) {
    RETURN_IF_ERROR(RunBlock(block));
  }
  if (job_.journal->next() < job_.journal->num_steps() &&
      job_.journal->plan()[job_.journal->next()].kind == kHeadStep) {
    RETURN_IF_ERROR(RunHead());
  }
  return absl::OkStatus();
}

absl::Status BlockLoop::MakeCache() {
  ActivationCache::Options options;
  options.sequences = job_.recipe.calibration().num_samples();
  options.tokens = sequence_length_;
  options.hidden = model_.hidden_size();
  const methods::CalibrationFlow& flow = job_.calibration.flow;
  options.widest_input = flow.stage_by_stage ? model_.widest_input() : 0;
  options.device = job_.device;
  options.budget_bytes =
      ActivationCache::BudgetBytes(job_.start.memory_reduction());
  options.spill_directory = job_.start.work_directory();
  ASSIGN_OR_RETURN(cache_, ActivationCache::Create(options));
  if (cache_->spilled()) {
    spdlog::info("activations are above the memory budget and lie on disk");
  }
  if (job_.calibration.drift) {
    ASSIGN_OR_RETURN(reference_, ActivationCache::Create(options));
  }
  bool targets = !flow.through_quantized;
  for (const ModulePlan& plan : job_.modules) {
    ASSIGN_OR_RETURN(const bool together, RoundsTogether(plan));
    targets = targets || (together && plan.block != kHeadBlock);
  }
  if (!targets) return absl::OkStatus();
  options.widest_input = 0;
  ASSIGN_OR_RETURN(targets_, ActivationCache::Create(options));
  return absl::OkStatus();
}

// The newest activations that are at hand, and from there on a forward pass
// through the blocks that are done: the same arithmetic as the first time, so
// the same bits.
absl::Status BlockLoop::RestoreActivations(int64_t blocks_done) {
  int64_t from = blocks_done;
  while (from > 0 && !job_.journal->HasFile(job_.journal->StepOfBlock(from - 1),
                                            kActivationsRole)) {
    --from;
  }
  job_.progress->BeginStep("quantize");
  if (from == 0) {
    RETURN_IF_ERROR(EmbedTokens(job_, cache_.get()));
    if (reference_ != nullptr) {
      RETURN_IF_ERROR(EmbedTokens(job_, reference_.get()));
    }
  } else {
    ASSIGN_OR_RETURN(const std::string path,
                     job_.journal->FileOf(job_.journal->StepOfBlock(from - 1),
                                          kActivationsRole));
    RETURN_IF_ERROR(cache_->ReadResidual(path, reference_.get()));
  }
  for (int64_t block = from; block < blocks_done; ++block) {
    RETURN_IF_ERROR(ReplayBlock(block));
  }
  return absl::OkStatus();
}

absl::Status BlockLoop::ReplayBlock(int64_t index) {
  job_.progress->Report(absl::StrCat("replaying block ", index));
  ASSIGN_OR_RETURN(const auto block, model_.LoadBlock(index, sequence_length_));
  if (reference_ != nullptr) {
    RETURN_IF_ERROR(ForwardAll(*block, *reference_, job_.cancel,
                               job_.progress.get(), reference_.get()));
  }
  if (!job_.calibration.flow.through_quantized) {
    return ForwardAll(*block, *cache_, job_.cancel, job_.progress.get(),
                      cache_.get());
  }
  block->RoundKeysAndValues(job_.kv_rounding);
  QuantizedReader quantized(job_);
  const RangesByModule ranges =
      RangesIn(absl::MakeConstSpan(job_.journal->done())
                   .subspan(job_.journal->StepOfBlock(index), 1));
  for (const auto& [name, plan] : PlansOf(index)) {
    if (!plan.quantized) continue;
    ASSIGN_OR_RETURN(const formats::QuantizedLinear linear,
                     quantized.Read(name));
    ASSIGN_OR_RETURN(
        std::unique_ptr<models::Linear> simulated,
        MakeSimulatedLinear(plan, ranges,
                            formats::Dequantize(linear).to(job_.device),
                            block->linear(name)));
    block->Replace(name, std::move(simulated));
  }
  return ForwardAll(*block, *cache_, job_.cancel, job_.progress.get(),
                    cache_.get());
}

std::map<std::string, ModulePlan> BlockLoop::PlansOf(int64_t block) const {
  std::map<std::string, ModulePlan> plans;
  for (const ModulePlan& plan : job_.modules) {
    if (plan.block == block) plans[plan.name] = plan;
  }
  return plans;
}

bool BlockLoop::ActivationsNeededAfter(int64_t block) const {
  if (cache_ == nullptr) return false;
  return block + 1 < model_.num_blocks() ||
         job_.modules.back().block == kHeadBlock;
}

void BlockLoop::BeginCheckpoint() {
  // The load step, which is always done by now, has the job's fingerprint.
  checkpoint_.Begin(absl::StrCat(job_.journal->done().front().fingerprint(),
                                 "-", job_.journal->next()));
}

absl::Status BlockLoop::RunBlock(int64_t index) {
  job_.progress->BeginStep("quantize");
  job_.progress->SetBlock(index);
  BeginCheckpoint();
  ASSIGN_OR_RETURN(const std::vector<transforms::Edit> edits,
                   transformer_.Fit(index, cache_.get()));
  ASSIGN_OR_RETURN(const auto block, model_.LoadBlock(index, sequence_length_));
  const absl::StatusOr<QuantizedBlock> done = Quantize(index, *block);
  if (!done.ok()) return KeepFailure(done.status());
  RETURN_IF_ERROR(CommitModules(*done, edits, ActivationsNeededAfter(index)));
  checkpoint_.End();
  return absl::OkStatus();
}

absl::StatusOr<QuantizedBlock> BlockLoop::Quantize(int64_t index,
                                                   models::Block& block) {
  const std::map<std::string, ModulePlan> plans = PlansOf(index);
  const bool through = job_.calibration.flow.through_quantized;
  bool together = false;
  if (targets_ != nullptr) {
    RETURN_IF_ERROR(ForwardAll(block, *cache_, job_.cancel, job_.progress.get(),
                               targets_.get()));
    ASSIGN_OR_RETURN(const OutputWeights weights,
                     ReadOutputWeights(job_, index));
    ASSIGN_OR_RETURN(
        BlockSolutions solved,
        ReconstructBlock(block, plans, {*cache_, *targets_, weights},
                         &checkpoint_, job_.cancel, job_.progress.get()));
    together = !solved.empty();
    quantizer_.Take(std::move(solved));
  }
  // A block that is learned as a whole has kept its state itself, and all but
  // that takes no time.
  quantizer_.KeepIn(together ? nullptr : &checkpoint_);
  FloatReference reference = {.cache = reference_.get()};
  std::unique_ptr<models::Block> unchanged;
  if (reference_ != nullptr) {
    ASSIGN_OR_RETURN(unchanged, model_.LoadBlock(index, sequence_length_));
    reference.block = unchanged.get();
  }
  block.RoundKeysAndValues(job_.kv_rounding);
  ASSIGN_OR_RETURN(QuantizedBlock done,
                   quantizer_.Run(block, plans, cache_.get(), reference));
  if (!through) cache_->SwapResidual(targets_.get());
  return done;
}

absl::StatusOr<calibration::Statistics> BlockLoop::HeadStatistics(
    const ModulePlan& plan, InputRanges* ranges) {
  const models::Stage stage = {{plan.name}, {0}};
  calibration::GramAccumulator gram(plan.in_features, job_.device);
  for (int64_t i = 0; i < cache_->sequences(); ++i) {
    RETURN_IF_ERROR(job_.cancel.Check());
    ASSIGN_OR_RETURN(const at::Tensor input,
                     model_.FinalNorm(cache_->Load(i).residual));
    RETURN_IF_ERROR(gram.Add(input, job_.cancel));
    if (reference_ != nullptr) {
      ASSIGN_OR_RETURN(const at::Tensor float_input,
                       model_.FinalNorm(reference_->Load(i).residual));
      RETURN_IF_ERROR(gram.AddDrift(input, float_input, job_.cancel));
    }
    if (ranges->Wants(stage)) ranges->Add(stage, {input});
    job_.progress->AddTokens(sequence_length_);
  }
  calibration::Statistics statistics;
  RETURN_IF_ERROR(gram.Finish(&statistics));
  return statistics;
}

absl::Status BlockLoop::RunHead() {
  const ModulePlan& plan = job_.modules.back();
  job_.progress->BeginStep("quantize");
  job_.progress->Report(plan.name);
  absl::StatusOr<calibration::Statistics> statistics =
      calibration::Statistics();
  const std::map<std::string, ModulePlan> plans = {{plan.name, plan}};
  InputRanges ranges(plans);
  if (cache_ != nullptr) statistics = HeadStatistics(plan, &ranges);
  if (absl::IsCancelled(statistics.status())) return statistics.status();
  ASSIGN_OR_RETURN(const auto head, model_.LoadHead());
  BeginCheckpoint();
  quantizer_.KeepIn(&checkpoint_);
  QuantizedBlock done;
  methods::SharedWork shared;
  const absl::Status status =
      quantizer_.RunLinear(plan, *head, statistics, &shared, &done);
  if (!status.ok()) return KeepFailure(status);
  RETURN_IF_ERROR(quantizer_.ReportRange(ranges, &done.layers.back()));
  RETURN_IF_ERROR(
      CommitModules(done, /*edits=*/{}, /*with_activations=*/false));
  checkpoint_.End();
  return absl::OkStatus();
}

absl::Status BlockLoop::CommitModules(
    const QuantizedBlock& done, const std::vector<transforms::Edit>& edits,
    bool with_activations) {
  const std::string stem =
      job_.journal->NewFile(absl::StrCat("step-", job_.journal->next()));
  std::map<std::string, std::string> files;
  // A block whose modules are all skipped has no weights to keep.
  if (!done.modules.empty()) {
    files[kWeightsRole] = absl::StrCat(stem, ".weights");
    RETURN_IF_ERROR(steps::WriteBlockFile(files[kWeightsRole], done.modules));
  }
  if (!edits.empty()) {
    files[kTransformRole] = absl::StrCat(stem, ".transform");
    RETURN_IF_ERROR(transforms::WriteEdits(files[kTransformRole], edits));
  }
  if (with_activations) {
    files[kActivationsRole] = absl::StrCat(stem, ".activations");
    RETURN_IF_ERROR(
        cache_->WriteResidual(files[kActivationsRole], reference_.get()));
  }
  for (const auto& [module, gram] : done.rejected_grams) {
    const std::string role = absl::StrCat(kGramRole, module);
    files[role] = absl::StrCat(stem, ".", module, ".gram");
    RETURN_IF_ERROR(
        checkpoints::WriteSafetensors(files[role], {{"gram", gram.cpu()}}));
  }
  v1::Step step;
  for (const v1::LayerReport& layer : done.layers) {
    *step.add_layers() = layer;
  }
  step.set_seconds(job_.progress->StepSeconds());
  return job_.journal->Commit(std::move(step), files);
}

absl::Status BlockLoop::KeepFailure(const absl::Status& error) {
  const LayerFailure& failure = quantizer_.failure();
  if (failure.layer.name().empty() || !failure.gram.defined()) return error;
  const std::string path = job_.journal->NewFile("failed.gram");
  RETURN_IF_ERROR(
      checkpoints::WriteSafetensors(path, {{"gram", failure.gram.cpu()}}));
  v1::Step step;
  *step.add_layers() = failure.layer;
  const std::string& module = failure.layer.name();
  RETURN_IF_ERROR(job_.journal->CommitFailure(
      module, std::move(step), {{absl::StrCat(kGramRole, module), path}}));
  return error;
}

}  // namespace

absl::Status RunBlocks(QuantizeJob& job) { return BlockLoop(job).Run(); }

absl::StatusOr<formats::QuantizedLinear> QuantizedReader::Read(
    const std::string& module) {
  const auto held = modules_.find(module);
  if (held != modules_.end()) return held->second;
  for (const ModulePlan& plan : job_.modules) {
    if (plan.name != module) continue;
    const int64_t step =
        plan.block == kHeadBlock
            ? job_.journal->StepOfBlock(job_.source.model->num_blocks())
            : job_.journal->StepOfBlock(plan.block);
    ASSIGN_OR_RETURN(const std::string path,
                     job_.journal->FileOf(step, kWeightsRole));
    ASSIGN_OR_RETURN(modules_, steps::ReadBlockFile(path));
    break;
  }
  const auto found = modules_.find(module);
  if (found != modules_.end()) return found->second;
  return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                         absl::StrCat("the committed weights lack ", module),
                         {{"module", module}});
}

}  // namespace quantd::pipeline
