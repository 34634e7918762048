// SPDX-License-Identifier: Apache-2.0
// Reads an exported checkpoint from disk, in a process that did not write it,
// and compares it with the quantized model that the job computed.
#include <ATen/ops/isfinite.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/exports/probe.h"
#include "worker/pipeline/manifest.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/verified_artifact.h"

namespace quantd::pipeline {
namespace {

// Same weights, same order of sums: the logits are equal bit for bit, unless
// the packed kernel sums in another order than the dense one. Relative to the
// largest logit; docs/artifact.md has the reasoning.
constexpr double kTolerance = 1e-5;

absl::Status Mismatch(const std::string& what,
                      const base::ErrorMetadata& metadata) {
  return base::MakeError(
      absl::StatusCode::kInternal, "VERIFY_MISMATCH",
      absl::StrCat("the exported checkpoint is not the quantized model: ", what,
                   "; nothing was published"),
      metadata);
}

// Every file that the manifest names, and no other, with its digest.
absl::Status CheckDigests(const QuantizeJob& job, int64_t export_step) {
  ASSIGN_OR_RETURN(const std::string manifest,
                   job.journal->FileOf(export_step, kManifestRole));
  ASSIGN_OR_RETURN(const std::string text, base::ReadFile(manifest));
  ASSIGN_OR_RETURN(const FileDigests expected, ParseManifestFiles(text));
  for (const auto& [path, digest] : expected) {
    ASSIGN_OR_RETURN(
        const std::string file,
        job.journal->FileOf(export_step, absl::StrCat(kFileRole, path)));
    ASSIGN_OR_RETURN(const base::FileDigest actual, base::DigestFile(file));
    if (actual.sha256 != digest.sha256 ||
        actual.size_bytes != digest.size_bytes) {
      return Mismatch(absl::StrCat(path, " is not the file that was written"),
                      {{"file", path}});
    }
  }
  return absl::OkStatus();
}

// The first module whose weights differ from what the layout should hold.
absl::StatusOr<std::string> FirstDifferentModule(const QuantizeJob& job,
                                                 const exports::Export& layout,
                                                 SourceModel& artifact) {
  QuantizedReader quantized(job);
  const numerics::InputRotations rotations = job.input_rotations();
  for (const ModulePlan& plan : job.modules) {
    if (!plan.quantized) continue;
    RETURN_IF_ERROR(job.cancel.Check());
    const auto rotation = rotations.find(plan.name);
    ASSIGN_OR_RETURN(const formats::QuantizedLinear linear,
                     quantized.Read(plan.name));
    ASSIGN_OR_RETURN(const auto stored,
                     artifact.loader->Load(plan.name, plan.out_features,
                                           plan.in_features, false));
    const at::Tensor expected = layout.StoredWeight(
        linear, rotation == rotations.end() ? nullptr : &rotation->second);
    if (!stored->DenseWeight().cpu().equal(expected)) return plan.name;
  }
  return std::string();
}

// The largest absolute difference of the logits.
absl::StatusOr<double> CompareProbe(const QuantizeJob& job,
                                    const exports::Probe& expected,
                                    SourceModel& artifact) {
  const exports::LinearOf own = [](const std::string&, const models::Linear&) {
    return std::unique_ptr<models::Linear>();
  };
  ASSIGN_OR_RETURN(
      const at::Tensor logits,
      exports::ProbeLogits(*artifact.model, expected.ids, {own}, job.cancel));
  if (!at::isfinite(logits).all().item<bool>()) {
    return base::MakeError(
        absl::StatusCode::kFailedPrecondition, "NUMERIC_LOGITS",
        "the quantized model's output is not finite; quantize with more bits "
        "or look for layers with the verdict rtn_fallback");
  }
  return logits.sub(expected.logits).abs().max().item<double>();
}

}  // namespace

absl::StatusOr<SourceModel> OpenVerifiedArtifact(const QuantizeJob& job,
                                                 int64_t export_step) {
  std::map<std::string, std::string> files;
  for (const auto& [role, blob] : job.journal->done()[export_step].blobs()) {
    absl::string_view path = role;
    if (!absl::ConsumePrefix(&path, kFileRole)) continue;
    ASSIGN_OR_RETURN(files[std::string(path)],
                     job.journal->FileOf(export_step, role));
  }
  const std::string directory =
      job.journal->NewFile(absl::StrCat("artifact-", export_step));
  if (!std::filesystem::exists(directory)) {
    RETURN_IF_ERROR(LinkFiles(files, directory));
  }
  return OpenSource(directory, job.device);
}

absl::Status RunVerify(QuantizeJob& job) {
  job.progress->BeginStep("verify");
  const int64_t index =
      job.journal->next() - job.journal->StepsOf(kVerifyStep).front();
  const int64_t export_step = job.journal->StepsOf(kExportStep)[index];
  job.progress->Report(job.journal->plan()[export_step].name);
  RETURN_IF_ERROR(CheckDigests(job, export_step));
  ASSIGN_OR_RETURN(SourceModel artifact,
                   OpenVerifiedArtifact(job, export_step));
  ASSIGN_OR_RETURN(const std::string probe_file,
                   job.journal->FileOf(export_step, kProbeRole));
  ASSIGN_OR_RETURN(const exports::Probe expected,
                   exports::ReadProbe(probe_file));
  ASSIGN_OR_RETURN(const std::string different,
                   FirstDifferentModule(job, *job.exports[index], artifact));
  if (!different.empty()) {
    return Mismatch(absl::StrCat("the weights of ", different, " differ"),
                    {{"module", different}});
  }
  ASSIGN_OR_RETURN(const double difference,
                   CompareProbe(job, expected, artifact));
  const double largest = expected.logits.abs().max().item<double>();
  if (!(difference <= kTolerance * largest)) {
    return Mismatch(
        absl::StrCat("all weights are equal and the logits differ by ",
                     difference),
        {{"difference", absl::StrCat(difference)}});
  }
  v1::Step step;
  step.set_state(nlohmann::json({{"max_difference", difference}}).dump());
  step.set_seconds(job.progress->StepSeconds());
  return job.journal->Commit(std::move(step), {});
}

}  // namespace quantd::pipeline
