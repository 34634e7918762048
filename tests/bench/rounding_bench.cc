// SPDX-License-Identifier: Apache-2.0
// Weights per second of everything but the GPTQ loop, beside the published
// Python operator for operator in ATen (eager_*.cc), both in one run and taking
// turns:
//   rounding_bench [--threads N] [--repeats N] [--width C]... [--only PREFIX]
// A weight is C x C. With one thread times are CPU seconds of the process, else
// wall seconds; the median and the spread (least .. most) of the repeats are
// printed, and how many of the results differ.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/eager_levels.h"
#include "tests/bench/eager_rounding.h"
#include "tests/bench/eager_search.h"
#include "tests/bench/measure.h"
#include "worker/exports/code_packing.h"
#include "worker/formats/format.h"
#include "worker/kernels/operators.h"
#include "worker/methods/method.h"
#include "worker/methods/signed_rounding.h"
#include "worker/transforms/scale_fold.h"

namespace quantd::bench {
namespace {

struct Flags {
  int threads = 1;
  int repeats = 5;
  std::vector<int64_t> widths;
  std::string only;
};

// Both give codes, or what else is comparable.
using Contestant = std::function<at::Tensor()>;

void PrintRate(double weights, const Times& times) {
  printf(" %8.1f (%.1f .. %.1f)", 1e-6 * weights / times.median,
         1e-6 * weights / times.most, 1e-6 * weights / times.least);
}

void Contest(const Flags& flags, const std::string& name, double weights,
             const Contestant& ours, const Contestant& eager) {
  if (!absl::StartsWith(name, flags.only)) return;
  const double different =
      ours().ne(eager()).to(at::kFloat).mean().item<float>();
  const Comparison times =
      MeasureInTurns(flags.threads, flags.repeats, ours, eager);
  printf("  %-22s", name.c_str());
  PrintRate(weights, times.ours);
  printf(" M/s, eager");
  PrintRate(weights, times.eager);
  printf(" M/s, %.1fx, %.2g differ\n", times.eager.median / times.ours.median,
         different);
  fflush(stdout);
}

formats::WeightSpec Spec(const std::string& format, int64_t group_size,
                         bool symmetric) {
  formats::WeightSpec spec;
  spec.format = format;
  spec.group_size = group_size;
  spec.symmetric = symmetric;
  return spec;
}

at::Tensor Codes(const at::Tensor& weight, const formats::WeightSpec& spec) {
  return formats::RoundToNearest(weight, spec)->codes;
}

void CompareNearest(const Flags& flags, const at::Tensor& weight) {
  const double n = static_cast<double>(weight.numel());
  for (const bool symmetric : {true, false}) {
    const std::string grid = symmetric ? "sym" : "asym";
    const formats::WeightSpec spec = Spec("int4", 128, symmetric);
    Contest(
        flags, absl::StrCat("rtn int4 g128 ", grid), n,
        [&] { return Codes(weight, spec); },
        [&] { return EagerNearest(weight, 128, symmetric); });
    Contest(
        flags, absl::StrCat("rtn + pack ", grid), n,
        [&] { return exports::PackRows(Codes(weight, spec), 4); },
        [&] { return EagerPack(EagerNearest(weight, 128, symmetric)); });
    formats::WeightSpec searched = spec;
    searched.params["clip"].set_string_value("mse");
    Flags fewer = flags;
    fewer.repeats = std::min(flags.repeats, 3);
    Contest(
        fewer, absl::StrCat("rtn clip=mse ", grid), n,
        [&] { return Codes(weight, searched); },
        [&] { return EagerNearestOfSearched(weight, 128, symmetric); });
  }
  const at::Tensor codes = Codes(weight, Spec("int4", 128, true));
  Contest(
      flags, "pack int4", n, [&] { return exports::PackRows(codes, 4); },
      [&] { return EagerPack(codes); });
}

at::Tensor Hqq(const at::Tensor& weight, const std::string& solver) {
  v1::Component component;
  component.set_id("hqq");
  (*component.mutable_params())["solver"].set_string_value(solver);
  const auto method = methods::MakeMethod(component);
  formats::WeightSpec spec = Spec("int4", 64, false);
  spec.scale_dtype = "float32";
  const methods::LinearProblem problem{.weight = weight, .spec = spec};
  return (*method)->QuantizeLinear(problem, base::CancelToken())->linear.codes;
}

// Of large weights the shrinking changes most, of ordinary ones none.
void CompareHqq(const Flags& flags, const at::Tensor& weight) {
  const double n = static_cast<double>(weight.numel());
  Flags fewer = flags;
  fewer.repeats = std::min(flags.repeats, 3);
  const auto eager = [](const at::Tensor& w) { return EagerHqq(w, 64, 20); };
  Contest(
      fewer, "hqq int4 g64", n, [&] { return Hqq(weight, "best"); },
      [&] { return eager(weight); });
  const at::Tensor large = weight.mul(100);
  Contest(
      fewer, "hqq large weights", n, [&] { return Hqq(large, "best"); },
      [&] { return eager(large); });
}

void CompareLevels(const Flags& flags, const at::Tensor& weight) {
  const double n = static_cast<double>(weight.numel());
  for (const char* format :
       {"fp4", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "nf4", "mxfp4",
        "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8",
        "nvfp4"}) {
    const int64_t fixed = (*formats::FindFormat(format))->fixed_group_size();
    const int64_t group = fixed != 0 ? fixed : 64;
    const formats::WeightSpec spec = Spec(format, group, true);
    Contest(
        flags, absl::StrCat(format, " g", group), n,
        [&] { return Codes(weight, spec); },
        [&] { return EagerLevels(weight, spec); });
  }
}

void CompareSignedRounding(const Flags& flags, const at::Tensor& weight) {
  for (const bool symmetric : {true, false}) {
    formats::WeightSpec spec = Spec("int4", 128, symmetric);
    spec.scale_dtype = "float32";
    const auto rounded = formats::RoundToNearest(weight, spec);
    constexpr double kRate = 1.0 / 200;
    methods::SignedRounding variables(
        {.weight = weight, .rounded = *rounded, .spec = spec},
        **formats::FindFormat("int4"),
        {.iterations = 1 << 30,
         .learning_rate = kRate,
         .minmax_learning_rate = kRate});
    EagerSignedRounding eager(weight, 128, symmetric);
    const at::Tensor outer = at::randn(weight.sizes());
    Contest(
        flags, absl::StrCat("autoround step ", symmetric ? "sym" : "asym"),
        static_cast<double>(weight.numel()),
        [&] {
          (void)variables.Weight();
          variables.Step(outer, 0);
          return variables.variables().offset;
        },
        [&] {
          eager.Turn(outer, kRate);
          return eager.offset().detach().view(weight.sizes());
        });
  }
}

// Times of a search with `candidates` scales on `tokens` tokens, from times of
// one on `kTokens`: what grows with the tokens does so in proportion.
constexpr int64_t kTokens = 2048;
constexpr int64_t kWanted = 65536;
constexpr int kCandidates = 20;

void CompareAwq(const Flags& flags, const at::Tensor& weight) {
  if (!absl::StartsWith("awq", flags.only)) return;
  const int64_t in = weight.size(1);
  const formats::WeightSpec spec = Spec("int4", 128, false);
  const at::Tensor inputs = at::randn({kTokens, in});
  const at::Tensor outputs = at::mm(inputs, weight.t());
  const at::Tensor scale = at::rand({in}).add(0.5);
  calibration::InputStatistics statistics;
  statistics.second.gram = at::mm(inputs.t(), inputs);
  const std::vector<transforms::Consumer> consumers = {
      {.name = "",
       .weight = weight,
       .spec = &spec,
       .inputs = &statistics,
       .output_energy = kernels::GramEnergy(weight, statistics.second.gram)}};
  const at::Tensor gram = at::zeros({in, in});
  const auto round = [&] {
    return EagerPseudoQuantize(weight.mul(scale), 128).div_(scale);
  };
  const at::Tensor rounded = round();
  const base::CancelToken cancel;
  const int repeats = std::min(flags.repeats, 3);
  const Comparison once = MeasureInTurns(
      flags.threads, repeats, [&] { kernels::GramAdd(gram, inputs); },
      [&] { EagerOutputLoss(inputs, outputs, rounded); });
  const Comparison each = MeasureInTurns(
      flags.threads, repeats,
      [&] { (void)transforms::RoundingLoss(consumers, scale, cancel); }, round);
  const double parts = static_cast<double>(kWanted) / kTokens;
  const double ours = parts * once.ours.median + kCandidates * each.ours.median;
  const double eager =
      kCandidates * (parts * once.eager.median + each.eager.median);
  printf(
      "  awq, %d scales, %ld tokens (from %ld): Gram form %.2f s = %.2f s of "
      "Gram matrix + %d x %.1f ms (%.1f .. %.1f); token form %.1f s = %d x "
      "(%.2f s of tokens + %.1f ms); %.1fx, the search alone %.1fx\n",
      kCandidates, static_cast<long>(kWanted), static_cast<long>(kTokens), ours,
      parts * once.ours.median, kCandidates, 1e3 * each.ours.median,
      1e3 * each.ours.least, 1e3 * each.ours.most, eager, kCandidates,
      parts * once.eager.median, 1e3 * each.eager.median, eager / ours,
      eager / (kCandidates * each.ours.median));
}

void RunWidth(const Flags& flags, int64_t width) {
  printf("%ld x %ld weights, %d threads, %d repeats\n",
         static_cast<long>(width), static_cast<long>(width), flags.threads,
         flags.repeats);
  const at::Tensor weight = at::randn({width, width}).mul_(0.02);
  CompareNearest(flags, weight);
  CompareHqq(flags, weight);
  CompareLevels(flags, weight);
  CompareSignedRounding(flags, weight);
  CompareAwq(flags, weight);
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) {
  quantd::bench::Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) {
    const int value = static_cast<int>(strtol(argv[i + 1], nullptr, 10));
    if (strcmp(argv[i], "--threads") == 0) flags.threads = value;
    if (strcmp(argv[i], "--repeats") == 0) flags.repeats = value;
    if (strcmp(argv[i], "--width") == 0) flags.widths.push_back(value);
    if (strcmp(argv[i], "--only") == 0) flags.only = argv[i + 1];
  }
  if (flags.widths.empty()) flags.widths = {2048};
  at::set_num_threads(flags.threads);
  for (const int64_t width : flags.widths) {
    quantd::bench::RunWidth(flags, width);
  }
  return 0;
}
