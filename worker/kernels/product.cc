// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/product.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "hwy/aligned_allocator.h"

namespace quantd::kernels {
namespace {

int64_t Panels(int64_t lines, int64_t width) {
  return (lines + width - 1) / width;
}

// Columns of the result that a row panel has to compute, about.
int64_t Columns(const Product& p, int64_t row) {
  return p.upper_only ? std::max<int64_t>(0, p.columns - row) : p.columns;
}

// Cuts the row panels into `shares` runs of about the same work.
std::vector<int64_t> CutRows(const Product& p, int64_t width, int64_t shares) {
  const int64_t panels = Panels(p.rows, width);
  int64_t total = 0;
  for (int64_t i = 0; i < panels; ++i) total += Columns(p, i * width);
  std::vector<int64_t> cuts = {0};
  int64_t done = 0;
  for (int64_t i = 0; i < panels; ++i) {
    done += Columns(p, i * width);
    const auto share = static_cast<int64_t>(cuts.size());
    if (share < shares && done * shares >= total * share) cuts.push_back(i + 1);
  }
  cuts.resize(shares, panels);
  cuts.push_back(panels);
  return cuts;
}

// Waking a thread costs about what a million multiplications do.
int64_t Threads(const Product& p) {
  constexpr double kPerThread = 2e6;
  const double work = static_cast<double>(p.rows) *
                      static_cast<double>(p.columns) *
                      static_cast<double>(p.depth);
  return std::clamp<int64_t>(static_cast<int64_t>(work / kPerThread), 1,
                             at::get_num_threads());
}

}  // namespace

void Multiply(const Product& p) {
  if (p.rows == 0 || p.columns == 0) return;
  const PanelLines lines = GetPanelLines();
  const int64_t left_panels = Panels(p.rows, lines.left);
  const int64_t right_panels = Panels(p.columns, lines.right);
  const int64_t deepest = std::clamp<int64_t>(p.depth, 1, kPanelDepth);
  const auto left =
      hwy::AllocateAligned<float>(left_panels * lines.left * deepest);
  const auto right =
      hwy::AllocateAligned<float>(right_panels * lines.right * deepest);
  const int64_t shares = Threads(p);
  const std::vector<int64_t> cuts = CutRows(p, lines.left, shares);
  for (int64_t begin = 0; begin < std::max<int64_t>(p.depth, 1);
       begin += kPanelDepth) {
    const int64_t end = std::min(begin + kPanelDepth, p.depth);
    const int64_t depth = end - begin;
    const auto pack = [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const bool is_left = i < left_panels;
        const int64_t width = is_left ? lines.left : lines.right;
        const int64_t line = (is_left ? i : i - left_panels) * width;
        const int64_t all = is_left ? p.rows : p.columns;
        PackPanel(is_left ? p.left : p.right, line, std::min(width, all - line),
                  width, begin, end, is_left ? nullptr : p.depth_scale,
                  (is_left ? left.get() : right.get()) + line * depth);
      }
    };
    const int64_t panels = left_panels + right_panels;
    at::parallel_for(0, panels, shares == 1 ? panels : 1, pack);
    at::parallel_for(0, shares, 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) {
        MultiplyPanels(p, begin, end, left.get(), right.get(), cuts[s],
                       cuts[s + 1]);
      }
    });
  }
}

}  // namespace quantd::kernels
