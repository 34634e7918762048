// SPDX-License-Identifier: Apache-2.0
#include "server/embedded_worker.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/process.h"
#include "tests/support/test_data.h"

namespace quantd::server {
namespace {

TEST(NextWait, DoublesToHalfAMinuteAndBeginsAgainAfterAHealthyLife) {
  const absl::Duration first = absl::Milliseconds(500);
  absl::Duration wait;
  for (const double seconds : {0.5, 1., 2., 4., 8., 16., 30., 30.}) {
    wait = NextWait(wait, absl::Seconds(1), first);
    EXPECT_EQ(wait, absl::Seconds(seconds));
  }
  EXPECT_EQ(NextWait(wait, absl::Seconds(61), first), first);
}

class EmbeddedWorkerTest : public testing::Test {
 protected:
  // A worker that notes its start and then runs `script`.
  void Start(const std::string& script) {
    worker_ = std::make_unique<EmbeddedWorker>(
        std::vector<std::string>{"/bin/sh", "-c",
                                 "echo $$ >> " + starts_ + "; " + script},
        absl::Milliseconds(1));
  }
  int64_t NumStarts() {
    const auto text = base::ReadFile(starts_);
    if (!text.ok()) return 0;
    return std::count(text->begin(), text->end(), '\n');
  }
  bool AwaitStarts(int64_t count) {
    return support::WaitFor(absl::Seconds(30),
                            [&] { return NumStarts() >= count; });
  }

  support::TemporaryDirectory directory_;
  const std::string starts_ = directory_.File("starts");
  std::unique_ptr<EmbeddedWorker> worker_;
};

TEST_F(EmbeddedWorkerTest, AWorkerThatDiesIsStartedAgain) {
  Start("kill -9 $$");
  EXPECT_TRUE(AwaitStarts(4));
}

TEST_F(EmbeddedWorkerTest, AProgramThatIsGoneIsTriedAgainQuietly) {
  const std::string program = directory_.File("late");
  worker_ = std::make_unique<EmbeddedWorker>(std::vector<std::string>{program},
                                             absl::Milliseconds(1));
  ASSERT_TRUE(base::WriteFileAtomically(
                  program + ".new",
                  "#!/bin/sh\necho start >> " + starts_ + "\nsleep 1000\n")
                  .ok());
  ASSERT_EQ(support::RunCommand({"/bin/sh", "-c",
                                 "chmod +x " + program + ".new && mv " +
                                     program + ".new " + program})
                .exit_code,
            0);
  EXPECT_TRUE(AwaitStarts(1));
}

TEST_F(EmbeddedWorkerTest, StoppingLetsItDrainAndStartsNoOther) {
  const std::string drained = directory_.File("drained");
  Start("trap 'echo yes > " + drained +
        "; exit 0' TERM; while :; do sleep 0.01; done");
  ASSERT_TRUE(AwaitStarts(1));
  worker_->Stop(absl::Seconds(30));
  EXPECT_TRUE(base::ReadFile(drained).ok());
  EXPECT_EQ(NumStarts(), 1);
}

TEST_F(EmbeddedWorkerTest, OneThatIgnoresTheSignalIsKilledWithItsChildren) {
  Start("trap '' TERM; sleep 1000 & echo $! >> " + starts_ +
        "; while :; do sleep 0.01; done");
  ASSERT_TRUE(AwaitStarts(2));
  const std::string pids = *base::ReadFile(starts_);
  worker_->Stop(absl::Milliseconds(1));
  // The group is killed; whoever inherits the grandchild may not reap it.
  std::string child = pids.substr(pids.find('\n') + 1);
  child.pop_back();
  EXPECT_TRUE(support::WaitFor(absl::Seconds(30), [&] {
    std::ifstream file("/proc/" + child + "/stat");
    std::string state;
    return !std::getline(file, state) ||
           state.find(") Z ") != std::string::npos;
  }));
}

}  // namespace
}  // namespace quantd::server
