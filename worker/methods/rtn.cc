// SPDX-License-Identifier: Apache-2.0
// Round to nearest: every weight to the closest point of its group's grid, with
// no look at the data. What every other method is measured against.
#include "proto/base/status_macros.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

class RtnMethod : public Method {
 public:
  Needs needs() const override { return Needs::kNothing; }

  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override {
    RETURN_IF_ERROR(cancel.Check());
    LinearSolution solution;
    ASSIGN_OR_RETURN(solution.linear,
                     formats::RoundToNearest(problem.weight, problem.spec));
    return solution;
  }
};

}  // namespace

MethodEntry Rtn() {
  MethodEntry entry;
  entry.description.set_seam(v1::SEAM_METHOD);
  entry.description.set_id("rtn");
  entry.description.set_summary(
      "Rounds every weight to the nearest point of its group's grid; needs no "
      "calibration data.");
  entry.description.set_reference("docs/methods/rtn.md");
  entry.make = [](const spec::Params&) -> std::unique_ptr<Method> {
    return std::make_unique<RtnMethod>();
  };
  return entry;
}

}  // namespace quantd::methods
