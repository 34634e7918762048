// SPDX-License-Identifier: Apache-2.0
// The seam of evaluation tasks.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/report.pb.h"
#include "worker/models/model.h"
#include "worker/tokenizers/tokenizer.h"

namespace quantd::evals {

// What a task is run on. All references outlive the call.
struct EvalSubject {
  models::Model& model;
  const tokenizers::Tokenizer& tokenizer;
  // Called with (done, total) items at batch boundaries.
  std::function<void(int64_t, int64_t)> progress;
};

// Immutable after it is made.
class Eval {
 public:
  virtual ~Eval() = default;
  // Scores the subject. Polls `cancel` between blocks. DATA_LOSS,
  // NON_FINITE_LOGITS, where the model's output is not finite.
  virtual absl::StatusOr<v1::EvalReport> Run(
      const EvalSubject& subject, const base::CancelToken& cancel) const = 0;
};

struct EvalEntry {
  v1::ComponentEntry description;
  std::unique_ptr<Eval> (*make)(const spec::Params& params);
};

const std::vector<EvalEntry>& Registry();

absl::StatusOr<std::unique_ptr<Eval>> MakeEval(const v1::Component& component);

}  // namespace quantd::evals
