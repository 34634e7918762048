// SPDX-License-Identifier: Apache-2.0
// Methods that round a block together, on a small block that is a function of
// two linears.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "tests/worker/methods/every_state.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/methods/block_method.h"

namespace quantd::methods {
namespace {

constexpr int64_t kWidth = 24;
constexpr int64_t kInner = 40;
constexpr int64_t kSequences = 6;

class BlockTest : public testing::TestWithParam<const char*> {
 protected:
  BlockTest() {
    const formats::WeightSpec spec{.format = "int2", .group_size = 8};
    problem_.linears = {
        {"up", RandomNormal(kInner, kWidth, 1).mul(0.2), spec},
        {"down", RandomNormal(kWidth, kInner, 2).mul(0.2), spec}};
    problem_.sequences = kSequences;
    problem_.input = [](int64_t i) {
      return MakeRandomLayer(1, kWidth, 20, 100 + i).input;
    };
    problem_.forward = [this](const at::Tensor& input,
                              const std::vector<at::Tensor>& weights) {
      ++forwards_;
      const at::Tensor inner = at::relu(at::mm(input, weights[0].t()));
      return input.add(at::mm(inner, weights[1].t()));
    };
    problem_.target = [this](int64_t i) {
      return problem_.forward(problem_.input(i), {problem_.linears[0].weight,
                                                  problem_.linears[1].weight});
    };
    problem_.observe = [this](int64_t, int64_t, double loss) {
      losses_.push_back(loss);
    };
  }

  absl::StatusOr<std::vector<LinearSolution>> Solve(int64_t iterations) {
    v1::Component component;
    component.set_id(GetParam());
    (*component.mutable_params())["iterations"].set_int_value(iterations);
    (*component.mutable_params())["batch"].set_int_value(4);
    const auto method = MakeMethod(component);
    if (!method.ok()) return method.status();
    EXPECT_NE((*method)->block_method(), nullptr);
    return (*method)->block_method()->QuantizeBlock(problem_, cancel_);
  }
  double Loss(const std::vector<formats::QuantizedLinear>& linears) const {
    double total = 0;
    for (int64_t i = 0; i < kSequences; ++i) {
      const at::Tensor output = problem_.forward(
          problem_.input(i),
          {formats::Dequantize(linears[0]), formats::Dequantize(linears[1])});
      total += output.sub(problem_.target(i)).square().sum().item<double>();
    }
    return total;
  }
  std::vector<formats::QuantizedLinear> Rounded() const {
    std::vector<formats::QuantizedLinear> linears;
    for (const BlockLinear& linear : problem_.linears) {
      linears.push_back(*formats::RoundToNearest(linear.weight, linear.spec));
    }
    return linears;
  }

  BlockProblem problem_;
  base::CancelToken cancel_;
  std::vector<double> losses_;
  mutable int forwards_ = 0;
};

TEST_P(BlockTest, BringsTheOutputCloserThanRounding) {
  const auto solutions = Solve(150);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  ASSERT_EQ(solutions->size(), 2);
  for (const LinearSolution& solution : *solutions) {
    EXPECT_EQ(solution.verdict, v1::VERDICT_OK);
  }
  EXPECT_LT(Loss({(*solutions)[0].linear, (*solutions)[1].linear}),
            0.8 * Loss(Rounded()));
  ASSERT_EQ(losses_.size(), 151);
  EXPECT_NEAR(
      losses_.back(),
      Loss({(*solutions)[0].linear, (*solutions)[1].linear}) / Loss(Rounded()),
      1e-4);
}

TEST_P(BlockTest, TheSameInputsGiveTheSameBits) {
  const auto first = Solve(20);
  const auto second = Solve(20);
  ASSERT_TRUE(first.ok() && second.ok());
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal((*first)[i].linear.codes, (*second)[i].linear.codes));
    EXPECT_TRUE(
        at::equal((*first)[i].linear.scales, (*second)[i].linear.scales));
  }
}

void ExpectEqual(const std::vector<LinearSolution>& one,
                 const std::vector<LinearSolution>& other) {
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal(one[i].linear.codes, other[i].linear.codes));
    EXPECT_TRUE(at::equal(one[i].linear.scales, other[i].linear.scales));
    EXPECT_TRUE(at::equal(one[i].linear.zeros, other[i].linear.zeros));
    EXPECT_EQ(one[i].first_loss, other[i].first_loss);
    EXPECT_EQ(one[i].last_loss, other[i].last_loss);
    EXPECT_EQ(one[i].loss_curve, other[i].loss_curve);
  }
}

TEST_P(BlockTest, GoesOnFromAnyStateToTheSameBits) {
  const auto undisturbed = Solve(12);
  EveryState store;
  problem_.store = &store;
  const auto kept = Solve(12);
  ASSERT_TRUE(undisturbed.ok() && kept.ok());
  ExpectEqual(*undisturbed, *kept);
  const std::vector<LoopState> states = store.kept_;
  ASSERT_EQ(states.size(), 12);
  for (const size_t done : {1, 2, 7, 12}) {
    store.given_ = states[done - 1];
    losses_.clear();
    const auto resumed = Solve(12);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    ExpectEqual(*undisturbed, *resumed);
    // The iterations that were left, and the result's.
    EXPECT_EQ(losses_.size(), 12 - done + 1);
  }
}

TEST_P(BlockTest, AStateOfSomethingElseIsNotUsed) {
  const auto undisturbed = Solve(5);
  EveryState store;
  problem_.store = &store;
  ASSERT_TRUE(Solve(5).ok());
  const LoopState good = store.kept_[2];
  for (const int64_t wrong : {-1, 6}) {
    store.given_ = good;
    store.given_["step"] = at::full({1}, wrong, at::kLong);
    const auto solutions = Solve(5);
    ASSERT_TRUE(solutions.ok()) << solutions.status();
    ExpectEqual(*undisturbed, *solutions);
  }
  for (const auto& [name, tensor] : good) {
    for (const bool lost : {true, false}) {
      store.given_ = good;
      if (lost) {
        store.given_.erase(name);
      } else {
        store.given_[name] = at::zeros({3, 3});
      }
      const auto solutions = Solve(5);
      ASSERT_TRUE(solutions.ok()) << solutions.status();
      ExpectEqual(*undisturbed, *solutions);
    }
  }
}

TEST_P(BlockTest, TellsTheFirstAndTheLastLoss) {
  const auto solutions = Solve(30);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  for (const LinearSolution& solution : *solutions) {
    EXPECT_EQ(solution.first_loss, losses_.front());
    EXPECT_EQ(solution.last_loss, losses_.back());
  }
  // One curve for all.
  ASSERT_EQ(solutions->front().loss_curve.size(), 31);
  for (const LossPoint& point : solutions->front().loss_curve) {
    EXPECT_EQ(point.loss, losses_[static_cast<size_t>(point.step)]);
  }
  EXPECT_TRUE(solutions->back().loss_curve.empty());
}

TEST_P(BlockTest, WithoutIterationsItIsPlainRounding) {
  const auto solutions = Solve(0);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal((*solutions)[i].linear.codes, Rounded()[i].codes));
  }
}

TEST_P(BlockTest, AFewStepsDoNotMakeItWorse) {
  const auto solutions = Solve(1);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  EXPECT_LE(Loss({(*solutions)[0].linear, (*solutions)[1].linear}),
            Loss(Rounded()) * (1 + 1e-6));
}

TEST_P(BlockTest, CancelIsSeenBetweenSequences) {
  int left = 9;
  const auto input = problem_.input;
  problem_.input = [&](int64_t i) {
    if (--left == 0) cancel_.Cancel();
    return input(i);
  };
  EXPECT_EQ(Solve(1000).status().code(), absl::StatusCode::kCancelled);
  // The target may have been asked for once more.
  EXPECT_GE(left, -1);
}

TEST_P(BlockTest, AnOutputThatIsNotFiniteEndsInRounding) {
  problem_.target = [](int64_t) {
    return at::empty({20, kWidth})
        .fill_(std::numeric_limits<float>::quiet_NaN());
  };
  const auto solutions = Solve(10);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  for (const LinearSolution& solution : *solutions) {
    EXPECT_EQ(solution.verdict, v1::VERDICT_RTN_FALLBACK);
    EXPECT_FALSE(solution.reason.empty());
  }
}

// As an expert that no token was sent to.
TEST_P(BlockTest, ALinearThatTheOutputDoesNotReadStaysRounded) {
  problem_.linears.push_back(
      {"idle", RandomNormal(8, 8, 3), {.format = "int4", .group_size = 8}});
  const auto solutions = Solve(10);
  ASSERT_TRUE(solutions.ok()) << solutions.status();
  EXPECT_TRUE(at::equal((*solutions)[2].linear.codes, Rounded()[2].codes));
}

v1::Component Brecq(const std::string& weighting) {
  v1::Component component;
  component.set_id("brecq");
  (*component.mutable_params())["weighting"].set_string_value(weighting);
  return component;
}

TEST(WeightedBlockTest, OnlyFisherWeightingAsksForWeights) {
  for (const char* weighting : {"plain", "fisher"}) {
    const auto method = MakeMethod(Brecq(weighting));
    ASSERT_TRUE(method.ok()) << method.status();
    EXPECT_EQ((*method)->block_method()->needs_output_weights(),
              weighting == std::string("fisher"));
  }
}

// A block whose two outputs are its second weight, 0.4, on a grid of whole
// numbers. Targets are 0 and 1: rounding down misses the second by 1, rounding
// up the first.
class WeightedBlock {
 public:
  explicit WeightedBlock(const std::vector<float>& weights) {
    problem_.linears = {{"m",
                         at::tensor({7.5f, 0.4f}).view({1, 2}),
                         {.format = "int4", .symmetric = true}}};
    problem_.linears[0].spec.group_size = -1;
    problem_.sequences = 1;
    problem_.input = [](int64_t) { return at::zeros({1, 2}); };
    problem_.target = [](int64_t) {
      return at::tensor({0.f, 1.f}).view({1, 2});
    };
    problem_.forward = [](const at::Tensor& input,
                          const std::vector<at::Tensor>& given) {
      return input.add(given[0].narrow(1, 1, 1));
    };
    if (weights.empty()) return;
    problem_.output_weights = [weights](int64_t) {
      return at::tensor(weights).view({1, 2});
    };
  }

  LinearSolution Solve() {
    const auto method = MakeMethod(Brecq("fisher"));
    auto solved = (*method)->block_method()->QuantizeBlock(problem_, cancel_);
    EXPECT_TRUE(solved.ok()) << solved.status();
    return solved->front();
  }

 private:
  BlockProblem problem_;
  base::CancelToken cancel_;
};

float SecondWeight(const LinearSolution& solution) {
  return formats::Dequantize(solution.linear)[0][1].item<float>();
}

TEST(WeightedBlockTest, ErrorsCountAsOftenAsTheirWeight) {
  // Down costs 0 + 4, up 1 + 0. The first weight is the float one, 0.4 from
  // the first target and 0.6 from the second: (0.16 + 4 * 0.36) / 4.
  const LinearSolution up = WeightedBlock({1, 4}).Solve();
  EXPECT_EQ(SecondWeight(up), 1);
  EXPECT_NEAR(up.first_loss, 0.4, 1e-6);
  EXPECT_DOUBLE_EQ(up.last_loss, 0.25);
  // Down costs 1, up 4: plain rounding stays.
  const LinearSolution down = WeightedBlock({4, 1}).Solve();
  EXPECT_EQ(SecondWeight(down), 0);
  EXPECT_NEAR(down.first_loss, 4 * 0.16 + 0.36, 1e-6);
  EXPECT_DOUBLE_EQ(down.last_loss, 1);
  // Without weights both cost 1.
  EXPECT_EQ(SecondWeight(WeightedBlock({}).Solve()), 0);
}

INSTANTIATE_TEST_SUITE_P(Methods, BlockTest,
                         testing::Values("autoround", "brecq"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::methods
