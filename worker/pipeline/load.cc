// SPDX-License-Identifier: Apache-2.0
// From a recipe to a plan, and the first step: the calibration tokens.
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/canonical.h"
#include "proto/spec/catalog_rules.h"
#include "worker/calibration/sampler.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/data/documents.h"
#include "worker/methods/method.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/fingerprint.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/resolve_recipe.h"
#include "worker/pipeline/transform_stage.h"

namespace quantd::pipeline {
namespace {

constexpr char kTokensTensor[] = "tokens";

std::vector<PlannedStep> PlanSteps(const QuantizeJob& job) {
  std::vector<PlannedStep> steps = {{kLoadStep, "load"}};
  const int64_t blocks = job.source.model->num_blocks();
  const ModulePlan& last = job.modules.back();
  if (job.mixed != nullptr) {
    for (int64_t i = 0; i < blocks; ++i) {
      steps.push_back({kMeasureStep, absl::StrCat(i)});
    }
    if (job.mixed->specs.contains(job.source.model->HeadShape().name)) {
      steps.push_back({kMeasureStep, last.name});
    }
  }
  const std::set<int64_t>& weighted = job.calibration.weighted_blocks;
  for (int64_t i = blocks - 1; !weighted.empty() && i >= *weighted.begin();
       --i) {
    steps.push_back({kWeighStep, absl::StrCat(i)});
  }
  for (int64_t i = 0; i < blocks; ++i) {
    steps.push_back({kBlockStep, absl::StrCat(i)});
  }
  if (last.block == kHeadBlock && last.quantized) {
    steps.push_back({kHeadStep, last.name});
  }
  for (const v1::Component& layout : job.recipe.exports()) {
    steps.push_back({kExportStep, layout.id()});
  }
  for (const v1::Component& layout : job.recipe.exports()) {
    steps.push_back({kVerifyStep, layout.id()});
  }
  for (const v1::Component& task : job.recipe.evals()) {
    steps.push_back({kEvaluateStep, absl::StrCat(task.id(), "/float")});
    steps.push_back({kEvaluateStep, absl::StrCat(task.id(), "/quantized")});
  }
  return steps;
}

absl::StatusOr<bool> NeedsTokens(const std::vector<ModulePlan>& modules) {
  for (const ModulePlan& plan : modules) {
    if (!plan.quantized) continue;
    if (plan.activations.has_value() && plan.activations->is_static) {
      return true;
    }
    ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
    if (method->needs() != methods::Needs::kNothing) return true;
  }
  return false;
}

// What fixes the tokens, without tokenizing: the data file, the tokenizer and
// the sampling rule's inputs.
absl::StatusOr<std::string> TokensDigest(const QuantizeJob& job) {
  const v1::Calibration& calibration = job.recipe.calibration();
  ASSIGN_OR_RETURN(const std::string path,
                   data::ResolveDataset(calibration.dataset()));
  ASSIGN_OR_RETURN(const base::FileDigest file, base::DigestFile(path));
  ASSIGN_OR_RETURN(const auto tokenizer, job.source.MakeTokenizer());
  return base::Sha256Hex(absl::StrCat(
      file.sha256, "\n", tokenizer->digest(), "\n", calibration.num_samples(),
      "\n", calibration.sequence_length(), "\n", calibration.seed(), "\n"));
}

absl::Status RefuseQuantizedSource(const SourceModel& source) {
  if (!source.quantized()) return absl::OkStatus();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "SOURCE_IS_QUANTIZED",
      "the model is quantized already; quantize the floating-point model it "
      "was made from");
}

absl::StatusOr<at::Tensor> SampleCalibration(const QuantizeJob& job) {
  const v1::Calibration& calibration = job.recipe.calibration();
  ASSIGN_OR_RETURN(const std::string path,
                   data::ResolveDataset(calibration.dataset()));
  ASSIGN_OR_RETURN(const data::Corpus corpus, data::ReadCorpus(path));
  const int64_t vocabulary = job.source.model->vocabulary_size();
  RETURN_IF_ERROR(data::CheckIds(corpus, vocabulary));
  ASSIGN_OR_RETURN(const auto tokenizer, job.source.MakeTokenizer());
  ASSIGN_OR_RETURN(at::Tensor tokens,
                   calibration::SampleTokens(corpus, *tokenizer, calibration));
  // Of texts: a tokenizer may know more tokens than the model.
  if (tokens.min().item<int64_t>() < 0 ||
      tokens.max().item<int64_t>() >= vocabulary) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "TOKEN_OUT_OF_RANGE",
        absl::StrCat("the calibration data has token ids beyond the model's "
                     "vocabulary of ",
                     vocabulary, "; the tokenizer is another model's"),
        {{"vocabulary_size", absl::StrCat(vocabulary)}});
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizeJob>> ResolveJob(
    const v1::StartJob& start, Sink& sink, const base::CancelToken& cancel) {
  RETURN_IF_ERROR(spec::ValidateJob(start.spec(), DescribeBuild()));
  auto job = std::make_unique<QuantizeJob>(start, sink, cancel);
  ASSIGN_OR_RETURN(job->device, ParseDevice(start.device()));
  ASSIGN_OR_RETURN(job->source, OpenSource(job->spec().model(), job->device));
  RETURN_IF_ERROR(RefuseQuantizedSource(job->source));
  ASSIGN_OR_RETURN(job->recipe,
                   ResolveRecipe(job->spec().recipe(), *job->source.model));
  RETURN_IF_ERROR(ApplyModelTransforms(*job));
  const models::Model& model = *job->source.model;
  ASSIGN_OR_RETURN(job->modules, PlanModules(job->recipe, model));
  KeepRotationsOfQuantized(*job);
  ASSIGN_OR_RETURN(job->kv_rounding,
                   formats::MakeKvRounding(job->recipe.kv_cache()));
  for (const v1::Component& layout : job->recipe.exports()) {
    ASSIGN_OR_RETURN(auto made, exports::MakeExport(layout));
    job->exports.push_back(std::move(made));
  }
  RETURN_IF_ERROR(CheckExports(job->modules, model, job->exports));
  if (job->recipe.has_mixed()) {
    ASSIGN_OR_RETURN(MixedPlan mixed,
                     PlanMixed(job->recipe, model, job->exports));
    job->mixed = std::make_unique<MixedPlan>(std::move(mixed));
    if (!job->mixed->strategy->needs_losses()) {
      RETURN_IF_ERROR(SettleFormats(*job));
    }
  }
  ASSIGN_OR_RETURN(job->calibration, PlanCalibration(job->modules));
  ASSIGN_OR_RETURN(job->needs_tokens, NeedsTokens(job->modules));
  ASSIGN_OR_RETURN(const bool fitted, TransformsNeedTokens(*job));
  job->needs_tokens = job->needs_tokens || fitted || job->mixed != nullptr;
  return job;
}

absl::StatusOr<std::unique_ptr<QuantizeJob>> PrepareQuantize(
    const v1::StartJob& start, Sink& sink, const base::CancelToken& cancel) {
  ASSIGN_OR_RETURN(std::unique_ptr<QuantizeJob> job,
                   ResolveJob(start, sink, cancel));
  FingerprintParts parts;
  ASSIGN_OR_RETURN(job->weights_digest, job->source.reader->Digest());
  parts.weights_digest = job->weights_digest;
  if (job->needs_tokens) {
    ASSIGN_OR_RETURN(parts.tokens_digest, TokensDigest(*job));
  }
  parts.recipe_digest = spec::RecipeDigest(job->recipe);
  job->journal = std::make_unique<Journal>(
      start, sink, Fingerprint(parts, job->device), PlanSteps(*job));
  RETURN_IF_ERROR(SettleFormats(*job));
  RETURN_IF_ERROR(RestoreEdits(*job));
  job->progress = std::make_unique<ProgressReporter>(
      sink, *job->journal, job->source.model->num_blocks(),
      base::Clock::Real());
  return job;
}

absl::Status RunLoad(QuantizeJob& job) {
  job.progress->BeginStep("load");
  v1::Step step;
  std::map<std::string, std::string> files;
  if (job.needs_tokens) {
    ASSIGN_OR_RETURN(const at::Tensor tokens, SampleCalibration(job));
    const std::string path = job.journal->NewFile("tokens.safetensors");
    RETURN_IF_ERROR(checkpoints::WriteSafetensors(
        path, {{kTokensTensor, tokens.contiguous()}}));
    files[kTokensRole] = path;
  }
  step.set_seconds(job.progress->StepSeconds());
  return job.journal->Commit(std::move(step), files);
}

absl::StatusOr<at::Tensor> LoadTokens(const QuantizeJob& job) {
  ASSIGN_OR_RETURN(const std::string path, job.journal->FileOf(0, kTokensRole));
  ASSIGN_OR_RETURN(const checkpoints::TensorMap tensors,
                   checkpoints::ReadSafetensors(path));
  const auto tokens = tensors.find(kTokensTensor);
  if (tokens == tensors.end() || tokens->second.dim() != 2 ||
      tokens->second.scalar_type() != at::kLong) {
    return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                           "the committed calibration tokens cannot be read");
  }
  return tokens->second;
}

absl::Status EmbedTokens(const QuantizeJob& job, ActivationCache* cache) {
  ASSIGN_OR_RETURN(const at::Tensor tokens, LoadTokens(job));
  if (tokens.size(0) != cache->sequences() ||
      tokens.size(1) != cache->tokens()) {
    return base::MakeError(
        absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
        "the committed calibration tokens do not fit the job");
  }
  for (int64_t i = 0; i < tokens.size(0); ++i) {
    RETURN_IF_ERROR(job.cancel.Check());
    models::SequenceState state;
    ASSIGN_OR_RETURN(state.residual,
                     job.source.model->Embed(tokens.select(0, i)));
    cache->Store(i, state);
  }
  return absl::OkStatus();
}

}  // namespace quantd::pipeline
