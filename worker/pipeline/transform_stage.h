// SPDX-License-Identifier: Apache-2.0
// Where transforms act in a quantize job: on the whole model before anything is
// planned, then on each block before it is quantized. Their edits go to the
// job's reader; those of a block are part of its step.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/calibration/input_statistics.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/quantize_job.h"
#include "worker/transforms/transform.h"

namespace quantd::pipeline {

// Lets the recipe's transforms of the whole model edit job.source, whose model
// is made anew; they stand before fitted ones (proto/spec/catalog_rules.h).
// What the transforms say.
absl::Status ApplyModelTransforms(QuantizeJob& job);

// Modules that stay in floating point have their inputs as they are: what is
// rounded nowhere needs no rotation, and every export stores them so.
void KeepRotationsOfQuantized(QuantizeJob& job);

// True where a transform looks at a block's inputs. What the registry says of
// parameters.
absl::StatusOr<bool> TransformsNeedTokens(const QuantizeJob& job);

// Adds the edits that the steps done so far have left. Weights that are going
// to be quantized are read unrounded from here on.
absl::Status RestoreEdits(QuantizeJob& job);

// One thread. The job outlives it.
class BlockTransformer {
 public:
  explicit BlockTransformer(QuantizeJob& job) : job_(job) {}

  // Fits every fitted transform to block `index`, in order, and adds its edits
  // to the job's reader: load the block afterwards. Linears that have other
  // parameters for it are fitted by themselves. `cache` is null where no
  // transform looks at inputs; it is not changed. Empty where nothing is
  // fitted. FAILED_PRECONDITION, NUMERIC_TRANSFORM, where the inputs are not
  // finite and the policy is "fail".
  absl::StatusOr<std::vector<transforms::Edit>> Fit(int64_t index,
                                                    ActivationCache* cache);

 private:
  using Inputs = transforms::InputsByLinear;
  // By stage, then by input of the stage.
  using Accumulators = std::vector<std::vector<calibration::InputAccumulator>>;

  absl::StatusOr<Inputs> Gather(const models::Block& block,
                                transforms::Needs needs,
                                ActivationCache& cache);
  absl::Status AddSequence(const models::Block& block,
                           models::SequenceState state,
                           Accumulators* accumulators);
  absl::StatusOr<Inputs> Finish(const models::Block& block,
                                Accumulators* accumulators);
  // OK where the block goes on without these statistics.
  absl::Status Missing(const std::string& module, const absl::Status& why);

  QuantizeJob& job_;
};

}  // namespace quantd::pipeline
