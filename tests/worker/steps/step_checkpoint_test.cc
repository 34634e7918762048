// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/step_checkpoint.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/fake_clock.h"
#include "tests/support/test_data.h"

namespace quantd::steps {
namespace {

namespace fs = std::filesystem;

class StepCheckpointTest : public testing::Test {
 protected:
  StepCheckpoint Open(const std::string& step) {
    StepCheckpoint checkpoint(directory_, absl::Seconds(60), clock_);
    checkpoint.Begin(step);
    return checkpoint;
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      files.push_back(entry.path().string());
    }
    return files;
  }

  const support::TemporaryDirectory folder_;
  const std::string directory_ = folder_.File("checkpoint");
  support::FakeClock clock_;
  const methods::LoopState state_ = {
      {"row", at::arange(3, at::kLong)},
      {"solved/a.b.codes", at::arange(12, at::kByte).view({3, 4})},
      {"none yet", at::empty({0, 4}, at::kByte)},
      {"curve", at::arange(5, at::kDouble)}};
};

void ExpectEqual(const methods::LoopState& one,
                 const methods::LoopState& other) {
  ASSERT_EQ(one.size(), other.size());
  for (const auto& [name, tensor] : one) {
    ASSERT_TRUE(other.contains(name)) << name;
    EXPECT_TRUE(at::equal(tensor, other.at(name))) << name;
    EXPECT_EQ(tensor.scalar_type(), other.at(name).scalar_type()) << name;
  }
}

TEST_F(StepCheckpointTest, ALaterProcessGetsWhatWasKeptLast) {
  StepCheckpoint first = Open("job-3");
  EXPECT_TRUE(first.Load().empty());
  first.Keep({{"row", at::arange(2)}});
  first.Keep(state_);
  EXPECT_EQ(Files().size(), 1);
  ExpectEqual(Open("job-3").Load(), state_);
}

TEST_F(StepCheckpointTest, IsDueAfterItsInterval) {
  StepCheckpoint checkpoint = Open("job-3");
  EXPECT_FALSE(checkpoint.IsDue());
  clock_.Advance(absl::Seconds(59));
  EXPECT_FALSE(checkpoint.IsDue());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(checkpoint.IsDue());
  checkpoint.Keep(state_);
  EXPECT_FALSE(checkpoint.IsDue());
}

TEST_F(StepCheckpointTest, AnotherStepBeginsAtItsBeginning) {
  Open("job-3").Keep(state_);
  EXPECT_TRUE(Open("job-31").Load().empty());
  EXPECT_TRUE(Files().empty());
}

TEST_F(StepCheckpointTest, AStepThatIsDoneLeavesNothing) {
  StepCheckpoint checkpoint = Open("job-3");
  checkpoint.Keep(state_);
  checkpoint.End();
  EXPECT_TRUE(Files().empty());
}

TEST_F(StepCheckpointTest, ADamagedFileIsIgnored) {
  Open("job-3").Keep(state_);
  const std::string file = Files().front();
  const auto size = fs::file_size(file);
  std::string bytes(size, '\0');
  std::ifstream(file, std::ios::binary)
      .read(bytes.data(), static_cast<std::streamsize>(size));
  for (size_t place = 0; place < size; place += 37) {
    std::string damaged = bytes;
    damaged[place] = static_cast<char>(damaged[place] ^ 1);
    std::ofstream(file, std::ios::binary) << damaged;
    EXPECT_TRUE(Open("job-3").Load().empty()) << place;
    std::ofstream(file, std::ios::binary) << bytes.substr(0, place);
    EXPECT_TRUE(Open("job-3").Load().empty()) << place;
  }
  std::ofstream(file, std::ios::binary) << bytes;
  ExpectEqual(Open("job-3").Load(), state_);
}

TEST_F(StepCheckpointTest, WithoutADirectoryNothingIsKept) {
  StepCheckpoint checkpoint("", absl::ZeroDuration(), clock_);
  checkpoint.Begin("job-3");
  EXPECT_FALSE(checkpoint.IsDue());
  EXPECT_TRUE(checkpoint.Load().empty());
  checkpoint.End();
}

}  // namespace
}  // namespace quantd::steps
