// SPDX-License-Identifier: Apache-2.0
// Half-quadratic quantization (Badri and Shaji, 2023): with the scales of the
// min-max grid given, moves the zero points so that the |w - w^|^p, p < 1, of a
// group become small; needs no data. docs/methods/hqq.md has the equations and
// where we differ from the published code.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/kernels/integer_grid.h"
#include "worker/kernels/zero_points_cpu.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

v1::ComponentEntry Describe() {
  v1::ComponentEntry entry;
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id("hqq");
  entry.set_summary(
      "Moves zero points so that a sparse norm of the weight error becomes "
      "small; needs no calibration data.");
  entry.set_when("When there is no calibration text; with 4 bits and more.");
  entry.set_reference(
      "Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning "
      "Models, 2023; docs/methods/hqq.md");
  *entry.add_params() =
      spec::DoubleParameter("lp_norm", 0.7, 0.1, 1, "The exponent p.");
  *entry.add_params() = spec::DoubleParameter(
      "beta", 10, 1e-3, 1e6, "Weight of the splitting; larger steps less far.");
  *entry.add_params() = spec::DoubleParameter(
      "kappa", 1, 1, 2, "What beta is multiplied with after every step.");
  *entry.add_params() = spec::IntParameter("iterations", 20, 0, 1000,
                                           "Steps; 0 keeps the min-max grid.");
  *entry.add_params() = spec::IntParameter(
      "axis", 1, 0, 1,
      "1: groups run along the input features of a row; 0: down the columns of "
      "the weight folded to as many rows as a group has members.");
  *entry.add_params() = spec::StringParameter(
      "round_zero", "auto", {"auto", "yes", "no"},
      "Rounds the first zero points to integers; auto: at 4 bits, as "
      "published.");
  *entry.add_params() = spec::StringParameter(
      "solver", "best", {"best", "reference"},
      "best keeps each group's best zero point; reference stops all groups "
      "together and keeps the last, as the published code does.");
  for (const auto& [seam, property, why, suggestion] :
       std::vector<std::tuple<v1::Seam, std::string, std::string, std::string>>{
           {v1::SEAM_FORMAT, "integer", "it moves the zero points of integers",
            "int1, int2, int3, int4, int5, int6 or int8"},
           {v1::SEAM_FORMAT, "asymmetric",
            "a symmetric grid has no zero point to move", "--asym, or gptq"},
           {v1::SEAM_EXPORT, "fractional_zero",
            "its zero points lie between codes", "the export dequantized"}}) {
    v1::Requirement* requirement = entry.add_requirements();
    requirement->set_seam(seam);
    requirement->set_property(property);
    requirement->set_why(why);
    requirement->set_suggestion(suggestion);
  }
  // Its zero points lie between codes, which codes of one bit need.
  entry.add_provides("fractional_zero");
  return entry;
}

struct Options {
  double lp_norm = 0.7;
  double beta = 10;
  double kappa = 1;
  int64_t iterations = 20;
  int64_t axis = 1;
  std::string round_zero = "auto";
  bool keep_best = true;
};

// Groups along `dim` of a matrix, their grids in the published notation:
// code = round(w * inverse + zero), w^ = (code - zero) / inverse.
struct Groups {
  at::Tensor weight;
  int64_t dim = 1;
  at::Tensor inverse = {};
  at::Tensor zero = {};
  at::Tensor scale = {};
  float max_code = 0;

  int64_t size() const { return weight.size(1 - dim); }
  // Views of groups [begin, begin + count).
  Groups Part(int64_t begin, int64_t count) const {
    Groups part = *this;
    for (at::Tensor* tensor :
         {&part.weight, &part.inverse, &part.zero, &part.scale}) {
      *tensor = tensor->narrow(1 - dim, begin, count);
    }
    return part;
  }

  at::Tensor Codes(const at::Tensor& z) const {
    return weight.mul(inverse).add_(z).round_().clamp_(0, max_code);
  }
};

using kernels::ScaleType;

at::Tensor StoredScale(const at::Tensor& scale, ScaleType type) {
  at::Tensor stored = scale.contiguous().clone();
  float* values = stored.mutable_data_ptr<float>();
  std::transform(values, values + stored.numel(), values, [type](float value) {
    return kernels::RoundScale(value, type);
  });
  return stored;
}

// Zero points of a narrow range can lie far outside the codes.
at::Tensor StoredZero(const at::Tensor& zero, ScaleType type) {
  switch (type) {
    case ScaleType::kFloat32:
      return zero;
    case ScaleType::kBfloat16:
      return zero.to(at::kBFloat16).to(at::kFloat);
    case ScaleType::kFloat16:
      return zero.clamp(-65504, 65504).to(at::kHalf).to(at::kFloat);
  }
  return zero;
}

// Min-max grids with the published guards: a range below 1e-4 gets the inverse
// scale 1, and none is above 2e4.
Groups MinMax(const at::Tensor& weight, int64_t dim, float max_code,
              ScaleType type) {
  Groups groups{.weight = weight, .dim = dim, .max_code = max_code};
  const at::Tensor low = weight.amin(dim, /*keepdim=*/true);
  const at::Tensor range = weight.amax(dim, /*keepdim=*/true).sub(low);
  // A product with the reciprocal, as the published code has it.
  const at::Tensor inverse = range.reciprocal().mul_(max_code);
  groups.inverse = at::where(range.le(1e-4), at::full_like(range, 1), inverse)
                       .clamp_max(2e4);
  groups.scale = groups.inverse.reciprocal();
  if (type != ScaleType::kFloat32) {
    groups.scale = StoredScale(groups.scale, type);
    groups.inverse = groups.scale.reciprocal();
  }
  groups.zero = low.neg().mul_(groups.inverse);
  return groups;
}

// sign(x) max(|x| - |x|^(p-1) / beta, 0): the proximal operator of |x|^p.
// |0|^(p-1) is infinite and gives 0, as it should.
at::Tensor Shrink(const at::Tensor& x, double beta, double p) {
  const at::Tensor size = x.abs();
  return at::relu(size.sub(size.pow(p - 1).mul_(1.0 / beta))).mul_(x.sign());
}

struct Step {
  at::Tensor error;  // |w - w^| of the zero points the step began with.
  at::Tensor zero;   // The next ones.
};
Step Advance(const Groups& groups, const at::Tensor& zero, double beta,
             double p) {
  const at::Tensor codes = groups.Codes(zero);
  const at::Tensor miss =
      groups.weight.sub(codes.sub(zero).div_(groups.inverse));
  const at::Tensor kept = groups.weight.sub(Shrink(miss, beta, p));
  return {
      miss.abs(),
      codes.sub(kept.mul_(groups.inverse)).mean(groups.dim, /*keepdim=*/true)};
}

// Groups small enough that all steps on them run inside the cache.
constexpr int64_t kWeightsAtATime = int64_t{1} << 16;

// As many groups of `members` weights; whole vectors of them, so that groups
// that are columns are summed as among all others.
int64_t GroupsAtATime(int64_t members) {
  constexpr int64_t kLanes = 64;
  return std::max(kLanes, kWeightsAtATime / members / kLanes * kLanes);
}

// What every group of a layer has in common.
struct Grids {
  float max_code = 0;
  ScaleType scale_type = ScaleType::kFloat16;
  bool round_zero = false;
};

// A matrix whose groups run along one dimension, and where its result goes.
struct Slab {
  at::Tensor weight;
  at::Tensor codes;
  at::Tensor scales;
  at::Tensor zeros;

  // The same weights with the groups of axis 0 as columns.
  Slab Folded(int64_t group_size) const {
    return {weight.reshape({group_size, -1}), codes.view({group_size, -1}),
            scales, zeros};
  }
};

struct ColumnRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t group_size = 0;
};

// `weight` [groups, size], as are `codes`; all contiguous.
void SolveGroups(const kernels::ZeroPointRule& rule, const at::Tensor& weight,
                 const at::Tensor& codes, const at::Tensor& scales,
                 const at::Tensor& zeros) {
  const at::Tensor inverses = at::empty_like(scales);
  const kernels::ZeroPointGroups all = {
      .groups = weight.size(0),
      .size = weight.size(1),
      .weight = weight.const_data_ptr<float>(),
      .scales = scales.mutable_data_ptr<float>(),
      .inverses = inverses.mutable_data_ptr<float>(),
      .zeros = zeros.mutable_data_ptr<float>()};
  uint8_t* to = codes.mutable_data_ptr<uint8_t>();
  const auto in_parallel = [&](const auto& body) {
    const int64_t grain = std::max<int64_t>(1, 4096 / all.size);
    at::parallel_for(0, all.groups, grain, [&](int64_t first, int64_t last) {
      kernels::ZeroPointGroups some = all;
      some.groups = last - first;
      some.weight += first * all.size;
      some.scales += first;
      some.inverses += first;
      some.zeros += first;
      body(some, to + first * all.size);
    });
  };
  in_parallel([&](const kernels::ZeroPointGroups& some, uint8_t*) {
    kernels::SolveZeroPoints(some, rule);
  });
  zeros.copy_(StoredZero(zeros, rule.scale_type));
  in_parallel([&](const kernels::ZeroPointGroups& some, uint8_t* some_codes) {
    kernels::RoundToZeroPoints(some, rule.max_code, some_codes);
  });
}

class HqqMethod : public Method {
 public:
  explicit HqqMethod(const Options& options) : options_(options) {}

  Needs needs() const override { return Needs::kNothing; }

  absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem,
      const base::CancelToken& cancel) const override;

 private:
  absl::Status SolveSlab(const Grids& grids, const Slab& slab,
                         const base::CancelToken& cancel) const;
  absl::Status SolveColumns(const Grids& grids, const Slab& rows,
                            const ColumnRange& range,
                            const base::CancelToken& cancel) const;
  absl::Status SolveApart(const Grids& grids, const Slab& slab,
                          const base::CancelToken& cancel) const;
  absl::Status SolveTogether(const base::CancelToken& cancel,
                             Groups* groups) const;
  bool RoundsZero(int bits) const {
    if (options_.round_zero == "auto") return bits == 4;
    return options_.round_zero == "yes";
  }

  const Options options_;
};

// Every group keeps the zero point of its least sum of |w - w^|, so that none
// is worse than its min-max grid.
absl::Status HqqMethod::SolveApart(const Grids& grids, const Slab& slab,
                                   const base::CancelToken& cancel) const {
  kernels::ZeroPointRule rule{.max_code = grids.max_code,
                              .scale_type = grids.scale_type,
                              .round_first = grids.round_zero,
                              .exponent = static_cast<float>(options_.lp_norm)};
  kernels::SetSteps(options_.iterations, options_.beta, options_.kappa, &rule);
  const bool down = options_.axis == 0;
  const at::Tensor weight = (down ? slab.weight.t() : slab.weight).contiguous();
  const int64_t size = weight.size(1);
  // Some milliseconds to a call, whatever the number of steps.
  const int64_t at_a_time = std::max<int64_t>(
      1, (int64_t{1} << 25) / ((options_.iterations + 1) * size));
  const at::Tensor codes = at::empty(weight.sizes(), at::kByte);
  const at::Tensor scales = at::empty({weight.size(0)}, at::kFloat);
  const at::Tensor zeros = at::empty_like(scales);
  for (int64_t g = 0; g < weight.size(0); g += at_a_time) {
    RETURN_IF_ERROR(cancel.Check());
    const int64_t n = std::min(at_a_time, weight.size(0) - g);
    SolveGroups(rule, weight.narrow(0, g, n), codes.narrow(0, g, n),
                scales.narrow(0, g, n), zeros.narrow(0, g, n));
  }
  slab.codes.copy_((down ? codes.t() : codes).reshape(slab.codes.sizes()));
  slab.scales.copy_(scales.view(slab.scales.sizes()));
  slab.zeros.copy_(zeros.view(slab.zeros.sizes()));
  return absl::OkStatus();
}

absl::Status HqqMethod::SolveTogether(const base::CancelToken& cancel,
                                      Groups* groups) const {
  float best = std::numeric_limits<float>::infinity();
  double beta = options_.beta;
  const int64_t step = GroupsAtATime(groups->weight.size(groups->dim));
  const at::Tensor errors = at::empty_like(groups->weight);
  for (int64_t i = 0; i < options_.iterations; ++i) {
    const at::Tensor zero = at::empty_like(groups->zero);
    for (int64_t begin = 0; begin < groups->size(); begin += step) {
      RETURN_IF_ERROR(cancel.Check());
      const int64_t count = std::min(step, groups->size() - begin);
      const Groups part = groups->Part(begin, count);
      const Step made = Advance(part, part.zero, beta, options_.lp_norm);
      errors.narrow(1 - part.dim, begin, count).copy_(made.error);
      zero.narrow(1 - part.dim, begin, count).copy_(made.zero);
    }
    groups->zero = zero;
    const float error = errors.mean().item<float>();
    if (!(error < best)) break;
    best = error;
    beta *= options_.kappa;
  }
  return absl::OkStatus();
}

absl::Status CheckAxis(const at::Tensor& weight, int64_t axis,
                       int64_t group_size) {
  if (axis == 1 || weight.numel() % group_size == 0) return absl::OkStatus();
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "GROUP_SIZE_INVALID",
      absl::StrCat("groups of ", group_size, " do not divide ", weight.numel(),
                   " weights; use method.axis=1 or another group size"));
}

formats::QuantizedLinear EmptyLinear(const LinearProblem& problem, int64_t axis,
                                     int64_t group_size) {
  formats::QuantizedLinear linear =
      formats::LayoutOf(problem.weight, problem.spec);
  const int64_t out = linear.out_features;
  const int64_t in = linear.in_features;
  linear.group_size = group_size;
  linear.group_axis = axis;
  linear.symmetric = false;
  const int64_t rows = axis == 1 ? out : 1;
  const int64_t groups =
      axis == 1 ? (in + group_size - 1) / group_size : out * in / group_size;
  linear.codes = at::empty({out, in}, at::kByte);
  linear.scales = at::empty({rows, groups}, at::kFloat);
  linear.zeros = at::empty({rows, groups}, at::kFloat);
  return linear;
}

absl::Status HqqMethod::SolveSlab(const Grids& grids, const Slab& slab,
                                  const base::CancelToken& cancel) const {
  if (options_.keep_best) return SolveApart(grids, slab, cancel);
  Groups groups =
      MinMax(slab.weight, options_.axis, grids.max_code, grids.scale_type);
  if (grids.round_zero) groups.zero.round_();
  RETURN_IF_ERROR(SolveTogether(cancel, &groups));
  const at::Tensor zero = StoredZero(groups.zero, grids.scale_type);
  slab.codes.copy_(groups.Codes(zero).view(slab.codes.sizes()));
  slab.scales.copy_(groups.scale.view(slab.scales.sizes()));
  slab.zeros.copy_(zero.view(slab.zeros.sizes()));
  return absl::OkStatus();
}

// Columns [begin, end) of some rows, cut into groups of `size` columns.
absl::Status HqqMethod::SolveColumns(const Grids& grids, const Slab& rows,
                                     const ColumnRange& range,
                                     const base::CancelToken& cancel) const {
  const int64_t columns = range.end - range.begin;
  if (columns == 0) return absl::OkStatus();
  const int64_t first = range.begin / range.group_size;
  const int64_t size = std::min(range.group_size, columns);
  const int64_t count = columns / size;
  return SolveSlab(
      grids,
      {rows.weight.narrow(1, range.begin, columns).reshape({-1, size}),
       rows.codes.narrow(1, range.begin, columns),
       rows.scales.narrow(1, first, count), rows.zeros.narrow(1, first, count)},
      cancel);
}

absl::StatusOr<LinearSolution> HqqMethod::QuantizeLinear(
    const LinearProblem& problem, const base::CancelToken& cancel) const {
  RETURN_IF_ERROR(formats::CheckWeight(problem.weight));
  ASSIGN_OR_RETURN(const formats::Format* format,
                   formats::FindFormat(problem.spec.format));
  const at::Tensor weight = problem.weight.cpu();
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t limit = options_.axis == 1 ? in : out;
  const int64_t asked = problem.spec.group_size;
  const int64_t group_size = asked <= 0 ? limit : std::min(asked, limit);
  RETURN_IF_ERROR(CheckAxis(weight, options_.axis, group_size));
  ASSIGN_OR_RETURN(const ScaleType scale_type,
                   formats::ParseScaleType(problem.spec.scale_dtype));
  const Grids grids = {static_cast<float>(format->max_code()), scale_type,
                       RoundsZero(format->bits())};
  LinearSolution solution;
  solution.linear = EmptyLinear(problem, options_.axis, group_size);
  const Slab all = {weight, solution.linear.codes, solution.linear.scales,
                    solution.linear.zeros};
  if (options_.axis == 0) {
    RETURN_IF_ERROR(SolveSlab(grids, all.Folded(group_size), cancel));
    return solution;
  }
  const int64_t whole = in / group_size * group_size;
  RETURN_IF_ERROR(SolveColumns(grids, all, {0, whole, group_size}, cancel));
  RETURN_IF_ERROR(SolveColumns(grids, all, {whole, in, group_size}, cancel));
  return solution;
}

}  // namespace

MethodEntry Hqq() {
  MethodEntry entry;
  entry.description = Describe();
  v1::WeightFormat* weights = entry.preset.mutable_weights();
  weights->set_format("int4");
  weights->set_group_size(64);
  weights->set_symmetric(false);
  entry.preset.add_exports()->set_id("dequantized");
  entry.make = [](const spec::Params& params) -> std::unique_ptr<Method> {
    return std::make_unique<HqqMethod>(
        Options{.lp_norm = params.GetDouble("lp_norm"),
                .beta = params.GetDouble("beta"),
                .kappa = params.GetDouble("kappa"),
                .iterations = params.GetInt("iterations"),
                .axis = params.GetInt("axis"),
                .round_zero = params.GetString("round_zero"),
                .keep_best = params.GetString("solver") == "best"});
  };
  return entry;
}

}  // namespace quantd::methods
