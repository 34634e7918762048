// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/cuda_plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "proto/base/error.h"

namespace quantd::kernels {
namespace {

TEST(OpenDeviceTest, TheCpuIsAlwaysThere) {
  ASSERT_TRUE(OpenDevice("cpu").ok());
  EXPECT_TRUE(OpenDevice("cpu")->is_cpu());
}

TEST(OpenDeviceTest, OtherNamesAreRefused) {
  for (const char* name : {"gpu", "cuda", "cuda:", "cuda:-1", "cuda:x"}) {
    EXPECT_EQ(base::ErrorReason(OpenDevice(name).status()), "DEVICE_INVALID");
  }
}

TEST(OpenDeviceTest, WithoutAGpuTheAnswerIsOnePlainSentence) {
  if (std::filesystem::exists("/dev/nvidiactl")) {
    GTEST_SKIP() << "there is a GPU";
  }
  const absl::Status status = OpenDevice("cuda:0").status();
  EXPECT_EQ(base::ErrorReason(status), "CUDA_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--device"));
}

}  // namespace
}  // namespace quantd::kernels
