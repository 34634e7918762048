// SPDX-License-Identifier: Apache-2.0
// Gram matrix, factor and column loop against the machine's own matrix product
// and against the eager reference, then a whole block against both, its
// forwards and its memory, all in one run:
//   gptq_bench [--threads N] [--repeats N] [--width C]...
// With one thread times are CPU seconds of the process, so that other load on
// the machine does not count, else wall seconds; the median and the spread
// (least .. most) of the repeats are printed.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/bench/eager_gptq.h"
#include "tests/bench/end_to_end.h"
#include "tests/bench/measure.h"
#include "worker/kernels/column_blocks.h"
#include "worker/kernels/operators.h"
#include "worker/numerics/feedback_factor.h"

namespace quantd::bench {
namespace {

struct Flags {
  int threads = 1;
  int repeats = 5;
  std::vector<int64_t> widths;
};

Times Measure(const Flags& flags, const std::function<void()>& body) {
  return bench::Measure(flags.threads, flags.repeats, body);
}

constexpr int64_t kGroup = 128;

void RunColumns(const at::Tensor& weight, const kernels::ColumnLoop& loop) {
  constexpr int64_t kWidth = 512;
  const int64_t in = weight.size(1);
  loop.corrected.copy_(weight);
  for (int64_t begin = 0; begin < in;) {
    const int64_t end = kernels::BlockEnd(begin, in, kWidth, kGroup);
    kernels::GptqColumns(loop, begin, end);
    begin = end;
  }
}

kernels::ColumnLoop MakeLoop(const at::Tensor& weight,
                             const numerics::FeedbackFactor& factor) {
  const int64_t out = weight.size(0);
  const int64_t groups = (weight.size(1) + kGroup - 1) / kGroup;
  kernels::ColumnLoop loop;
  loop.corrected = weight.clone();
  loop.feedback = factor.feedback;
  loop.pivots = factor.pivots;
  loop.codes = at::empty_like(weight, at::TensorOptions(at::kByte));
  loop.scales = at::empty({out, groups});
  loop.zeros = at::empty({out, groups}, at::kByte);
  loop.loss = at::zeros({out});
  loop.rule = {15, true, kernels::ScaleType::kFloat32};
  loop.group_size = kGroup;
  return loop;
}

// Prints the figures of one width; the FLOP/s of its square product.
double RunWidth(const Flags& flags, int64_t width) {
  const double n = static_cast<double>(width);
  const at::Tensor a = at::randn({width, width});
  const at::Tensor b = at::randn({width, width});
  at::Tensor c = at::empty({width, width});
  const Times product = Measure(flags, [&] { at::mm_out(c, a, b); });
  const double peak = 2 * n * n * n / product.least;
  printf("width %ld, %d threads, %d repeats\n", static_cast<long>(width),
         flags.threads, flags.repeats);
  PrintLine("product", product, 2 * n * n * n, peak, nullptr);

  const at::Tensor input = at::randn({2048, width});
  const at::Tensor gram = at::zeros({width, width});
  const double gram_flops = 2048 * n * n;
  const Times eager_gram =
      Measure(flags, [&] { EagerGram(gram, input, /*seen=*/1); });
  PrintLine("eager Gram", eager_gram, gram_flops, peak, nullptr);
  const Times fast_gram =
      Measure(flags, [&] { kernels::GramAdd(gram, input); });
  PrintLine("Gram", fast_gram, gram_flops, peak, &eager_gram);

  at::Tensor hessian = at::mm(a.t(), a);
  hessian.diagonal().add_(n);
  const Times eager_factor = Measure(flags, [&] { EagerFactor(hessian); });
  PrintLine("eager factor", eager_factor, 4 * n * n * n / 3, peak, nullptr);
  const Times fast_factor =
      Measure(flags, [&] { numerics::FactorForFeedback(hessian.clone()); });
  PrintLine("factor", fast_factor, 2 * n * n * n / 3, peak, &eager_factor);

  const at::Tensor inverse_factor = EagerFactor(hessian);
  Flags once = flags;
  once.repeats = width > 2048 ? 1 : flags.repeats;
  const Times eager_columns =
      Measure(once, [&] { EagerColumns(b, inverse_factor, kGroup, 15); });
  PrintLine("eager columns", eager_columns, n * n * n, peak, nullptr);
  const auto factor = numerics::FactorForFeedback(hessian.clone());
  const kernels::ColumnLoop loop = MakeLoop(b, *factor);
  const Times columns = Measure(flags, [&] { RunColumns(b, loop); });
  PrintLine("columns", columns, n * n * n, peak, &eager_columns);
  return peak;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) {
  quantd::bench::Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) {
    const long value = strtol(argv[i + 1], nullptr, 10);
    if (strcmp(argv[i], "--threads") == 0) flags.threads = value;
    if (strcmp(argv[i], "--repeats") == 0) flags.repeats = value;
    if (strcmp(argv[i], "--width") == 0) flags.widths.push_back(value);
  }
  if (flags.widths.empty()) flags.widths = {576, 1024, 2048, 4096};
  at::set_num_threads(flags.threads);
  double peak = 0;
  for (const int64_t width : flags.widths) {
    peak = std::max(peak, quantd::bench::RunWidth(flags, width));
  }
  const absl::Status status = quantd::bench::RunEndToEnd(flags.threads, peak);
  if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
