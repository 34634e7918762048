// SPDX-License-Identifier: Apache-2.0
// Layers that are learned alone go on from any state that was kept of them.
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/worker/methods/every_state.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/methods/method.h"

namespace quantd::methods {
namespace {

constexpr int64_t kIterations = 4;
// More than are learned together, and a rest.
constexpr int64_t kRows = 300;
constexpr int64_t kColumns = 1024;
constexpr int64_t kSlabs = 2;

class ResumeTest : public testing::TestWithParam<const char*> {
 protected:
  LinearSolution Solve() {
    v1::Component component;
    component.set_id(GetParam());
    (*component.mutable_params())["iterations"].set_int_value(kIterations);
    base::CancelToken cancel;
    auto solution =
        (*MakeMethod(component))
            ->QuantizeLinear(
                {.weight = layer_.weight,
                 .statistics = &layer_.statistics,
                 .spec = spec_,
                 .observe = [this](int64_t, int64_t, double) { ++steps_; },
                 .store = store_},
                cancel);
    EXPECT_TRUE(solution.ok()) << solution.status();
    return *std::move(solution);
  }

  const RandomLayer layer_ = MakeRandomLayer(kRows, kColumns, 64, 61);
  const formats::WeightSpec spec_ = {.format = "int2", .symmetric = false};
  EveryState* store_ = nullptr;
  int64_t steps_ = 0;
};

void ExpectEqual(const LinearSolution& one, const LinearSolution& other) {
  EXPECT_TRUE(at::equal(one.linear.codes, other.linear.codes));
  EXPECT_TRUE(at::equal(one.linear.scales, other.linear.scales));
  EXPECT_TRUE(at::equal(one.linear.zeros, other.linear.zeros));
  EXPECT_EQ(one.loss_curve, other.loss_curve);
  EXPECT_EQ(one.first_loss, other.first_loss);
  EXPECT_EQ(one.last_loss, other.last_loss);
}

TEST_P(ResumeTest, GoesOnFromAnyStateToTheSameBits) {
  const LinearSolution undisturbed = Solve();
  EveryState store;
  store_ = &store;
  ExpectEqual(undisturbed, Solve());
  const std::vector<LoopState> states = store.kept_;
  ASSERT_EQ(states.size(), kSlabs * kIterations);
  for (size_t done = 1; done <= states.size(); ++done) {
    store.given_ = states[done - 1];
    steps_ = 0;
    ExpectEqual(undisturbed, Solve());
    // A turn more for each slab that was not through.
    const int64_t slabs_done = static_cast<int64_t>(done - 1) / kIterations;
    EXPECT_EQ(steps_,
              static_cast<int64_t>(states.size() - done) + kSlabs - slabs_done);
  }
}

TEST_P(ResumeTest, AStateOfSomethingElseIsNotUsed) {
  const LinearSolution undisturbed = Solve();
  EveryState store;
  store_ = &store;
  Solve();
  const LoopState good = store.kept_[5];
  for (const auto& [name, tensor] : good) {
    store.given_ = good;
    store.given_.erase(name);
    ExpectEqual(undisturbed, Solve());
    store.given_[name] = at::zeros({3, 3});
    ExpectEqual(undisturbed, Solve());
  }
  for (const char* name : {"row", "step"}) {
    for (const int64_t wrong : {int64_t{-1}, int64_t{7}, int64_t{1} << 40}) {
      store.given_ = good;
      store.given_[name] = at::full({1}, wrong, at::kLong);
      ExpectEqual(undisturbed, Solve());
    }
  }
}

TEST_P(ResumeTest, TellsItsLossFromTheFirstStepToTheResult) {
  const LinearSolution solution = Solve();
  ASSERT_EQ(solution.loss_curve.size(), kIterations + 1);
  EXPECT_EQ(solution.loss_curve.front(), (LossPoint{0, solution.first_loss}));
  EXPECT_EQ(solution.loss_curve.back(),
            (LossPoint{kIterations, solution.last_loss}));
  EXPECT_LE(solution.last_loss, 1 + 1e-6);
  EXPECT_GT(solution.last_loss, 0);
}

INSTANTIATE_TEST_SUITE_P(Methods, ResumeTest,
                         testing::Values("adaround", "autoround", "brecq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::methods
