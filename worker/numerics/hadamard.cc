// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/hadamard.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>

#include <optional>
#include <vector>

#include "spdlog/spdlog.h"
#include "worker/kernels/hadamard_cpu.h"

namespace quantd::numerics {
namespace {

// Bases beyond this are not looked for; a product with one is dense.
constexpr int64_t kLargestBase = 1024;

bool IsPrime(int64_t n) {
  if (n < 2) return false;
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// Four circulants of an odd prime or composite length whose periodic
// autocorrelations add up to zero. Each sequence is constant on the orbits of
// the residues under multiplication by `generator`; bit b of a mask says that
// the b-th orbit, ordered by smallest member, is -1.
struct Circulants {
  int64_t length;
  int64_t generator;
  int64_t masks[4];
};

// Found by trying all such sequences; what they must satisfy is tested.
constexpr Circulants kCirculants[] = {
    {13, 3, {0xe, 0xa, 0xe, 0x6}},
    {39, 16, {0x7de, 0x174e, 0x15a6, 0x2a74}},
    {43, 4, {0x6c, 0xe, 0x68, 0x1a}},
};

const Circulants* FindCirculants(int64_t order) {
  for (const Circulants& row : kCirculants) {
    if (4 * row.length == order) return &row;
  }
  return nullptr;
}

bool IsPaleyOne(int64_t order) { return order % 4 == 0 && IsPrime(order - 1); }
bool IsPaleyTwo(int64_t order) {
  return order % 4 == 0 && order / 2 % 2 == 0 && IsPrime(order / 2 - 1) &&
         (order / 2 - 1) % 4 == 1;
}

bool HasBase(int64_t order) {
  if (order == 1) return true;
  return order <= kLargestBase && (IsPaleyOne(order) || IsPaleyTwo(order) ||
                                   FindCirculants(order) != nullptr);
}

// The base order K of n = K 2^m with the most powers of two; none where there
// is no base.
std::optional<int64_t> BaseOrder(int64_t order) {
  if (order < 1) return std::nullopt;
  int64_t base = order;
  while (base % 2 == 0) base /= 2;
  for (; base <= order; base *= 2) {
    if (HasBase(base)) return base;
  }
  return std::nullopt;
}

using Matrix = std::vector<double>;

// 1 for squares modulo `prime`, -1 for the others, 0 for 0.
std::vector<int> QuadraticCharacter(int64_t prime) {
  std::vector<int> character(prime, -1);
  character[0] = 0;
  for (int64_t i = 1; i < prime; ++i) character[i * i % prime] = 1;
  return character;
}

// The bordered matrix [0 1; sign Q] of Q_ij = character(i - j), [q + 1, q + 1].
Matrix Bordered(int64_t prime, double sign) {
  const std::vector<int> character = QuadraticCharacter(prime);
  const int64_t n = prime + 1;
  Matrix m(n * n, 0);
  for (int64_t i = 1; i < n; ++i) {
    m[i] = 1;
    m[i * n] = sign;
    for (int64_t j = 1; j < n; ++j) {
      m[i * n + j] = character[((i - j) % prime + prime) % prime];
    }
  }
  return m;
}

// I + S, S skew: for primes of the form 4 t + 3.
Matrix PaleyOne(int64_t order) {
  Matrix m = Bordered(order - 1, -1);
  for (int64_t i = 0; i < order; ++i) m[i * order + i] = 1;
  return m;
}

// C x [1 1; 1 -1] + I x [1 -1; -1 -1], C symmetric: for primes 4 t + 1.
Matrix PaleyTwo(int64_t order) {
  const int64_t half = order / 2;
  const Matrix c = Bordered(half - 1, 1);
  Matrix m(order * order);
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const double off = c[i * half + j];
      const double on = i == j ? 1 : 0;
      m[2 * i * order + 2 * j] = off + on;
      m[2 * i * order + 2 * j + 1] = off - on;
      m[(2 * i + 1) * order + 2 * j] = off - on;
      m[(2 * i + 1) * order + 2 * j + 1] = -off - on;
    }
  }
  return m;
}

std::vector<int> Sequence(const Circulants& row, int64_t mask) {
  std::vector<int> sequence(row.length, 0);
  for (int64_t start = 0; start < row.length; ++start) {
    if (sequence[start] != 0) continue;
    for (int64_t x = start; sequence[x] == 0;
         x = x * row.generator % row.length)
      sequence[x] = (mask & 1) != 0 ? -1 : 1;
    mask >>= 1;
  }
  return sequence;
}

// [A BR CR DR; -BR A D'R -C'R; -CR -D'R A B'R; -DR C'R -B'R A], R the reversal.
Matrix GoethalsSeidel(const Circulants& row) {
  const int64_t n = row.length;
  constexpr int kWhich[4][4] = {
      {0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  constexpr int kSign[4][4] = {
      {1, 1, 1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}, {-1, 1, -1, 1}};
  Matrix m(16 * n * n);
  for (int bi = 0; bi < 4; ++bi) {
    for (int bj = 0; bj < 4; ++bj) {
      const std::vector<int> s = Sequence(row, row.masks[kWhich[bi][bj]]);
      const bool reversed = bi != bj;
      const bool transposed = reversed && bi > 0 && bj > 0;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const int64_t column = reversed ? n - 1 - j : j;
          const int64_t shift = transposed ? i - column : column - i;
          m[(bi * n + i) * 4 * n + bj * n + j] =
              kSign[bi][bj] * s[(shift % n + n) % n];
        }
      }
    }
  }
  return m;
}

at::Tensor BaseMatrix(int64_t order) {
  Matrix m;
  if (IsPaleyOne(order)) {
    m = PaleyOne(order);
  } else if (IsPaleyTwo(order)) {
    m = PaleyTwo(order);
  } else {
    m = GoethalsSeidel(*FindCirculants(order));
  }
  at::Tensor tensor = at::empty({order, order}, at::kDouble);
  std::copy(m.begin(), m.end(), tensor.mutable_data_ptr<double>());
  return tensor;
}

// Fast Walsh-Hadamard transform of `size` values, a power of two, in place.
void Walsh(double* values, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t start = 0; start < size; start += 2 * half) {
      for (int64_t i = start; i < start + half; ++i) {
        const double a = values[i];
        const double b = values[i + half];
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
}

constexpr int64_t kValuesPerTask = 32768;

// What a product with the matrix of order K 2^m is made of.
struct Factors {
  int64_t base = 1;
  int64_t power = 1;
  // float64 [base, base], applied from the left to the columns of [base,
  // power]; undefined where base is 1.
  at::Tensor mix;
};

// In float64.
at::Tensor InDouble(const at::Tensor& rows, const Factors& factors) {
  at::Tensor out = rows.clone(at::MemoryFormat::Contiguous);
  double* values = out.mutable_data_ptr<double>();
  const int64_t power = factors.power;
  at::parallel_for(0, out.numel() / power, kValuesPerTask / power + 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       Walsh(values + i * power, power);
                     }
                   });
  if (factors.base == 1) return out;
  return at::matmul(factors.mix, out.view({-1, factors.base, power}))
      .view(rows.sizes());
}

// In float32: a row's sums are the same whatever stands beside it.
at::Tensor InFloat(const at::Tensor& rows, const Factors& factors) {
  const int64_t base = factors.base;
  const int64_t power = factors.power;
  const int64_t order = base * power;
  at::Tensor walshed = rows.clone(at::MemoryFormat::Contiguous);
  float* values = walshed.mutable_data_ptr<float>();
  at::Tensor out = walshed;
  at::Tensor mix;
  if (base > 1) {
    out = at::empty_like(walshed);
    mix = factors.mix.to(at::kFloat).contiguous();
  }
  float* mixed = out.mutable_data_ptr<float>();
  at::parallel_for(0, out.numel() / order, kValuesPerTask / order + 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t at = begin * order; at < end * order;
                          at += order) {
                       for (int64_t i = 0; i < base; ++i) {
                         kernels::WalshHadamard(values + at + i * power, power);
                       }
                       if (base == 1) continue;
                       kernels::MixRows(mix.const_data_ptr<float>(), base,
                                        values + at, power, mixed + at);
                     }
                   });
  return out;
}

// On any device, and with gradients.
at::Tensor ByOperators(const at::Tensor& rows, const Factors& factors) {
  at::Tensor out = rows.contiguous();
  for (int64_t half = 1; half < factors.power; half *= 2) {
    const at::Tensor pairs = out.view({-1, 2, half});
    const at::Tensor a = pairs.select(1, 0);
    const at::Tensor b = pairs.select(1, 1);
    out = at::stack({a.add(b), a.sub(b)}, 1);
  }
  if (factors.base > 1) {
    out = at::matmul(factors.mix.to(rows.options()),
                     out.view({-1, factors.base, factors.power}));
  }
  return out.reshape(rows.sizes());
}

at::Tensor Times(const at::Tensor& rows, int64_t order, bool transposed) {
  const std::optional<int64_t> base = BaseOrder(order);
  if (!base.has_value() || rows.size(1) % order != 0) {
    spdlog::critical("no Hadamard matrix of order {} for {} columns", order,
                     rows.size(1));
    abort();
  }
  Factors factors{.base = *base, .power = order / *base, .mix = {}};
  if (*base > 1) {
    const at::Tensor matrix = BaseMatrix(*base);
    factors.mix = transposed ? matrix : matrix.t();
  }
  if (!rows.is_cpu() || rows.requires_grad()) return ByOperators(rows, factors);
  return rows.scalar_type() == at::kFloat ? InFloat(rows, factors)
                                          : InDouble(rows, factors);
}

}  // namespace

bool HasHadamard(int64_t order) { return BaseOrder(order).has_value(); }

int64_t HadamardBlock(int64_t columns) {
  for (int64_t parts = 1; parts < columns; ++parts) {
    if (columns % parts == 0 && HasHadamard(columns / parts)) {
      return columns / parts;
    }
  }
  return 1;
}

at::Tensor TimesHadamard(const at::Tensor& rows, int64_t order) {
  return Times(rows, order, /*transposed=*/false);
}

at::Tensor TimesHadamardTransposed(const at::Tensor& rows, int64_t order) {
  return Times(rows, order, /*transposed=*/true);
}

}  // namespace quantd::numerics
