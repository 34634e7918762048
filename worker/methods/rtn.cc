// SPDX-License-Identifier: Apache-2.0
// Round to nearest: every weight to the closest point of its group's grid. What
// every other method is measured against. Looks at no data, unless the ranges
// of its grids are to be searched with weights that count by their inputs.
#include "proto/base/status_macros.h"
#include "worker/methods/method.h"
#include "worker/methods/rounding_variables.h"
#include "worker/methods/usable_statistics.h"

namespace quantd::methods {
namespace {

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id("rtn");
  entry.set_summary(
      "Rounds every weight to the nearest point of its group's grid; needs no "
      "calibration data.");
  entry.set_when(
      "With 8 bits, as a first look, or after a transform that does the "
      "work; it needs no text.");
  entry.set_reference("docs/methods/rtn.md");
  *entry.add_params() = spec::StringParameter(
      "importance", "none", {"none", "inputs"},
      "inputs: ranges are searched as with weights.clip=mse, and a weight's "
      "error counts by the mean square of its input; needs calibration data.");
  entry.add_provides("format_grids");
  v1::Requirement* integer = entry.add_requirements();
  integer->set_seam(v1::SEAM_FORMAT);
  integer->set_property("integer");
  integer->set_when("importance=inputs");
  integer->set_why("only the ranges of integer grids are searched");
  integer->set_suggestion("use int2 to int8, or leave importance out");
  return entry;
}

class RtnMethod : public Method {
 public:
  explicit RtnMethod(bool by_inputs) : by_inputs_(by_inputs) {}

  Needs needs() const override {
    return by_inputs_ ? Needs::kSquares : Needs::kNothing;
  }

  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override {
    RETURN_IF_ERROR(cancel.Check());
    formats::WeightSpec spec = problem.spec;
    if (by_inputs_) {
      RETURN_IF_ERROR(formats::CheckWeight(problem.weight));
      RETURN_IF_ERROR(FindIntegerFormat(spec, "rtn by inputs").status());
      const std::string trouble = SquaresProblem(problem);
      if (!trouble.empty()) {
        return FallBackToNearest(problem, trouble, cancel);
      }
      const calibration::Statistics& statistics = *problem.statistics;
      spec.params["clip"].set_string_value("mse");
      spec.importance = calibration::SquaresOf(statistics)
                            .div(static_cast<double>(statistics.tokens))
                            .to(problem.weight.device());
    }
    LinearSolution solution;
    ASSIGN_OR_RETURN(solution.linear,
                     formats::RoundToNearest(problem.weight, spec, cancel));
    return solution;
  }

 private:
  const bool by_inputs_;
};

}  // namespace

MethodEntry Rtn() {
  MethodEntry entry;
  entry.description = Describe();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    return std::make_unique<RtnMethod>(params.GetString("importance") ==
                                       "inputs");
  };
  return entry;
}

}  // namespace quantd::methods
