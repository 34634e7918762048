// SPDX-License-Identifier: Apache-2.0
// One step per layout: its files, their manifest, and the probe that the files
// must reproduce.
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "proto/base/status_macros.h"
#include "proto/spec/mixed_config.h"
#include "proto/spec/tag.h"
#include "worker/exports/probe.h"
#include "worker/pipeline/fingerprint.h"
#include "worker/pipeline/manifest.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/pipeline/simulated_linear.h"

namespace quantd::pipeline {
namespace {

namespace fs = std::filesystem;

// The formats of all modules, as `--config` takes them.
constexpr char kMixedFile[] = "mixed.json";

struct WrittenExport {
  // Role to file.
  std::map<std::string, std::string> files;
  FileDigests digests;
};

// The probe of the model as this layout stores it.
absl::Status WriteExpectedProbe(QuantizeJob& job, const exports::Export& layout,
                                const at::Tensor& tokens,
                                const std::string& path) {
  models::Model& model = *job.source.model;
  QuantizedReader quantized(job);
  std::map<std::string, const ModulePlan*> plans;
  for (const ModulePlan& plan : job.modules) {
    if (plan.quantized) plans[plan.name] = &plan;
  }
  const RangesByModule ranges = RangesIn(job.journal->done());
  const exports::LinearOf linear_of = [&](const std::string& module,
                                          const models::Linear& own)
      -> absl::StatusOr<std::unique_ptr<models::Linear>> {
    const auto plan = plans.find(module);
    if (plan == plans.end()) return nullptr;
    ASSIGN_OR_RETURN(const formats::QuantizedLinear linear,
                     quantized.Read(module));
    return MakeStoredLinear(
        *plan->second, ranges,
        layout.StoredWeight(linear, own.input_rotation()).to(job.device), own);
  };
  exports::Probe probe;
  probe.ids = exports::ProbeIds(tokens, model);
  ASSIGN_OR_RETURN(probe.logits, exports::ProbeLogits(
                                     model, probe.ids,
                                     {linear_of, job.kv_rounding}, job.cancel));
  return exports::WriteProbe(path, probe);
}

absl::StatusOr<WrittenExport> WriteLayout(QuantizeJob& job,
                                          const exports::Export& layout,
                                          const std::string& directory) {
  std::error_code error;
  fs::remove_all(directory, error);
  fs::create_directories(directory, error);
  if (error) return base::ErrnoStatus(error.value(), "making a folder");
  QuantizedReader quantized(job);
  const std::vector<std::string> names = QuantizedNames(job.modules);
  exports::ExportSource source{
      .reader = *job.source.reader,
      .model = *job.source.model,
      .quantized_modules = names,
      .quantized =
          [&](const std::string& module) { return quantized.Read(module); },
      .recipe = job.recipe,
      .tokenizer_json = "",
      .input_ranges = RangesIn(job.journal->done()),
      .input_rotations = job.input_rotations()};
  // A model without a tokenizer can be quantized all the same.
  const auto tokenizer = job.source.MakeTokenizer();
  if (tokenizer.ok()) source.tokenizer_json = (*tokenizer)->json();
  ASSIGN_OR_RETURN(std::vector<std::string> paths,
                   layout.Write(source, directory));
  if (!job.recipe.overrides().empty()) {
    RETURN_IF_ERROR(
        base::WriteFileAtomically(absl::StrCat(directory, "/", kMixedFile),
                                  spec::MixedConfigText(job.recipe)));
    paths.push_back(kMixedFile);
  }
  WrittenExport written;
  for (const std::string& path : paths) {
    const std::string file = absl::StrCat(directory, "/", path);
    ASSIGN_OR_RETURN(written.digests[path], base::DigestFile(file));
    written.files[absl::StrCat(kFileRole, path)] = file;
  }
  return written;
}

std::vector<v1::LayerReport> LayersOf(const Journal& journal) {
  std::vector<v1::LayerReport> layers;
  for (const v1::Step& step : journal.done()) {
    layers.insert(layers.end(), step.layers().begin(), step.layers().end());
  }
  return layers;
}

std::string DigestTokens(const at::Tensor& tokens) {
  if (!tokens.defined()) return "";
  return base::Sha256Hex(absl::string_view(
      static_cast<const char*>(tokens.const_data_ptr()), tokens.nbytes()));
}

}  // namespace

absl::Status RunExport(QuantizeJob& job) {
  job.progress->BeginStep("export");
  const std::string id = job.journal->plan()[job.journal->next()].name;
  const int64_t index =
      job.journal->next() - job.journal->StepsOf(kExportStep).front();
  const exports::Export& layout = *job.exports[index];
  const std::string directory =
      job.journal->NewFile(absl::StrCat("export-", index));
  job.progress->Report(id);
  ASSIGN_OR_RETURN(WrittenExport written, WriteLayout(job, layout, directory));

  at::Tensor tokens;
  if (job.needs_tokens) {
    ASSIGN_OR_RETURN(tokens, LoadTokens(job));
  }
  const std::vector<v1::LayerReport> layers = LayersOf(*job.journal);
  const std::string manifest = absl::StrCat(directory, ".manifest.json");
  RETURN_IF_ERROR(base::WriteFileAtomically(
      manifest, ManifestText({.name = spec::TagText(spec::TagOf(job.spec())),
                              .export_id = id,
                              .recipe = job.recipe,
                              .device_class = DeviceClass(job.device),
                              .weights_digest = job.weights_digest,
                              .tokens_digest = DigestTokens(tokens),
                              .layers = layers,
                              .bits_per_weight = BitsPerWeight(job.modules),
                              .files = written.digests})));
  written.files[kManifestRole] = manifest;
  const std::string probe = absl::StrCat(directory, ".probe");
  job.progress->Report("probe");
  RETURN_IF_ERROR(WriteExpectedProbe(job, layout, tokens, probe));
  written.files[kProbeRole] = probe;
  v1::Step step;
  step.set_seconds(job.progress->StepSeconds());
  return job.journal->Commit(std::move(step), written.files);
}

}  // namespace quantd::pipeline
