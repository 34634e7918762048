// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/guard.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "proto/base/error.h"

namespace quantd::pipeline {
namespace {

TEST(GuardTest, AStatusPassesThrough) {
  EXPECT_TRUE(RunGuarded([] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(RunGuarded([] { return absl::NotFoundError("x"); }),
            absl::NotFoundError("x"));
}

TEST(GuardTest, WantOfHostMemoryIsResourceExhausted) {
  const absl::Status status =
      RunGuarded([]() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(base::ErrorReason(status), "HOST_OUT_OF_MEMORY");
}

TEST(GuardTest, ATensorThatDoesNotFitIsWantOfHostMemory) {
  const absl::Status status = RunGuarded([] {
    at::empty({int64_t{1} << 56});
    return absl::OkStatus();
  });
  EXPECT_EQ(base::ErrorReason(status), "HOST_OUT_OF_MEMORY") << status;
}

TEST(GuardTest, WantOfDeviceMemoryIsResourceExhausted) {
  const absl::Status status = RunGuarded([]() -> absl::Status {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "out");
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(base::ErrorReason(status), "DEVICE_OUT_OF_MEMORY");
}

TEST(GuardTest, ALibraryErrorIsInternalAndHasNoBacktrace) {
  const absl::Status status = RunGuarded([] {
    at::matmul(at::zeros({2, 3}), at::zeros({2, 3}));
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(base::ErrorReason(status), "TENSOR_LIBRARY_ERROR");
  EXPECT_EQ(std::string(status.message()).find("frame #"), std::string::npos);
  EXPECT_EQ(std::string(status.message()).find("libtorch"), std::string::npos);
}

TEST(GuardTest, AnyOtherExceptionIsInternal) {
  const absl::Status status = RunGuarded([]() -> absl::Status {
    throw std::runtime_error("words of /some/path");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()).find("/some/path"),
            std::string::npos);
}

}  // namespace
}  // namespace quantd::pipeline
