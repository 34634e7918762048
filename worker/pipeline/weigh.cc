// SPDX-License-Identifier: Apache-2.0
// How much the errors of blocks' outputs count: one pass of the calibration
// tokens forward through the float model, which keeps what every block reads,
// and one back from the loss, a step per block and a block at a time. Memory
// holds one block and what autograd keeps of one sequence.
#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/models/loss_gradient.h"
#include "worker/numerics/output_weights.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/block_reconstruction.h"
#include "worker/pipeline/quantize_job.h"

namespace quantd::pipeline {
namespace {

constexpr char kWeightsTensor[] = "weights";

// The step of the block, -1 where it has none.
int64_t StepOf(const Journal& journal, int64_t block) {
  for (const int64_t step : journal.StepsOf(kWeighStep)) {
    if (journal.plan()[step].name == absl::StrCat(block)) return step;
  }
  return -1;
}

class WeighLoop {
 public:
  explicit WeighLoop(QuantizeJob& job)
      : job_(job),
        model_(*job.source.model),
        length_(job.recipe.calibration().sequence_length()),
        top_(model_.num_blocks() - 1),
        lowest_(*job.calibration.weighted_blocks.begin()),
        inputs_(static_cast<size_t>(model_.num_blocks())) {}

  absl::Status Run();

 private:
  absl::StatusOr<std::unique_ptr<ActivationCache>> MakeCache(
      int64_t together) const;
  // Brings the gradient to the output of `block`.
  absl::Status Restore(int64_t block);
  // Fills inputs_ up to `block`'s; what the last block makes of its own goes to
  // the gradient's place.
  absl::Status Forward(int64_t block);
  // From the outputs of the last block to the loss's gradient by them.
  absl::Status BeginGradient();
  // Takes the gradient from the block's output to its input.
  absl::Status Backward(int64_t block);
  absl::Status WeighBlock(int64_t block);
  // Adds the block's weights to `files`, or says in `state` why it has none.
  absl::Status Weigh(int64_t block, std::map<std::string, std::string>* files,
                     std::string* state);

  QuantizeJob& job_;
  models::Model& model_;
  const int64_t length_;
  // The last block, and the first one whose output is weighed.
  const int64_t top_;
  const int64_t lowest_;
  // By block; null below and at the lowest, and once the gradient is past it.
  std::vector<std::unique_ptr<ActivationCache>> inputs_;
  std::unique_ptr<ActivationCache> gradient_;
};

absl::Status WeighLoop::Run() {
  const int64_t done =
      job_.journal->next() - job_.journal->StepsOf(kWeighStep).front();
  job_.progress->BeginStep(kWeighStep);
  RETURN_IF_ERROR(Restore(top_ - done));
  for (int64_t block = top_ - done; block >= lowest_; --block) {
    RETURN_IF_ERROR(WeighBlock(block));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ActivationCache>> WeighLoop::MakeCache(
    int64_t together) const {
  ActivationCache::Options options;
  options.sequences = job_.recipe.calibration().num_samples();
  options.tokens = length_;
  options.hidden = model_.hidden_size();
  options.device = job_.device;
  options.budget_bytes =
      ActivationCache::BudgetBytes(job_.start.memory_reduction()) / together;
  options.spill_directory = job_.start.work_directory();
  return ActivationCache::Create(options);
}

// From the newest gradient at hand, and on through the blocks that are weighed:
// the bits of the first time.
absl::Status WeighLoop::Restore(int64_t block) {
  int64_t from = block;
  while (from < top_ && !job_.journal->HasFile(StepOf(*job_.journal, from + 1),
                                               kActivationsRole)) {
    ++from;
  }
  RETURN_IF_ERROR(Forward(from));
  if (from == top_) {
    RETURN_IF_ERROR(BeginGradient());
  } else {
    ASSIGN_OR_RETURN(const std::string path,
                     job_.journal->FileOf(StepOf(*job_.journal, from + 1),
                                          kActivationsRole));
    RETURN_IF_ERROR(gradient_->ReadResidual(path));
  }
  for (int64_t index = from; index > block; --index) {
    job_.progress->Report(absl::StrCat("replaying block ", index));
    RETURN_IF_ERROR(Backward(index));
  }
  return absl::OkStatus();
}

absl::Status WeighLoop::Forward(int64_t block) {
  if (block < top_ && block <= lowest_) {
    // The gradient goes no further.
    ASSIGN_OR_RETURN(gradient_, MakeCache(1));
    return absl::OkStatus();
  }
  // The kept inputs, the stream on its way and the gradient.
  const int64_t together = std::max<int64_t>(block - lowest_, 0) + 2;
  ASSIGN_OR_RETURN(auto stream, MakeCache(together));
  RETURN_IF_ERROR(EmbedTokens(job_, stream.get()));
  for (int64_t index = 0; index <= block; ++index) {
    const bool kept = index > lowest_;
    const bool applied = index < block || block == top_;
    std::unique_ptr<ActivationCache> next;
    if (kept || !applied) {
      ASSIGN_OR_RETURN(next, MakeCache(together));
    }
    if (applied) {
      job_.progress->Report(absl::StrCat("block ", index, ", forward"));
      ASSIGN_OR_RETURN(const auto loaded, model_.LoadBlock(index, length_));
      RETURN_IF_ERROR(ForwardAll(*loaded, *stream, job_.cancel,
                                 job_.progress.get(),
                                 kept ? next.get() : stream.get()));
    }
    if (next != nullptr) std::swap(stream, next);
    if (kept) inputs_[static_cast<size_t>(index)] = std::move(next);
  }
  gradient_ = std::move(stream);
  return absl::OkStatus();
}

absl::Status WeighLoop::BeginGradient() {
  job_.progress->Report("loss");
  ASSIGN_OR_RETURN(const at::Tensor tokens, LoadTokens(job_));
  ASSIGN_OR_RETURN(const auto head, model_.LoadHead());
  for (int64_t i = 0; i < gradient_->sequences(); ++i) {
    RETURN_IF_ERROR(job_.cancel.Check());
    models::SequenceState state;
    ASSIGN_OR_RETURN(
        state.residual,
        models::HeadGradient(model_, *head, gradient_->Load(i).residual,
                             tokens.select(0, i)));
    gradient_->Store(i, state);
    job_.progress->AddTokens(length_);
  }
  return absl::OkStatus();
}

absl::Status WeighLoop::Backward(int64_t index) {
  std::unique_ptr<ActivationCache> inputs =
      std::move(inputs_[static_cast<size_t>(index)]);
  ASSIGN_OR_RETURN(const auto block, model_.LoadBlock(index, length_));
  const models::OpenBlock open(*block, {});
  for (int64_t i = 0; i < inputs->sequences(); ++i) {
    RETURN_IF_ERROR(job_.cancel.Check());
    models::SequenceState state;
    state.residual = models::InputGradient(open, inputs->Load(i).residual,
                                           gradient_->Load(i).residual);
    gradient_->Store(i, state);
    job_.progress->AddTokens(length_);
  }
  return absl::OkStatus();
}

absl::Status WeighLoop::Weigh(int64_t block,
                              std::map<std::string, std::string>* files,
                              std::string* state) {
  if (!job_.calibration.weighted_blocks.contains(block)) {
    return absl::OkStatus();
  }
  const auto weights = numerics::OutputWeights(gradient_->residual());
  if (weights.ok()) {
    (*files)[kOutputWeightsRole] = job_.journal->NewFile(
        absl::StrCat("step-", job_.journal->next(), ".output_weights"));
    return checkpoints::WriteSafetensors((*files)[kOutputWeightsRole],
                                         {{kWeightsTensor, *weights}});
  }
  const std::string why(weights.status().message());
  if (job_.recipe.policy().on_numeric_failure() != "rtn") {
    return base::MakeError(
        absl::StatusCode::kFailedPrecondition, "NUMERIC_GRADIENT",
        absl::StrCat("block ", block, ": ", why,
                     "; calibrate with other text, choose a weighting that "
                     "needs no gradient, or let all errors of such blocks "
                     "count alike with policy.on_numeric_failure=rtn"),
        {{"block", absl::StrCat(block)}});
  }
  spdlog::warn("block {}: {}; all errors of its output count alike", block,
               why);
  *state = why;
  return absl::OkStatus();
}

absl::Status WeighLoop::WeighBlock(int64_t block) {
  job_.progress->BeginStep(kWeighStep);
  job_.progress->SetBlock(block);
  job_.progress->Report(absl::StrCat("block ", block));
  std::map<std::string, std::string> files;
  v1::Step step;
  RETURN_IF_ERROR(Weigh(block, &files, step.mutable_state()));
  if (block > lowest_) {
    RETURN_IF_ERROR(Backward(block));
    files[kActivationsRole] = job_.journal->NewFile(
        absl::StrCat("step-", job_.journal->next(), ".activations"));
    RETURN_IF_ERROR(gradient_->WriteResidual(files[kActivationsRole]));
  }
  step.set_seconds(job_.progress->StepSeconds());
  return job_.journal->Commit(std::move(step), files);
}

}  // namespace

absl::Status RunWeigh(QuantizeJob& job) { return WeighLoop(job).Run(); }

absl::StatusOr<OutputWeights> ReadOutputWeights(const QuantizeJob& job,
                                                int64_t block) {
  OutputWeights weights;
  const int64_t step = StepOf(*job.journal, block);
  if (step < 0 || !job.calibration.weighted_blocks.contains(block)) {
    return weights;
  }
  weights.unusable = job.journal->done()[static_cast<size_t>(step)].state();
  if (!weights.unusable.empty()) return weights;
  ASSIGN_OR_RETURN(const std::string path,
                   job.journal->FileOf(step, kOutputWeightsRole));
  ASSIGN_OR_RETURN(const checkpoints::TensorMap tensors,
                   checkpoints::ReadSafetensors(path));
  const v1::Calibration& calibration = job.recipe.calibration();
  const std::vector<int64_t> shape = {
      calibration.num_samples() * calibration.sequence_length(),
      job.source.model->hidden_size()};
  const auto found = tensors.find(kWeightsTensor);
  if (found == tensors.end() || found->second.sizes() != shape ||
      found->second.scalar_type() != at::kBFloat16) {
    return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                           "the committed output weights do not fit the job");
  }
  weights.values = found->second;
  return weights;
}

}  // namespace quantd::pipeline
