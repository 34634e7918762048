// SPDX-License-Identifier: Apache-2.0
// A panel of kPanelRows rows is transposed, so that one vector holds one column
// of several rows: rows are independent, so the serial chain along the columns
// costs no shuffles. Feedback is applied at three distances, each with the same
// multiply: at once inside kStrip columns, lazily inside a block, lazily inside
// the panel; beyond it the caller does it with one matrix product.
#include "worker/kernels/columns_cpu.h"

#include <algorithm>
#include <vector>

#include "worker/kernels/column_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/kernels/columns_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantd::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;

constexpr int64_t kStrip = 8;
// Columns of the register tile: 2 vectors x 6 columns leave room for operands
// in 16 registers.
constexpr int kTile = 6;

// The smallest and largest of n contiguous values.
HWY_ATTR void Range(const float* values, int64_t n, float* low, float* high) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  *low = values[0];
  *high = values[0];
  int64_t i = 0;
  if (n >= lanes) {
    V least = hn::LoadU(f, values);
    V most = least;
    for (i = lanes; i + lanes <= n; i += lanes) {
      const V v = hn::LoadU(f, values + i);
      least = hn::Min(least, v);
      most = hn::Max(most, v);
    }
    *low = hn::GetLane(hn::MinOfLanes(f, least));
    *high = hn::GetLane(hn::MaxOfLanes(f, most));
  }
  for (; i < n; ++i) {
    *low = std::min(*low, values[i]);
    *high = std::max(*high, values[i]);
  }
}

// The code of `v` and what it stands for.
struct Rounded {
  V code;
  V value;
};
HWY_ATTR HWY_INLINE Rounded RoundTo(V v, V scale, V zero, V max_code) {
  const F f;
  const V code =
      hn::Min(hn::Max(hn::Add(hn::Round(hn::Div(v, scale)), zero), hn::Zero(f)),
              max_code);
  return {code, hn::Mul(scale, hn::Sub(code, zero))};
}

HWY_ATTR HWY_INLINE void StoreCodes(V codes, uint8_t* to) {
  const hn::Rebind<int32_t, F> i32;
  const hn::Rebind<uint8_t, F> u8;
  hn::StoreU(hn::DemoteTo(u8, hn::ConvertTo(i32, codes)), u8, to);
}

// One panel. Arrays are [column][kPanelRows] from column `begin` on.
class Panel {
 public:
  explicit Panel(const ColumnPanel& panel)
      : p_(panel),
        width_(panel.end - panel.begin),
        corrected_(width_ * kPanelRows),
        error_(width_ * kPanelRows),
        codes_(width_ * kPanelRows) {}

  HWY_ATTR void Run() {
    Transpose(p_.corrected, corrected_.data());
    const int64_t group = p_.column_group == nullptr ? p_.group_size : 0;
    for (int64_t b = p_.begin; b < p_.end;) {
      const int64_t block_end = BlockEnd(b, p_.end, p_.block_size, group);
      for (int64_t s = b; s < block_end;) {
        const int64_t strip_end = BlockEnd(s, block_end, kStrip, group);
        QuantizeStrip(s, strip_end);
        Feed(s, strip_end, strip_end, block_end);
        s = strip_end;
      }
      Feed(b, block_end, block_end, p_.end);
      b = block_end;
    }
    WriteBack();
  }

 private:
  float* Corrected(int64_t column) {
    return corrected_.data() + (column - p_.begin) * kPanelRows;
  }
  float* Error(int64_t column) {
    return error_.data() + (column - p_.begin) * kPanelRows;
  }
  // F[i, j].
  const float* Feedback(int64_t i, int64_t j) const {
    return p_.feedback + (i - p_.begin) * p_.feedback_stride + (j - p_.begin);
  }

  HWY_ATTR void Transpose(const float* rows, float* columns) const {
    constexpr int64_t kTileColumns = 16;
    for (int64_t c = 0; c < width_; c += kTileColumns) {
      const int64_t c_end = std::min(c + kTileColumns, width_);
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const float* row = rows + r * p_.in_features + p_.begin;
        for (int64_t j = c; j < c_end; ++j) {
          columns[j * kPanelRows + r] = r < p_.rows ? row[j] : 0.0f;
        }
      }
    }
  }

  HWY_ATTR void WriteBack() const {
    constexpr int64_t kTileColumns = 16;
    for (int64_t c = 0; c < width_; c += kTileColumns) {
      const int64_t c_end = std::min(c + kTileColumns, width_);
      for (int64_t r = 0; r < p_.rows; ++r) {
        uint8_t* codes = p_.codes + r * p_.in_features + p_.begin;
        float* error = p_.error + r * width_;
        for (int64_t j = c; j < c_end; ++j) {
          codes[j] = codes_[j * kPanelRows + r];
          error[j] = error_[j * kPanelRows + r];
        }
      }
    }
    for (int64_t r = 0; r < p_.rows; ++r) p_.loss[r] += loss_[r];
  }

  // Chooses the grids of the group that starts at `column`.
  HWY_ATTR void StartGroup(int64_t column) {
    const F f;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
    const int64_t group_end = std::min(column + p_.group_size, p_.in_features);
    float low[kPanelRows] = {};
    float high[kPanelRows] = {};
    if (group_end <= p_.end) {
      for (int64_t r = 0; r < kPanelRows; r += lanes) {
        V least = hn::LoadU(f, Corrected(column) + r);
        V most = least;
        for (int64_t j = column + 1; j < group_end; ++j) {
          const V v = hn::LoadU(f, Corrected(j) + r);
          least = hn::Min(least, v);
          most = hn::Max(most, v);
        }
        hn::StoreU(least, f, low + r);
        hn::StoreU(most, f, high + r);
      }
    } else {
      // Longer than the panel: it starts with it, and the rows in memory are
      // as fresh as the panel.
      for (int64_t r = 0; r < p_.rows; ++r) {
        Range(p_.corrected + r * p_.in_features + column, group_end - column,
              &low[r], &high[r]);
      }
    }
    const int64_t group = column / p_.group_size;
    for (int64_t r = 0; r < p_.rows; ++r) {
      const IntegerGrid grid = ChooseIntegerGrid(low[r], high[r], p_.rule);
      p_.scales[r * p_.groups + group] = grid.scale;
      p_.zeros[r * p_.groups + group] = static_cast<uint8_t>(grid.zero);
    }
  }

  // Makes `group` the one that columns are rounded with.
  void UseGroup(int64_t group) {
    for (int64_t r = 0; r < p_.rows; ++r) {
      scale_[r] = p_.scales[r * p_.groups + group];
      zero_[r] = p_.zeros[r * p_.groups + group];
    }
    for (int64_t r = p_.rows; r < kPanelRows; ++r) {
      scale_[r] = 1;
      zero_[r] = 0;
    }
    group_ = group;
  }

  void PrepareGroup(int64_t column) {
    if (p_.column_group != nullptr) {
      if (p_.column_group[column] != group_) UseGroup(p_.column_group[column]);
      return;
    }
    const int64_t group = column / p_.group_size;
    if (column % p_.group_size == 0) StartGroup(column);
    if (group != group_) UseGroup(group);
  }

  HWY_ATTR void QuantizeStrip(int64_t begin, int64_t end) {
    const F f;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
    const V max_code = hn::Set(f, static_cast<float>(p_.rule.max_code));
    for (int64_t c = begin; c < end; ++c) {
      PrepareGroup(c);
      float* v = Corrected(c);
      float* e = Error(c);
      uint8_t* codes = codes_.data() + (c - p_.begin) * kPanelRows;
      const V half_pivot = hn::Set(f, 0.5f * p_.pivots[c]);
      const float* m = Feedback(c, c);
      for (int64_t r = 0; r < kPanelRows; r += lanes) {
        const V value = hn::LoadU(f, v + r);
        const Rounded q = RoundTo(value, hn::LoadU(f, scale_ + r),
                                  hn::LoadU(f, zero_ + r), max_code);
        StoreCodes(q.code, codes + r);
        const V miss = hn::Sub(value, q.value);
        hn::StoreU(hn::MulAdd(hn::Mul(half_pivot, miss), miss,
                              hn::LoadU(f, loss_ + r)),
                   f, loss_ + r);
        hn::StoreU(miss, f, e + r);
        for (int64_t j = 1; j < end - c; ++j) {
          float* later = v + j * kPanelRows + r;
          hn::StoreU(hn::MulAdd(miss, hn::Set(f, m[j]), hn::LoadU(f, later)), f,
                     later);
        }
      }
    }
  }

  // Adds errors of columns [from, from_end), times F, to columns [to, to_end).
  HWY_ATTR void Feed(int64_t from, int64_t from_end, int64_t to,
                     int64_t to_end) {
    int64_t j = to;
    for (; j + kTile <= to_end; j += kTile) FeedTile<kTile>(from, from_end, j);
    for (; j < to_end; ++j) FeedTile<1>(from, from_end, j);
  }

  template <int kColumns>
  HWY_ATTR HWY_INLINE void FeedTile(int64_t from, int64_t from_end,
                                    int64_t to) {
    const F f;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
    for (int64_t r = 0; r < kPanelRows; r += 2 * lanes) {
      float* v = Corrected(to) + r;
      const float* e = Error(from) + r;
      const float* m = Feedback(from, to);
      V low[kColumns];
      V high[kColumns];
#pragma GCC unroll 6
      for (int j = 0; j < kColumns; ++j) {
        low[j] = hn::LoadU(f, v + j * kPanelRows);
        high[j] = hn::LoadU(f, v + j * kPanelRows + lanes);
      }
      for (int64_t k = from; k < from_end; ++k) {
        const V error_low = hn::LoadU(f, e);
        const V error_high = hn::LoadU(f, e + lanes);
#pragma GCC unroll 6
        for (int j = 0; j < kColumns; ++j) {
          const V factor = hn::Set(f, m[j]);
          low[j] = hn::MulAdd(error_low, factor, low[j]);
          high[j] = hn::MulAdd(error_high, factor, high[j]);
        }
        e += kPanelRows;
        m += p_.feedback_stride;
      }
#pragma GCC unroll 6
      for (int j = 0; j < kColumns; ++j) {
        hn::StoreU(low[j], f, v + j * kPanelRows);
        hn::StoreU(high[j], f, v + j * kPanelRows + lanes);
      }
    }
  }

  const ColumnPanel& p_;
  const int64_t width_;
  std::vector<float> corrected_;
  std::vector<float> error_;
  std::vector<uint8_t> codes_;
  float scale_[kPanelRows] = {};
  float zero_[kPanelRows] = {};
  float loss_[kPanelRows] = {};
  int64_t group_ = -1;
};

HWY_ATTR void RunPanel(const ColumnPanel& panel) { Panel(panel).Run(); }

HWY_ATTR void RoundGroup(const float* weight, int64_t n,
                         const IntegerGrid& grid, int32_t max_code,
                         uint8_t* codes) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  const V scale = hn::Set(f, grid.scale);
  const V zero = hn::Set(f, grid.zero);
  const V largest = hn::Set(f, static_cast<float>(max_code));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    StoreCodes(RoundTo(hn::LoadU(f, weight + i), scale, zero, largest).code,
               codes + i);
  }
  for (; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(NearestCode(weight[i], grid, max_code));
  }
}

HWY_ATTR void RunRows(const RoundingRows& rows) {
  const int64_t groups =
      (rows.in_features + rows.group_size - 1) / rows.group_size;
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * rows.group_size;
      const int64_t n = std::min(rows.group_size, rows.in_features - begin);
      const int64_t at = r * rows.in_features + begin;
      float low, high;
      Range(rows.weight + at, n, &low, &high);
      const IntegerGrid grid = ChooseIntegerGrid(low, high, rows.rule);
      RoundGroup(rows.weight + at, n, grid, rows.rule.max_code,
                 rows.codes + at);
      rows.scales[r * groups + g] = grid.scale;
      rows.zeros[r * groups + g] = static_cast<uint8_t>(grid.zero);
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd::kernels {

HWY_EXPORT(RunPanel);
HWY_EXPORT(RunRows);

void QuantizePanel(const ColumnPanel& panel) {
  HWY_DYNAMIC_DISPATCH(RunPanel)(panel);
}

void RoundRows(const RoundingRows& rows) {
  HWY_DYNAMIC_DISPATCH(RunRows)(rows);
}

}  // namespace quantd::kernels
#endif  // HWY_ONCE
