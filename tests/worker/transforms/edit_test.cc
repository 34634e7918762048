// SPDX-License-Identifier: Apache-2.0
#include "worker/transforms/edit.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "proto/base/error.h"
#include "tests/support/test_data.h"

namespace quantd::transforms {
namespace {

at::Tensor Row(at::ArrayRef<double> values) { return at::tensor(values); }

TEST(EditTest, DividesRowsOfAMatrixAndEntriesOfAVector) {
  const Edit edit{"w", EditKind::kDivideRows, Row({2, 4})};
  EXPECT_TRUE(ApplyEdit(edit, Row({1, 1})).equal(Row({0.5, 0.25})));
  const at::Tensor matrix = at::ones({2, 3}, at::kDouble);
  EXPECT_TRUE(ApplyEdit(edit, matrix)[1].equal(Row({0.25, 0.25, 0.25})));
}

TEST(EditTest, MultipliesColumns) {
  const Edit edit{"w", EditKind::kMultiplyColumns, Row({2, 4, 8})};
  EXPECT_TRUE(
      ApplyEdit(edit, at::ones({2, 3}, at::kDouble))[1].equal(Row({2, 4, 8})));
}

TEST(EditTest, ClampsEachGroupOfARowToItsOwnLimit) {
  Edit edit{"w", EditKind::kClampGroups, Row({1, 2}).view({1, 2})};
  edit.group_size = 2;
  // The last group has one column.
  const at::Tensor clamped = ApplyEdit(edit, Row({-3, 0.5, -3}).view({1, 3}));
  EXPECT_TRUE(clamped[0].equal(Row({-1, 0.5, -2})));
}

// Order 2: H = [1 1; 1 -1], Q = diag(s) H / sqrt(2).
TEST(EditTest, RotatesRunsOfColumnsByHand) {
  const Edit edit{"w", EditKind::kRotateColumns,
                  Row({1, -1, 1, 1}).view({2, 2})};
  const at::Tensor rotated =
      ApplyEdit(edit, Row({3, 1, 5, 2}).view({1, 4})).mul(std::sqrt(2.0));
  EXPECT_LT(rotated[0].sub(Row({2, 4, 7, 3})).abs().max().item<double>(),
            1e-12);
}

TEST(EditTest, RotatingRowsUndoesWhatRotatingColumnsDoes) {
  const at::Tensor signs = Row({1, -1, -1, 1}).view({1, 4});
  const at::Tensor a = at::randn({5, 8}, at::kDouble);
  const at::Tensor b = at::randn({8, 3}, at::kDouble);
  const at::Tensor rotated =
      at::mm(ApplyEdit({"a", EditKind::kRotateColumns, signs}, a),
             ApplyEdit({"b", EditKind::kRotateRows, signs}, b));
  EXPECT_LT(rotated.sub(at::mm(a, b)).abs().max().item<double>(), 1e-12);
  // A bias goes the way of the rows.
  const at::Tensor bias =
      ApplyEdit({"b", EditKind::kRotateRows, signs}, b.select(1, 0));
  EXPECT_TRUE(bias.equal(
      ApplyEdit({"b", EditKind::kRotateRows, signs}, b).select(1, 0)));
}

TEST(EditTest, RowsOfARowWiseEditCanBeAskedForApart) {
  Edit clamp{"w", EditKind::kClampGroups, at::randn({6, 2}, at::kDouble).abs()};
  clamp.group_size = 4;
  for (const Edit& edit :
       {clamp, Edit{"w", EditKind::kDivideRows, at::arange(1, 7, at::kDouble)},
        Edit{"w", EditKind::kRotateColumns, at::ones({2, 4})}}) {
    ASSERT_TRUE(IsRowWise(edit.kind));
    const at::Tensor w = at::randn({6, 8}, at::kDouble);
    EXPECT_TRUE(ApplyEdit(edit, w).narrow(0, 4, 2).equal(
        ApplyEdit(edit, w.narrow(0, 4, 2), 4)));
  }
  EXPECT_FALSE(IsRowWise(EditKind::kRotateRows));
}

TEST(EditTest, OneThatDoesNotFitIsRefused) {
  const auto reason = [](const Edit& edit, at::IntArrayRef shape) {
    return base::ErrorReason(CheckEdit(edit, shape));
  };
  const Edit rows{"w", EditKind::kDivideRows, at::ones({4})};
  EXPECT_EQ(reason(rows, {4, 8}), "");
  EXPECT_EQ(reason(rows, {5, 8}), "EDIT_SHAPE");
  EXPECT_EQ(reason({"w", EditKind::kMultiplyColumns, at::ones({4})}, {4}),
            "EDIT_SHAPE");
  // 6 has no Hadamard matrix.
  EXPECT_EQ(reason({"w", EditKind::kRotateColumns, at::ones({1, 6})}, {4, 6}),
            "EDIT_SHAPE");
  EXPECT_EQ(reason({"w", EditKind::kReplace, at::Tensor()}, {4}), "EDIT_SHAPE");
}

TEST(EditTest, AListComesBackFromAFileAsItWas) {
  const support::TemporaryDirectory directory;
  std::vector<Edit> edits = {
      {"model.a.weight", EditKind::kMultiplyColumns, at::randn({4})},
      {"model.a.weight", EditKind::kClampGroups, at::randn({4, 2}), 2},
      {"b", EditKind::kReplace, at::randn({3})}};
  ASSERT_TRUE(WriteEdits(directory.File("edits"), edits).ok());
  const auto read = ReadEdits(directory.File("edits"));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), edits.size());
  for (size_t i = 0; i < edits.size(); ++i) {
    EXPECT_EQ((*read)[i].tensor, edits[i].tensor);
    EXPECT_EQ((*read)[i].kind, edits[i].kind);
    EXPECT_EQ((*read)[i].group_size, edits[i].group_size);
    EXPECT_TRUE((*read)[i].operand.equal(edits[i].operand));
  }
}

}  // namespace
}  // namespace quantd::transforms
