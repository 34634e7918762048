// SPDX-License-Identifier: Apache-2.0
// What the stages of a quantize job share, and the stages themselves, one file
// each. Every process of a job works all of this out afresh from the recipe and
// the committed steps; nothing is carried over in memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "quantd/v1/runner.pb.h"
#include "worker/exports/export.h"
#include "worker/formats/quantized_linear.h"
#include "worker/pipeline/block_reconstruction.h"
#include "worker/pipeline/journal.h"
#include "worker/pipeline/mixed_plan.h"
#include "worker/pipeline/module_plan.h"
#include "worker/pipeline/pipeline.h"
#include "worker/pipeline/progress.h"
#include "worker/pipeline/source_model.h"
#include "worker/steps/block_file.h"

namespace quantd::pipeline {

class ActivationCache;

// Owned by RunQuantize; the stages take it by reference, one at a time.
struct QuantizeJob {
  QuantizeJob(const v1::StartJob& start_job, Sink& step_sink,
              const base::CancelToken& cancel_token)
      : start(start_job), sink(step_sink), cancel(cancel_token) {}

  const v1::StartJob& start;
  Sink& sink;
  const base::CancelToken& cancel;

  // Where the model runs.
  at::Device device = at::kCPU;
  // As the transforms have made it so far: its reader and model give what they
  // make of the checkpoint.
  SourceModel source;
  // Everything written out; once formats are settled, as overrides.
  v1::Recipe recipe;
  // Null where every module's format is settled.
  std::unique_ptr<MixedPlan> mixed;
  // How they were settled; empty where the recipe said them.
  v1::MixedReport mixed_report;
  std::vector<ModulePlan> modules;
  // How the quantized model's attention keeps keys and values; empty: as they
  // are.
  formats::KvRounding kv_rounding;
  std::vector<std::unique_ptr<exports::Export>> exports;
  CalibrationPlan calibration;
  // False where nothing looks at the layers' inputs: then nothing is sampled
  // and no forward pass is run.
  bool needs_tokens = false;
  std::string weights_digest;
  std::unique_ptr<Journal> journal;
  std::unique_ptr<ProgressReporter> progress;

  const v1::QuantizeSpec& spec() const { return start.spec().quantize(); }
  // How the inputs of quantized modules are rotated while the model runs.
  numerics::InputRotations input_rotations() const {
    return source.edits == nullptr ? numerics::InputRotations()
                                   : source.edits->input_rotations();
  }
};

// Opens the source and checks everything that can be known without computing:
// components, patterns, shapes, exports. Takes milliseconds. The job has no
// journal yet.
absl::StatusOr<std::unique_ptr<QuantizeJob>> ResolveJob(
    const v1::StartJob& start, Sink& sink, const base::CancelToken& cancel);

// ResolveJob, and what the committed steps have left.
absl::StatusOr<std::unique_ptr<QuantizeJob>> PrepareQuantize(
    const v1::StartJob& start, Sink& sink, const base::CancelToken& cancel);

// Writes a strategy's choice into the job's recipe and modules, as soon as
// nothing is left to be measured for it.
absl::Status SettleFormats(QuantizeJob& job);

// Each does the journal's next step or, for the blocks, all that are left.
absl::Status RunLoad(QuantizeJob& job);
absl::Status RunMeasure(QuantizeJob& job);
absl::Status RunWeigh(QuantizeJob& job);
absl::Status RunBlocks(QuantizeJob& job);
absl::Status RunExport(QuantizeJob& job);
absl::Status RunVerify(QuantizeJob& job);
absl::Status RunEvaluate(QuantizeJob& job);

// The report and the artifacts of a job whose steps are all done.
v1::JobReport MakeReport(const QuantizeJob& job);
absl::StatusOr<std::vector<v1::ProducedArtifact>> MakeArtifacts(
    const QuantizeJob& job);

// The calibration tokens, int64 [samples, length], of the load step.
absl::StatusOr<at::Tensor> LoadTokens(const QuantizeJob& job);

// What the steps of RunWeigh left of the block; nothing where its method does
// not ask. DATA_LOSS, STEP_FILE_DAMAGED.
absl::StatusOr<OutputWeights> ReadOutputWeights(const QuantizeJob& job,
                                                int64_t block);

// Stores the embeddings of the calibration tokens, which the load step
// committed. DATA_LOSS, STEP_FILE_DAMAGED; CANCELLED.
absl::Status EmbedTokens(const QuantizeJob& job, ActivationCache* cache);

// Reads the quantized linears that earlier steps left; keeps the newest block.
// The job outlives it. One thread.
class QuantizedReader {
 public:
  explicit QuantizedReader(const QuantizeJob& job) : job_(job) {}
  absl::StatusOr<formats::QuantizedLinear> Read(const std::string& module);

 private:
  const QuantizeJob& job_;
  steps::QuantizedModules modules_;
};

}  // namespace quantd::pipeline
