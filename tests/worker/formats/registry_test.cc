// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/cancel.h"
#include "proto/base/error.h"
#include "worker/formats/format.h"

namespace quantd::formats {
namespace {

using testing::Contains;

std::vector<std::string> Ids() {
  std::vector<std::string> ids;
  for (const FormatEntry& entry : Registry()) {
    ids.push_back(entry.description.id());
  }
  return ids;
}

TEST(RegistryTest, RowsAreSortedAndUnique) {
  const std::vector<std::string> ids = Ids();
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

TEST(RegistryTest, HasTheNumberFormatsOfTheField) {
  EXPECT_THAT(
      Ids(),
      testing::IsSupersetOf(
          {"fp4",        "fp4_bnb",    "fp6_e2m3",   "fp6_e3m2", "fp8_e4m3",
           "fp8_e5m2",   "int1",       "int2",       "int3",     "int4",
           "int5",       "int6",       "int8",       "mxfp4",    "mxfp6_e2m3",
           "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8",   "nf4",
           "nvfp4",      "q4_0",       "q4_1",       "q5_0",     "q5_1",
           "q8_0",       "tq2_0"}));
}

TEST(RegistryTest, PropertiesSayWhatTheFormatIs) {
  for (const FormatEntry& entry : Registry()) {
    SCOPED_TRACE(entry.description.id());
    EXPECT_THAT(entry.description.provides(),
                Contains(absl::StrCat("bits=", entry.format->bits())));
    const int64_t fixed = entry.format->fixed_group_size();
    if (fixed != 0) {
      EXPECT_THAT(entry.description.provides(),
                  Contains(absl::StrCat("group_size=", fixed)));
    }
    // Integers have zero points; tables of levels have none.
    const bool table = entry.format->level_rule() != nullptr;
    const auto& needs = entry.description.requirements();
    const bool symmetric_only =
        std::any_of(needs.begin(), needs.end(), [](const auto& need) {
          return need.property() == "symmetric" && need.when().empty();
        });
    EXPECT_EQ(table, symmetric_only);
  }
}

TEST(RegistryTest, TablesRefuseZeroPointsAndOtherGroups) {
  for (const FormatEntry& entry : Registry()) {
    SCOPED_TRACE(entry.description.id());
    WeightSpec spec;
    spec.format = entry.description.id();
    const int64_t fixed = entry.format->fixed_group_size();
    if (fixed != 0) {
      spec.group_size = 2 * fixed;
      const absl::Status status =
          RoundToNearest(at::ones({2, 64}), spec).status();
      EXPECT_EQ(base::ErrorReason(status), "GROUP_SIZE_FIXED") << status;
      spec.group_size = fixed;
    }
    if (entry.format->level_rule() == nullptr) continue;
    spec.symmetric = false;
    const absl::Status status =
        RoundToNearest(at::ones({2, 64}), spec).status();
    EXPECT_EQ(base::ErrorReason(status), "ASYMMETRIC_FORMAT") << status;
  }
}

TEST(RegistryTest, GridsChosenBeforehandAreThoseOfRounding) {
  const at::Tensor weight =
      at::arange(-40, 56).to(at::kFloat).mul(0.03).view({2, 48});
  for (const FormatEntry& entry : Registry()) {
    SCOPED_TRACE(entry.description.id());
    WeightSpec spec;
    spec.format = entry.description.id();
    const int64_t fixed = entry.format->fixed_group_size();
    spec.group_size = fixed != 0 ? fixed : 32;
    const auto linear = RoundToNearest(weight, spec);
    const auto grids =
        entry.format->ChooseGrids(weight, spec, base::CancelToken());
    ASSERT_TRUE(linear.ok() && grids.ok()) << linear.status();
    EXPECT_FALSE(grids->codes.defined());
    EXPECT_TRUE(grids->scales.equal(linear->scales));
    EXPECT_EQ(grids->group_size, linear->group_size);
    EXPECT_EQ(grids->parts.size(), linear->parts.size());
    ASSERT_EQ(grids->offsets.defined(), linear->offsets.defined());
    if (grids->offsets.defined()) {
      EXPECT_TRUE(grids->offsets.equal(linear->offsets));
    }
    ASSERT_EQ(grids->zeros.defined(), linear->zeros.defined());
    if (grids->zeros.defined()) {
      EXPECT_EQ(grids->zeros.scalar_type(), linear->zeros.scalar_type());
      EXPECT_TRUE(grids->zeros.equal(linear->zeros));
    }
  }
}

TEST(RegistryTest, ManyWeightsAreRoundedInPartsThatDoNotShow) {
  const at::Tensor two_rows =
      at::arange(-1056, 1056).to(at::kFloat).mul(0.003).view({2, 1056});
  const at::Tensor weight = two_rows.repeat({512, 1});
  for (const FormatEntry& entry : Registry()) {
    SCOPED_TRACE(entry.description.id());
    WeightSpec spec;
    spec.format = entry.description.id();
    const int64_t fixed = entry.format->fixed_group_size();
    spec.group_size = fixed != 0 ? fixed : 100;
    base::CancelToken cancel;
    const auto whole = RoundToNearest(weight, spec, cancel);
    const auto part = RoundToNearest(two_rows, spec);
    ASSERT_TRUE(whole.ok() && part.ok()) << whole.status();
    EXPECT_TRUE(whole->codes.equal(part->codes.repeat({512, 1})));
    EXPECT_TRUE(whole->scales.equal(part->scales.repeat({512, 1})));
    if (entry.format->level_rule() == nullptr) continue;
    // Grids and codes, each in three parts.
    EXPECT_GE(cancel.looks(), 6);
    cancel.CancelAfter(cancel.looks() + 4);
    EXPECT_TRUE(
        absl::IsCancelled(RoundToNearest(weight, spec, cancel).status()));
  }
}

}  // namespace
}  // namespace quantd::formats
