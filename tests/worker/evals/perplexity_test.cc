// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/worker/evals/bigram_model.h"
#include "worker/evals/eval.h"
#include "worker/evals/perplexity_windows.h"

namespace quantd::evals {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int64_t> Count(int64_t size) {
  std::vector<int64_t> ids(size);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// The tokens that windows over Count(n) score, in order.
std::vector<int64_t> Scored(const std::vector<Window>& windows) {
  std::vector<int64_t> ids;
  for (const Window& window : windows) {
    ids.insert(ids.end(), window.ids.begin() + window.first_scored,
               window.ids.end());
  }
  return ids;
}

std::string ReasonOf(const absl::StatusOr<std::vector<Window>>& windows) {
  return base::ErrorReason(windows.status());
}

TEST(DisjointWindows, DropTheTailAndEachFirstToken) {
  const auto windows = DisjointWindows(Count(10), {4, 4});
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(Scored(*windows), ElementsAre(1, 2, 3, 5, 6, 7));
}

TEST(DisjointWindows, NeedOneWholeWindow) {
  EXPECT_TRUE(DisjointWindows(Count(4), {4, 4}).ok());
  EXPECT_EQ(ReasonOf(DisjointWindows(Count(3), {4, 4})), "EVAL_TEXT_TOO_SHORT");
  EXPECT_EQ(ReasonOf(DisjointWindows(Count(3), {1, 1})), "EVAL_WINDOW_INVALID");
}

TEST(DisjointWindows, TheLimitTakesTheFirstOnes) {
  const auto windows = DisjointWindows(Count(12), {4, 4, 2});
  EXPECT_THAT(Scored(*windows), ElementsAre(1, 2, 3, 5, 6, 7));
}

TEST(StridedWindows, ScoreEveryTokenButTheFirstOnce) {
  for (int64_t size = 2; size <= 15; ++size) {
    for (int64_t window = 2; window <= 6; ++window) {
      for (int64_t stride = 1; stride < window; ++stride) {
        const auto windows = StridedWindows(Count(size), {window, stride});
        ASSERT_TRUE(windows.ok()) << windows.status();
        std::vector<int64_t> all = Count(size);
        all.erase(all.begin());
        EXPECT_EQ(Scored(*windows), all)
            << size << " tokens, window " << window << ", stride " << stride;
      }
    }
  }
}

TEST(StridedWindows, HaveTheContextOfTheDocumentation) {
  // Begins 0, 2, 4, 6; ends 4, 6, 8, 9.
  const auto windows = StridedWindows(Count(9), {4, 2});
  ASSERT_EQ(windows->size(), 4u);
  EXPECT_THAT((*windows)[1].ids, ElementsAre(2, 3, 4, 5));
  EXPECT_EQ((*windows)[1].first_scored, 2);
  EXPECT_THAT((*windows)[3].ids, ElementsAre(6, 7, 8));
  EXPECT_EQ((*windows)[3].first_scored, 2);
}

TEST(StridedWindows, WithoutOverlapEachFirstTokenIsLost) {
  // The last window of one token predicts nothing.
  const auto windows = StridedWindows(Count(9), {4, 4});
  EXPECT_THAT(Scored(*windows), ElementsAre(1, 2, 3, 5, 6, 7));
}

TEST(StridedWindows, AShortTextIsOneWindow) {
  const auto windows = StridedWindows(Count(3), {8, 2});
  ASSERT_EQ(windows->size(), 1u);
  EXPECT_THAT(Scored(*windows), ElementsAre(1, 2));
}

TEST(StridedWindows, GapsAreRefused) {
  EXPECT_EQ(ReasonOf(StridedWindows(Count(9), {4, 5})), "EVAL_WINDOW_INVALID");
  EXPECT_EQ(ReasonOf(StridedWindows(Count(9), {4, 0})), "EVAL_WINDOW_INVALID");
  EXPECT_EQ(ReasonOf(StridedWindows(Count(1), {4, 2})), "EVAL_TEXT_TOO_SHORT");
}

TEST(SecondHalfWindows, ScoreAsManyTokensAsLlamaCpp) {
  // 255 of each 512, from the 257th on.
  const auto windows = SecondHalfWindows(Count(1100), {512, 512});
  ASSERT_EQ(windows->size(), 2u);
  EXPECT_EQ(Scored(*windows).size(), 2 * 255u);
  EXPECT_EQ(Scored(*windows).front(), 257);
}

TEST(SecondHalfWindows, BosTakesTheFirstPlaceOfEachWindow) {
  const auto windows = SecondHalfWindows(Count(8), {4, 4, 0, 99});
  EXPECT_THAT((*windows)[0].ids, ElementsAre(99, 1, 2, 3));
  EXPECT_THAT((*windows)[1].ids, ElementsAre(99, 5, 6, 7));
  EXPECT_THAT(Scored(*windows), ElementsAre(3, 7));
}

TEST(SecondHalfWindows, NeedTwoWindowsOfText) {
  EXPECT_EQ(ReasonOf(SecondHalfWindows(Count(7), {4, 4})),
            "EVAL_TEXT_TOO_SHORT");
  EXPECT_EQ(ReasonOf(SecondHalfWindows(Count(7), {2, 2})),
            "EVAL_WINDOW_INVALID");
}

TEST(Summarize, GivesBothStandardErrors) {
  // Tokens 1 3 5 7: mean 4, E[x^2] = 21, error sqrt((21 - 16) / 3). Window
  // means 2 and 6: standard deviation sqrt(8), error sqrt(8 / 2) = 2.
  const LossSummary summary = Summarize({{{1, 3}}, {{5, 7}}});
  EXPECT_EQ(summary.tokens, 4);
  EXPECT_DOUBLE_EQ(summary.sum, 16);
  EXPECT_DOUBLE_EQ(summary.mean, 4);
  EXPECT_DOUBLE_EQ(summary.token_error, std::sqrt(5.0 / 3.0));
  EXPECT_DOUBLE_EQ(summary.window_mean, 4);
  EXPECT_DOUBLE_EQ(summary.window_error, 2);
}

TEST(Summarize, WindowsOfDifferentSizesWeighTheirTokensInTheMean) {
  const LossSummary summary = Summarize({{{1, 1, 1}}, {{5}}});
  EXPECT_DOUBLE_EQ(summary.mean, 2);
  EXPECT_DOUBLE_EQ(summary.window_mean, 3);
}

TEST(Summarize, OneTokenHasNoError) {
  const LossSummary summary = Summarize({{{2.5}}});
  EXPECT_EQ(summary.token_error, 0);
  EXPECT_EQ(summary.window_error, 0);
}

// The task on a file of `bytes` and the model that is computed by hand.
class PerplexityTask : public testing::Test {
 protected:
  void Text(const std::string& bytes) {
    const std::string path = folder_.File("text");
    ASSERT_TRUE(base::WriteFileAtomically(path, bytes).ok());
    Set("data", path);
  }
  void Set(const std::string& name, const std::string& value) {
    (*component_.mutable_params())[name].set_string_value(value);
  }
  void Set(const std::string& name, int64_t value) {
    (*component_.mutable_params())[name].set_int_value(value);
  }
  absl::StatusOr<v1::EvalReport> Run() {
    component_.set_id("perplexity");
    const auto eval = MakeEval(component_);
    if (!eval.ok()) return eval.status();
    const base::CancelToken cancel;
    return (*eval)->Run({model_, DigitTokenizer(adds_bos_), nullptr}, cancel);
  }
  static double Value(const v1::EvalReport& report, const std::string& name) {
    for (const v1::Metric& metric : report.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    ADD_FAILURE() << "no metric " << name;
    return 0;
  }

  const support::TemporaryDirectory folder_;
  v1::Component component_;
  BigramModel model_;
  bool adds_bos_ = false;
};

TEST_F(PerplexityTask, IsTwoWhereEveryTokenHasProbabilityOneHalf) {
  Text("0123 0123 0123");
  Set("window", 4);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(Value(*report, "perplexity"), 2, 1e-6);
  EXPECT_NEAR(Value(*report, "nll"), std::log(2.0), 1e-6);
  EXPECT_EQ(report->items(), 3);
  EXPECT_EQ(report->protocol().at("tokens_scored"), "9");
}

TEST_F(PerplexityTask, IsTheGeometricMeanOverTokens) {
  // Windows 0 1 2 and 0 0 1: losses ln2 ln2, ln6 ln2.
  Text("012001");
  Set("window", 3);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(Value(*report, "perplexity"), std::pow(2.0 * 2 * 6 * 2, 0.25),
              1e-5);
  const double a = std::log(2.0);
  const double b = std::log(6.0);
  const double mean = (3 * a + b) / 4;
  const double token_error =
      std::sqrt(((3 * a * a + b * b) / 4 - mean * mean) / 3);
  // Window means ln2 and (ln6 + ln2) / 2: half their difference.
  EXPECT_NEAR(report->metrics(1).standard_error(), token_error, 1e-6);
  EXPECT_NEAR(report->metrics(2).standard_error(), (b - a) / 4, 1e-6);
  EXPECT_NEAR(report->metrics(0).standard_error(), token_error * std::exp(mean),
              1e-5);
}

TEST_F(PerplexityTask, ReadyMadeIdsAreTakenAsTheyAre) {
  adds_bos_ = true;
  Text("{\"input_ids\": [0, 1, 2]}\n{\"input_ids\": [3, 0, 1]}\n");
  Set("window", 3);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(Value(*report, "perplexity"), 2, 1e-6);
  EXPECT_EQ(report->protocol().at("join"), "input_ids");
  EXPECT_EQ(report->protocol().at("bos"), "none");
}

TEST_F(PerplexityTask, IdsOutsideOfTheVocabularyAreRefusedByRow) {
  Text("{\"input_ids\": [0, 1, 2]}\n\n{\"input_ids\": [3, 4, 1]}\n");
  Set("window", 3);
  Set("windows", 1);
  const absl::Status status = Run().status();
  EXPECT_EQ(base::ErrorReason(status), "TOKEN_OUT_OF_RANGE") << status;
  EXPECT_EQ(base::GetErrorMetadata(status)["row"], "3");
  EXPECT_THAT(std::string(status.message()), HasSubstr("input_ids[1] is 4"));
}

TEST_F(PerplexityTask, BosStandsWhereTheProtocolWantsIt) {
  adds_bos_ = true;
  // With BOS (3) before it: 3 0 1 | 2 3 0 are all likely.
  Text("01230");
  Set("window", 3);
  const auto gptq = Run();
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_NEAR(Value(*gptq, "perplexity"), 2, 1e-6);
  EXPECT_EQ(gptq->protocol().at("bos"), "once, before the text");
  Set("protocol", "llamacpp");
  const auto llamacpp = Run();
  ASSERT_TRUE(llamacpp.ok()) << llamacpp.status();
  EXPECT_EQ(llamacpp->protocol().at("bos"), "first token of each window");
  EXPECT_EQ(llamacpp->protocol().at("tokens_scored"), "2");
}

TEST_F(PerplexityTask, TheStridedProtocolScoresEveryTokenButOne) {
  Text("0123012301");
  Set("protocol", "hf_strided");
  Set("window", 4);
  Set("stride", 2);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->protocol().at("tokens_scored"), "9");
  EXPECT_EQ(report->protocol().at("stride"), "2");
  EXPECT_NEAR(Value(*report, "perplexity"), 2, 1e-6);
}

TEST_F(PerplexityTask, TheReportSaysEverythingThatFixesTheNumber) {
  Text("01230123");
  Set("window", 4);
  Set("windows", 1);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  const std::map<std::string, std::string> protocol(report->protocol().begin(),
                                                    report->protocol().end());
  for (const char* key :
       {"protocol", "data", "data_sha256", "join", "tokenizer_sha256", "bos",
        "window", "stride", "windows", "tokens", "tokens_scored", "nll_sum",
        "logits_dtype", "sum_dtype"}) {
    EXPECT_EQ(protocol.count(key), 1u) << key;
  }
  EXPECT_EQ(protocol.at("data"), "text");  // No folder of the machine.
  EXPECT_EQ(protocol.at("windows"), "1");
  EXPECT_EQ(protocol.at("window"), "4");
}

TEST_F(PerplexityTask, TheDefaultWindowIsNotAboveTheModelsContext) {
  model_.set_context_length(5);
  Text("0123012301230");
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->protocol().at("window"), "5");
  Set("window", 6);
  EXPECT_EQ(base::ErrorReason(Run().status()), "EVAL_WINDOW_INVALID");
}

TEST_F(PerplexityTask, AStrideNeedsTheStridedProtocol) {
  Text("0123012301230");
  Set("window", 4);
  Set("stride", 2);
  EXPECT_THAT(Run().status().message(), HasSubstr("hf_strided"));
}

TEST_F(PerplexityTask, UnknownNamesAreRefused) {
  Text("0123");
  Set("protocol", "best");
  EXPECT_EQ(base::ErrorReason(Run().status()), "PARAMETER_INVALID");
  v1::Component other;
  other.set_id("perplexty");
  EXPECT_EQ(base::ErrorReason(MakeEval(other).status()), "COMPONENT_UNKNOWN");
}

}  // namespace
}  // namespace quantd::evals
