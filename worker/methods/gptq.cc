// SPDX-License-Identifier: Apache-2.0
// GPTQ: columns are rounded one after another, and what rounding a column
// loses is made up for by those that follow, as the second moments of the
// layer's input ask (Frantar et al., GPTQ, arXiv:2210.17323, section 3 and
// algorithm 1). docs/methods/gptq.md says where we differ from the paper.
#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/base/status_macros.h"
#include "worker/methods/column_order.h"
#include "worker/methods/column_rounding.h"
#include "worker/methods/method.h"
#include "worker/methods/token_count.h"
#include "worker/methods/usable_statistics.h"
#include "worker/numerics/asymmetric_feedback.h"
#include "worker/numerics/feedback_factor.h"

namespace quantd::methods {
namespace {

// How the layer is calibrated.
void DescribeCalibration(v1::ComponentEntry* entry) {
  *entry->add_params() = spec::BoolParameter(
      "true_sequential", true,
      "Layers see what the block's layers before them make of the tokens once "
      "they are quantized; false: what its float layers make of them.");
  *entry->add_params() = spec::BoolParameter(
      "propagate_error", true,
      "Blocks read what the quantized blocks before them make of the tokens; "
      "false: what the float blocks make of them.");
  *entry->add_params() = spec::DoubleParameter(
      "alpha", 0, 0, 1,
      "Also makes up for this part of how far the layer's inputs have drifted "
      "from the float model's (GPTAQ); 0 looks at no drift, 0.25 is the "
      "published code's, 1 the paper's.");
  *entry->add_params() = MinTokensParameter();
}

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id("gptq");
  entry.set_summary(
      "Rounds column by column and lets later columns make up for the error, "
      "by the second moments of the layer's input.");
  entry.set_when(
      "The usual choice for 3 and 4 bits: little time, and every serving "
      "engine loads the result.");
  entry.set_reference(
      "Frantar et al., GPTQ, arXiv:2210.17323, algorithm 1; "
      "docs/methods/gptq.md");
  *entry.add_params() = spec::DoubleParameter(
      "percdamp", 0.01, 0, 1,
      "Fraction of the mean diagonal that is added to the diagonal of the "
      "Hessian.");
  *entry.add_params() = spec::DoubleParameter(
      "damp_increment", 0.01, 0, 1,
      "Step by which the fraction grows while the Hessian cannot be "
      "factorized; 0 gives up at once.");
  *entry.add_params() = spec::IntParameter(
      "blocksize", 128, 1, 4096,
      "Columns whose feedback is applied lazily, together; changes speed and "
      "the last bits, not the method.");
  *entry.add_params() = spec::StringParameter(
      "act_order", "none", {"none", "static", "dynamic", "group_aware"},
      "Quantizes columns by falling second moment: static keeps the groups of "
      "the original order, dynamic forms them in the new order and stores an "
      "index per input feature, group_aware sorts inside groups and then the "
      "groups.");
  *entry.add_params() = spec::BoolParameter(
      "static_groups", false,
      "Chooses all scales from the original weights and not from the "
      "corrected ones; implied by act_order static.");
  DescribeCalibration(&entry);
  entry.add_provides("calibrated");
  entry.add_provides("format_grids");
  return entry;
}

struct Options {
  numerics::DampingOptions damping;
  int64_t block_size = 128;
  ActOrder act_order = ActOrder::kNone;
  bool static_groups = false;
  double alpha = 0;
  double min_tokens = 0;
  CalibrationFlow flow;
};

Options ReadOptions(const spec::Params& params) {
  Options options;
  options.damping = {params.GetDouble("percdamp"),
                     params.GetDouble("damp_increment")};
  options.block_size = params.GetInt("blocksize");
  options.alpha = params.GetDouble("alpha");
  options.min_tokens = params.GetDouble("min_tokens");
  options.flow = {params.GetBool("true_sequential"),
                  params.GetBool("propagate_error")};
  const std::string& order = params.GetString("act_order");
  if (order == "static") options.act_order = ActOrder::kStatic;
  if (order == "dynamic") options.act_order = ActOrder::kDynamic;
  if (order == "group_aware") options.act_order = ActOrder::kGroupAware;
  options.static_groups =
      params.GetBool("static_groups") || options.act_order == ActOrder::kStatic;
  return options;
}

// What follows from the statistics and the options, whatever the weight is.
struct Prepared {
  // Why there is no factor; empty where there is one.
  std::string trouble;
  at::Tensor dead;  // bool [in]: inputs that are always zero.
  ColumnOrder order;
  // float32 [in, in] in original order: what weights are multiplied by, where
  // the drift of the inputs is made up for; else undefined.
  at::Tensor spread;
  // In processing order.
  numerics::DampedFactor factor;
};

// `matrix` with both axes in the order of `permutation`, where there is one.
at::Tensor Reorder(const at::Tensor& matrix, const at::Tensor& permutation) {
  if (!permutation.defined()) return matrix;
  return matrix.index_select(0, permutation).index_select(1, permutation);
}

// Lets the factor make up for the drift as well.
absl::Status FollowDrift(const at::Tensor& drift, double scale,
                         const Options& options,
                         const base::CancelToken& cancel, Prepared* prepared) {
  const at::Tensor& permutation = prepared->order.permutation;
  ASSIGN_OR_RETURN(prepared->spread,
                   numerics::FollowFloatInputs(
                       Reorder(drift.mul(scale), permutation), options.alpha,
                       cancel, &prepared->factor.factor));
  if (permutation.defined()) {
    prepared->spread = Reorder(prepared->spread, at::argsort(permutation));
  }
  return absl::OkStatus();
}

// H = 2/N sum x x^T, then its factor. An input that is always zero has no say
// in the layer's output: its diagonal becomes 1 and its weights 0.
absl::StatusOr<Prepared> Prepare(const calibration::Statistics& statistics,
                                 const at::Device& device,
                                 const Options& options, int64_t group_size,
                                 const base::CancelToken& cancel) {
  Prepared prepared;
  const at::Tensor gram = statistics.gram.to(device);
  prepared.trouble = MomentsProblem(gram);
  if (!prepared.trouble.empty()) return prepared;
  const double scale = 2.0 / static_cast<double>(statistics.tokens);
  at::Tensor hessian = gram.mul(scale);
  prepared.dead = hessian.diagonal().eq(0);
  hessian.diagonal().masked_fill_(prepared.dead, 1);
  prepared.order =
      OrderColumns(hessian.diagonal(), options.act_order, group_size);
  hessian = Reorder(hessian, prepared.order.permutation);
  ASSIGN_OR_RETURN(auto factor, numerics::FactorWithDamping(
                                    hessian, options.damping, cancel));
  if (!factor.has_value()) {
    prepared.trouble = "the Hessian is not positive definite with any damping";
    return prepared;
  }
  prepared.factor = *std::move(factor);
  if (options.alpha > 0 && statistics.drift.defined()) {
    RETURN_IF_ERROR(FollowDrift(statistics.drift.to(device), scale, options,
                                cancel, &prepared));
  }
  return prepared;
}

// weight * spread, looking at the token every half second of a core's work.
absl::StatusOr<at::Tensor> Multiply(const at::Tensor& weight,
                                    const at::Tensor& spread,
                                    const base::CancelToken& cancel) {
  constexpr int64_t kFlops = 40'000'000'000;
  const int64_t rows = std::max<int64_t>(1, kFlops / (2 * spread.numel()));
  const at::Tensor product = at::empty_like(weight);
  for (int64_t begin = 0; begin < weight.size(0); begin += rows) {
    RETURN_IF_ERROR(cancel.Check());
    const int64_t count = std::min(rows, weight.size(0) - begin);
    at::Tensor part = product.narrow(0, begin, count);
    at::mm_out(part, weight.narrow(0, begin, count), spread);
  }
  return product;
}

class GptqMethod : public Method {
 public:
  explicit GptqMethod(const Options& options) : options_(options) {}

  Needs needs() const override {
    return options_.alpha > 0 ? Needs::kGramAndDrift : Needs::kGram;
  }
  CalibrationFlow flow() const override { return options_.flow; }
  double min_tokens() const override { return options_.min_tokens; }

  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override {
    RETURN_IF_ERROR(formats::CheckWeight(problem.weight));
    const std::string trouble = StatisticsProblem(problem);
    if (!trouble.empty()) {
      return FallBackToNearest(problem, trouble, cancel);
    }
    return Solve(problem, cancel);
  }

 private:
  // What Prepare's result depends on besides the statistics.
  std::string SharedKey(int64_t group_size) const {
    const bool ordered = options_.act_order != ActOrder::kNone;
    const bool grouped = options_.act_order == ActOrder::kGroupAware;
    return absl::StrFormat("gptq %.17g %.17g %.17g %d %d",
                           options_.damping.damp, options_.damping.increment,
                           options_.alpha, ordered, grouped ? group_size : 0);
  }

  absl::StatusOr<LinearSolution> Solve(const LinearProblem& problem,
                                       const base::CancelToken& cancel) const {
    const int64_t in = problem.weight.size(1);
    const int64_t group_size = std::min(problem.spec.GroupSizeFor(in), in);
    const std::string key = SharedKey(group_size);
    std::optional<Prepared> own;
    const Prepared* prepared = nullptr;
    if (problem.shared != nullptr) {
      prepared = problem.shared->Find<Prepared>(key);
    }
    if (prepared == nullptr) {
      ASSIGN_OR_RETURN(
          own, Prepare(*problem.statistics, problem.weight.device(), options_,
                       group_size, cancel));
      prepared = &*own;
      if (problem.shared != nullptr) problem.shared->Keep(key, *own);
    }
    if (!prepared->trouble.empty()) {
      return FallBackToNearest(problem, prepared->trouble, cancel);
    }
    return RunColumns(problem, *prepared, cancel);
  }

  absl::StatusOr<LinearSolution> RunColumns(
      const LinearProblem& problem, const Prepared& prepared,
      const base::CancelToken& cancel) const {
    ColumnRounding rounding;
    rounding.spec = problem.spec;
    rounding.weight = problem.weight.masked_fill(prepared.dead, 0).contiguous();
    if (prepared.spread.defined()) {
      ASSIGN_OR_RETURN(rounding.weight,
                       Multiply(rounding.weight, prepared.spread, cancel));
      if (!at::isfinite(rounding.weight).all().item<bool>()) {
        return FallBackToNearest(
            problem, "the layer's inputs have drifted beyond all bounds",
            cancel);
      }
    }
    rounding.order = prepared.order;
    rounding.static_groups = options_.static_groups;
    rounding.block_size = options_.block_size;
    ASSIGN_OR_RETURN(std::optional<formats::QuantizedLinear> linear,
                     RoundColumns(rounding, prepared.factor.factor, cancel));
    if (!linear.has_value()) {
      return FallBackToNearest(problem, "error feedback grew beyond all bounds",
                               cancel);
    }
    LinearSolution solution;
    solution.linear = *std::move(linear);
    Judge(prepared.factor, &solution);
    return solution;
  }

  void Judge(const numerics::DampedFactor& factor,
             LinearSolution* solution) const {
    solution->damp = factor.damp;
    if (factor.damp == options_.damping.damp && factor.floor == 0) return;
    solution->verdict = v1::VERDICT_DAMPED;
    solution->reason =
        absl::StrCat("the Hessian was factorized with damping ", factor.damp,
                     " and not with ", options_.damping.damp);
    if (factor.floor > 0) {
      absl::StrAppend(&solution->reason, ", above a floor of ", factor.floor,
                      " on its diagonal");
    }
  }

  const Options options_;
};

}  // namespace

MethodEntry Gptq() {
  MethodEntry entry;
  entry.description = Describe();
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    return std::make_unique<GptqMethod>(ReadOptions(params));
  };
  return entry;
}

}  // namespace quantd::methods
