// SPDX-License-Identifier: Apache-2.0
#include "worker/evals/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "proto/base/error.h"
#include "tests/worker/evals/bigram_model.h"

namespace quantd::evals {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

// -ln of the probabilities 1/2 and 1/6. Logits are float32.
const double kLikely = std::log(2.0);
const double kUnlikely = std::log(6.0);
constexpr double kRounding = 1e-6;

std::vector<WindowScore> Scores(BigramModel& model,
                                const std::vector<Window>& windows,
                                const ScoreOptions& options = {}) {
  const base::CancelToken cancel;
  const auto scores = ScoreWindows(model, windows, options, cancel);
  EXPECT_TRUE(scores.ok()) << scores.status();
  return scores.value();
}

TEST(ScoreWindows, GivesEachTokenItsLossAfterTheOneBefore) {
  BigramModel model;
  const auto scores = Scores(model, {{{0, 1, 3, 0, 0}, 1}});
  EXPECT_THAT(scores[0].losses, ElementsAre(DoubleNear(kLikely, kRounding),
                                            DoubleNear(kUnlikely, kRounding),
                                            DoubleNear(kLikely, kRounding),
                                            DoubleNear(kUnlikely, kRounding)));
  EXPECT_FALSE(scores[0].is_greedy);
}

TEST(ScoreWindows, ScoresOnlyFromTheFirstScoredTokenOn) {
  BigramModel model;
  const auto scores = Scores(model, {{{2, 2, 2, 3, 0}, 3}});
  EXPECT_THAT(scores[0].losses, ElementsAre(DoubleNear(kLikely, kRounding),
                                            DoubleNear(kLikely, kRounding)));
  EXPECT_TRUE(scores[0].is_greedy);
}

TEST(ScoreWindows, LoadsEachBlockOnceForAllWindowsThatFit) {
  BigramModel model;
  const std::vector<Window> windows(5, Window{{0, 1, 2}, 1});
  Scores(model, windows);
  EXPECT_EQ(model.blocks_loaded(), 2);
}

TEST(ScoreWindows, TheBudgetAndTheChunksChangeNoLoss) {
  std::vector<Window> windows;
  for (int64_t i = 0; i < 7; ++i) {
    windows.push_back({{i % 4, 1, (i * i) % 4, 3, 0, i % 2, 2}, 1 + i % 3});
  }
  BigramModel roomy;
  const auto expected = Scores(roomy, windows);
  BigramModel tight;
  ScoreOptions options;
  options.activation_bytes = 2 * 7 * BigramModel::kTokens * 4;
  options.logit_bytes = 1;
  const auto scores = Scores(tight, windows, options);
  // Two windows of 7 tokens fit at a time: 4 groups, 2 blocks each.
  EXPECT_EQ(tight.blocks_loaded(), 8);
  ASSERT_EQ(scores.size(), expected.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_EQ(scores[i].losses, expected[i].losses);
  }
}

TEST(ScoreWindows, LengthsAreNotMixedUnlessAllowed) {
  const std::vector<Window> windows = {{{0, 1, 2}, 1}, {{0, 1}, 1}};
  BigramModel apart;
  Scores(apart, windows);
  EXPECT_EQ(apart.blocks_loaded(), 4);
  BigramModel together;
  ScoreOptions options;
  options.group_by_length = false;
  Scores(together, windows, options);
  EXPECT_EQ(together.blocks_loaded(), 2);
  EXPECT_EQ(together.longest_announced(), 3);
}

TEST(ScoreWindows, ProgressRisesToTheNumberOfWindows) {
  BigramModel model;
  ScoreOptions options;
  std::vector<int64_t> done;
  options.progress = [&](int64_t now, int64_t total) {
    EXPECT_EQ(total, 6);
    done.push_back(now);
  };
  Scores(model, std::vector<Window>(6, Window{{0, 1}, 1}), options);
  EXPECT_THAT(done, ElementsAre(2, 4, 6));
}

TEST(ScoreWindows, LogitsThatAreNotFiniteAreAnError) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    BigramModel model;
    model.table()[2][0] = bad;  // Not of a token that is scored.
    const base::CancelToken cancel;
    const auto scores = ScoreWindows(model, {{{0, 1}, 1}}, {}, cancel);
    EXPECT_EQ(scores.status().code(), absl::StatusCode::kDataLoss) << bad;
    EXPECT_EQ(base::ErrorReason(scores.status()), "NON_FINITE_LOGITS");
  }
}

TEST(ScoreWindows, StopsBetweenBlocksWhenCancelled) {
  BigramModel model;
  base::CancelToken cancel;
  ScoreOptions options;
  options.progress = [&](int64_t, int64_t) { cancel.Cancel(); };
  const auto scores = ScoreWindows(model, {{{0, 1}, 1}}, options, cancel);
  EXPECT_EQ(scores.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(model.blocks_loaded(), 2);  // The second one was not run.
}

TEST(ScoreWindows, RefusesWhatCannotBeScored) {
  BigramModel model;
  const base::CancelToken cancel;
  const auto reason = [&](const Window& window) {
    return base::ErrorReason(
        ScoreWindows(model, {window}, {}, cancel).status());
  };
  EXPECT_EQ(reason({{0, 1}, 0}), "WINDOW_INVALID");
  EXPECT_EQ(reason({{0, 1}, 2}), "WINDOW_INVALID");
  EXPECT_EQ(reason({{}, 1}), "WINDOW_INVALID");
  EXPECT_EQ(reason({{0, 4}, 1}), "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(reason({{-1, 0}, 1}), "TOKEN_OUT_OF_RANGE");
}

TEST(ScoreRequests, SumsTheContinuationAlone) {
  BigramModel model;
  const base::CancelToken cancel;
  const auto scores = ScoreRequests(
      model, {{{0, 0}, {1, 2}}, {{0}, {1, 3}}, {{3, 1}, {2}}}, {}, cancel);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_NEAR((*scores)[0].log_probability, -2 * kLikely, kRounding);
  EXPECT_TRUE((*scores)[0].is_greedy);
  EXPECT_NEAR((*scores)[1].log_probability, -kLikely - kUnlikely, kRounding);
  EXPECT_FALSE((*scores)[1].is_greedy);
  EXPECT_NEAR((*scores)[2].log_probability, -kLikely, kRounding);
}

TEST(ScoreRequests, CutsTheContextFromTheLeft) {
  BigramModel model;
  model.set_context_length(4);
  const base::CancelToken cancel;
  const auto scores =
      ScoreRequests(model, {{{0, 0, 0, 0, 0, 3}, {0, 1}}}, {}, cancel);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_NEAR((*scores)[0].log_probability, -2 * kLikely, kRounding);
  EXPECT_EQ(model.longest_input(), 4);
  EXPECT_EQ(model.longest_announced(), 4);
}

TEST(ScoreRequests, RefusesEmptyAndOverlongOnes) {
  BigramModel model;
  model.set_context_length(2);
  const base::CancelToken cancel;
  const auto reason = [&](const Request& request) {
    return base::ErrorReason(
        ScoreRequests(model, {request}, {}, cancel).status());
  };
  EXPECT_EQ(reason({{}, {1}}), "WINDOW_INVALID");
  EXPECT_EQ(reason({{1}, {}}), "WINDOW_INVALID");
  EXPECT_EQ(reason({{1}, {1, 2, 3}}), "WINDOW_INVALID");
}

}  // namespace
}  // namespace quantd::evals
