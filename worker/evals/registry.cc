// SPDX-License-Identifier: Apache-2.0
// The list of evaluation tasks.
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "worker/evals/eval.h"

namespace quantd::evals {

// One row per task, alphabetical; each entry is made in the task's own file.
#define QUANTD_EVALS(ROW) ROW(Perplexity)

#define QUANTD_DECLARE(name) EvalEntry Make##name##Entry();
QUANTD_EVALS(QUANTD_DECLARE)
#undef QUANTD_DECLARE

const std::vector<EvalEntry>& Registry() {
#define QUANTD_ROW(name) Make##name##Entry(),
  static const auto& registry =
      *new std::vector<EvalEntry>{QUANTD_EVALS(QUANTD_ROW)};
#undef QUANTD_ROW
  return registry;
}

absl::StatusOr<std::unique_ptr<Eval>> MakeEval(const v1::Component& component) {
  ASSIGN_OR_RETURN(const EvalEntry* entry,
                   spec::FindEntry(Registry(), "task", component.id()));
  ASSIGN_OR_RETURN(const spec::Params params,
                   spec::Params::Resolve(component, entry->description));
  return entry->make(params);
}

}  // namespace quantd::evals
