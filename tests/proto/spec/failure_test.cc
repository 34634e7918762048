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

// Names from a model's files are cut to some number of bytes in messages.
TEST(FailureTest, AMessageThatCutsACharacterStillTravels) {
  const v1::Failure sent =
      MakeFailure("INVALID", "TENSOR_NAME", "tensor \"\xe5\xb1\x82\xe5\xb1\"");
  v1::Failure received;
  ASSERT_TRUE(received.ParseFromString(sent.SerializeAsString()));
  EXPECT_EQ(received.message(), "tensor \"\xe5\xb1\x82??\"");
}

}  // namespace
}  // namespace quantd::spec
