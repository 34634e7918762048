// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/failure.h"

#include <gtest/gtest.h>

#include "proto/base/error.h"

namespace quantd::spec {
namespace {

TEST(FailureTest, CodesMapToClasses) {
  EXPECT_EQ(FailureFromStatus(absl::InvalidArgumentError("x")).failure_class(),
            "INVALID");
  EXPECT_EQ(FailureFromStatus(absl::NotFoundError("x")).failure_class(),
            "INVALID");
  EXPECT_EQ(FailureFromStatus(absl::DataLossError("x")).failure_class(),
            "INVALID");
  EXPECT_EQ(
      FailureFromStatus(absl::ResourceExhaustedError("x")).failure_class(),
      "RESOURCE");
  EXPECT_EQ(FailureFromStatus(absl::UnavailableError("x")).failure_class(),
            "TRANSIENT");
  EXPECT_EQ(FailureFromStatus(absl::InternalError("x")).failure_class(),
            "INTERNAL");
}

TEST(FailureTest, NumericReasonsAreNumericWhateverTheirCode) {
  const absl::Status status =
      base::MakeError(absl::StatusCode::kFailedPrecondition,
                      "NUMERIC_NOT_FINITE", "x", {{"layer", "q_proj"}});
  const v1::Failure failure = FailureFromStatus(status);
  EXPECT_EQ(failure.failure_class(), "NUMERIC");
  EXPECT_EQ(failure.reason(), "NUMERIC_NOT_FINITE");
  EXPECT_EQ(failure.metadata().at("layer"), "q_proj");
}

TEST(FailureTest, ADamagedBlobOfTheStoreIsOurFault) {
  const absl::Status status =
      base::MakeError(absl::StatusCode::kDataLoss, "BLOB_DIGEST_MISMATCH", "x");
  EXPECT_EQ(FailureFromStatus(status).failure_class(), "INTERNAL");
}

TEST(FailureTest, AnErrorWithoutAReasonGetsItsCode) {
  EXPECT_EQ(FailureFromStatus(absl::NotFoundError("x")).reason(), "NOT_FOUND");
}

}  // namespace
}  // namespace quantd::spec
