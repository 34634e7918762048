// SPDX-License-Identifier: Apache-2.0
// The runner that is asked at the start of an agent what it can do.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "proto/base/error.h"
#include "tests/support/fake_clock.h"
#include "tests/support/test_data.h"
#include "worker/agent/runner_process.h"

namespace quantd::agent {
namespace {

// Time passes as it is looked at, so that no pause is waited for.
class PassingClock : public support::FakeClock {
 public:
  absl::Duration Monotonic() override {
    Advance(absl::Minutes(1));
    return FakeClock::Monotonic();
  }
};

class DescribeTest : public testing::Test {
 protected:
  // The runner is a script that notes each start, then does `what`. In it,
  // $starts is the number of starts so far.
  absl::StatusOr<v1::Catalog> Describe(const std::string& what) {
    v1::Catalog catalog;
    catalog.set_code_version("scripted");
    std::ofstream(directory_.File("catalog"), std::ios::binary)
        << catalog.SerializeAsString();
    const std::string program = directory_.File("runner");
    std::ofstream(program) << "#!/bin/sh\ncd '" << directory_.path()
                           << "'\necho start >> log\n"
                              "starts=$(wc -l < log)\n"
                           << what << "\n";
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    return DescribeRunner(program, absl::Seconds(60), clock_);
  }
  int Starts() {
    std::ifstream in(directory_.File("log"));
    int lines = 0;
    for (std::string line; std::getline(in, line);) ++lines;
    return lines;
  }

  const support::TemporaryDirectory directory_;
  PassingClock clock_;
};

TEST_F(DescribeTest, ARunnerThatAnswersIsAskedOnce) {
  const auto catalog = Describe("cat catalog");
  ASSERT_TRUE(catalog.ok()) << catalog.status();
  EXPECT_EQ(catalog->code_version(), "scripted");
  EXPECT_EQ(Starts(), 1);
}

TEST_F(DescribeTest, ARunnerThatIsKilledIsAskedAgainAfterAPause) {
  const absl::Time before = clock_.Now();
  const auto catalog =
      Describe("if [ $starts -lt 3 ]; then kill -9 $$; fi\ncat catalog");
  ASSERT_TRUE(catalog.ok()) << catalog.status();
  EXPECT_EQ(catalog->code_version(), "scripted");
  EXPECT_EQ(Starts(), 3);
  // By the clock that it was given, which two pauses have moved.
  EXPECT_GE(clock_.Now() - before, absl::Minutes(4));
}

TEST_F(DescribeTest, ACatalogOfARunnerThatWasKilledIsNotTaken) {
  const auto catalog = Describe(
      "if [ $starts -lt 2 ]; then cat catalog; kill -9 $$; fi\ncat catalog");
  ASSERT_TRUE(catalog.ok()) << catalog.status();
  EXPECT_EQ(Starts(), 2);
}

TEST_F(DescribeTest, ARunnerThatIsKilledEachTimeIsGivenUp) {
  EXPECT_EQ(base::ErrorReason(Describe("kill -9 $$").status()),
            "RUNNER_DESCRIBE_FAILED");
  EXPECT_EQ(Starts(), kDescribeAttempts);
}

TEST_F(DescribeTest, ARunnerThatEndsWithAnErrorIsNotAskedAgain) {
  EXPECT_EQ(base::ErrorReason(Describe("cat catalog; exit 3").status()),
            "RUNNER_DESCRIBE_FAILED");
  EXPECT_EQ(Starts(), 1);
}

TEST_F(DescribeTest, ARunnerThatPrintsNoCatalogIsNotAskedAgain) {
  EXPECT_EQ(base::ErrorReason(Describe("echo no catalog").status()),
            "RUNNER_DESCRIBE_FAILED");
  EXPECT_EQ(Starts(), 1);
}

}  // namespace
}  // namespace quantd::agent
