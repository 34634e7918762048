// SPDX-License-Identifier: Apache-2.0
// What every evaluation task must do, with each of its choices, on a small
// random model and the data that it takes by default.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "worker/evals/eval.h"
#include "worker/pipeline/source_model.h"

namespace quantd::contract {
namespace {

// The default task, then one for each other choice of each parameter.
std::vector<v1::Component> Variants(const std::string& id) {
  v1::Component plain;
  plain.set_id(id);
  std::vector<v1::Component> variants = {plain};
  for (const v1::Parameter& parameter : Describe(v1::SEAM_EVAL, id).params()) {
    for (const std::string& choice : parameter.choices()) {
      if (choice == parameter.default_value().string_value()) continue;
      v1::Component variant = plain;
      (*variant.mutable_params())[parameter.name()].set_string_value(choice);
      variants.push_back(variant);
    }
  }
  return variants;
}

class EvalContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    // One narrow block: every token of the task's data goes through it.
    support::WriteTinyLlama({.hidden = 16,
                             .intermediate = 16,
                             .layers = 1,
                             .heads = 2,
                             .kv_heads = 1,
                             .context = 128},
                            folder_.File("tiny"));
    auto source = pipeline::OpenSource(folder_.File("tiny"), at::kCPU);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    tokenizer_ = *source_.MakeTokenizer();
  }

  absl::StatusOr<v1::EvalReport> Run(const v1::Component& task) {
    const auto eval = evals::MakeEval(task);
    if (!eval.ok()) return eval.status();
    reported_.clear();
    return (*eval)->Run({*source_.model, *tokenizer_,
                         [this](int64_t done, int64_t total) {
                           reported_.push_back({done, total});
                         }},
                        cancel_);
  }

  const support::TemporaryDirectory folder_;
  pipeline::SourceModel source_;
  std::unique_ptr<tokenizers::Tokenizer> tokenizer_;
  base::CancelToken cancel_;
  // Done and total of each call.
  std::vector<std::pair<int64_t, int64_t>> reported_;
};

TEST_P(EvalContract, EveryChoiceGivesFiniteNumbersWithTheirErrors) {
  for (const v1::Component& task : Variants(GetParam())) {
    SCOPED_TRACE(task.ShortDebugString());
    const auto report = Run(task);
    if (base::ErrorReason(report.status()) == "DATASET_MISSING") continue;
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->task(), GetParam());
    EXPECT_GT(report->items(), 0);
    EXPECT_FALSE(report->protocol().empty());
    ASSERT_FALSE(report->metrics().empty());
    for (const v1::Metric& metric : report->metrics()) {
      EXPECT_FALSE(metric.name().empty());
      EXPECT_TRUE(std::isfinite(metric.value())) << metric.name();
      EXPECT_TRUE(std::isfinite(metric.standard_error())) << metric.name();
      EXPECT_GE(metric.standard_error(), 0) << metric.name();
    }
    EXPECT_GE(report->seconds(), 0);
  }
}

TEST_P(EvalContract, ProgressGrowsToItsTotal) {
  const auto report = Run(Variants(GetParam()).front());
  if (base::ErrorReason(report.status()) == "DATASET_MISSING") {
    GTEST_SKIP() << "the task's data is not here";
  }
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_FALSE(reported_.empty());
  int64_t before = 0;
  for (const auto& [done, total] : reported_) {
    EXPECT_GE(done, before);
    EXPECT_LE(done, total);
    before = done;
  }
  EXPECT_EQ(reported_.back().first, reported_.back().second);
}

TEST_P(EvalContract, TheSameModelGetsTheSameNumbers) {
  const v1::Component task = Variants(GetParam()).front();
  const auto first = Run(task);
  if (base::ErrorReason(first.status()) == "DATASET_MISSING") {
    GTEST_SKIP() << "the task's data is not here";
  }
  const auto second = Run(task);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  ASSERT_EQ(first->metrics_size(), second->metrics_size());
  for (int i = 0; i < first->metrics_size(); ++i) {
    EXPECT_EQ(first->metrics(i).value(), second->metrics(i).value());
    EXPECT_EQ(first->metrics(i).standard_error(),
              second->metrics(i).standard_error());
  }
}

TEST_P(EvalContract, CancelIsSeen) {
  cancel_.Cancel();
  const absl::Status status = Run(Variants(GetParam()).front()).status();
  if (base::ErrorReason(status) == "DATASET_MISSING") {
    GTEST_SKIP() << "the task's data is not here";
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
}

TEST_P(EvalContract, DataThatIsNotThereIsMissing) {
  for (const v1::Parameter& parameter :
       Describe(v1::SEAM_EVAL, GetParam()).params()) {
    if (parameter.name() != "data") continue;
    v1::Component task;
    task.set_id(GetParam());
    (*task.mutable_params())["data"].set_string_value("/no/such/place/file");
    const absl::Status status = Run(task).status();
    EXPECT_EQ(base::ErrorReason(status), "DATASET_MISSING") << status;
    EXPECT_EQ(status.message().find("/no/such"), absl::string_view::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, EvalContract,
                         testing::ValuesIn(Ids(v1::SEAM_EVAL)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
