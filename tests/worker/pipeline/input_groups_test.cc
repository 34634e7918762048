// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/input_groups.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd::pipeline {
namespace {

constexpr int64_t kIn = 96;

// A stage of experts with a gate and an up projection each, and a wider shared
// one behind them.
class InputGroupsTest : public testing::Test {
 protected:
  void AddExpert(int64_t in, int64_t out) {
    const int64_t input = inputs_++;
    for (const char* name : {"gate", "up"}) {
      const std::string module = absl::StrCat(input, ".", name);
      stage_.linears.push_back(module);
      stage_.input_of.push_back(input);
      ModulePlan& plan = plans_[module];
      plan.name = module;
      plan.in_features = in;
      plan.out_features = out;
      plan.quantized = true;
      plan.method.set_id("gptq");
    }
  }
  std::vector<InputGroup> Groups() {
    auto groups = GroupsOf(stage_, 0, plans_);
    EXPECT_TRUE(groups.ok()) << groups.status();
    return *std::move(groups);
  }
  static std::vector<int64_t> Alike(const std::vector<InputGroup>& groups) {
    std::vector<int64_t> alike;
    for (const InputGroup& group : groups) alike.push_back(group.alike);
    return alike;
  }
  void TearDown() override { at::set_num_threads(threads_); }

  models::Stage stage_;
  std::map<std::string, ModulePlan> plans_;
  int64_t inputs_ = 0;

 private:
  const int threads_ = at::get_num_threads();
};

TEST_F(InputGroupsTest, ExpertsAreAlikeAndASharedOneIsNot) {
  for (int i = 0; i < 3; ++i) AddExpert(kIn, 32);
  AddExpert(kIn, 64);
  EXPECT_EQ(Alike(Groups()), (std::vector<int64_t>{3, 3, 3, 1}));
}

TEST_F(InputGroupsTest, AnExpertThatIsSkippedInPartStandsApart) {
  for (int i = 0; i < 5; ++i) AddExpert(kIn, 32);
  plans_.at("2.up").quantized = false;
  EXPECT_EQ(Alike(Groups()), (std::vector<int64_t>{2, 2, 1, 2, 2}));
  plans_.at("2.gate").quantized = false;
  EXPECT_EQ(Alike(Groups()), (std::vector<int64_t>{4, 4, 4, 4}));
}

TEST_F(InputGroupsTest, ADenseLayerHasAllThreads) {
  AddExpert(kIn, 32);
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    EXPECT_FALSE(Groups()[0].OnOneThread());
  }
}

TEST_F(InputGroupsTest, ManyNarrowExpertsHaveAThreadEach) {
  for (int i = 0; i < 3; ++i) AddExpert(kIn, 32);
  at::set_num_threads(2);
  EXPECT_TRUE(Groups()[0].OnOneThread());
  // With half of the threads idle all the time, all for one are better.
  at::set_num_threads(7);
  EXPECT_FALSE(Groups()[0].OnOneThread());
}

TEST_F(InputGroupsTest, WideExpertsHaveAllThreads) {
  for (int i = 0; i < 3; ++i) AddExpert(8192, 32);
  at::set_num_threads(2);
  EXPECT_FALSE(Groups()[0].OnOneThread());
}

TEST_F(InputGroupsTest, SumsAreTheSameSideBySide) {
  for (int i = 0; i < 5; ++i) AddExpert(kIn, 32);
  const base::CancelToken cancel;
  std::vector<at::Tensor> inputs;
  for (const int64_t rows : {7, 0, 300, 41, 1}) {
    inputs.push_back(at::randn({rows, kIn}));
  }
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    const std::vector<InputGroup> groups = Groups();
    GroupSums sums(groups, at::kCPU, cancel);
    for (int sequence = 0; sequence < 3; ++sequence) {
      ASSERT_TRUE(sums.Add(0, inputs, {}, 300).ok());
    }
    const std::vector<GroupStatistics> all = sums.Finish(900);
    for (size_t g = 0; g < groups.size(); ++g) {
      ASSERT_TRUE(all[g].ok()) << all[g].status();
      EXPECT_EQ(all[g]->tokens, 3 * inputs[g].size(0));
      calibration::GramAccumulator alone(kIn, at::kCPU);
      for (int sequence = 0; sequence < 3; ++sequence) {
        ASSERT_TRUE(alone.Add(inputs[g], cancel).ok());
      }
      calibration::Statistics expected;
      ASSERT_TRUE(alone.Finish(&expected).ok());
      EXPECT_TRUE(at::equal(all[g]->gram, expected.gram)) << g;
    }
  }
}

}  // namespace
}  // namespace quantd::pipeline
