// SPDX-License-Identifier: Apache-2.0
// The task on checkpoints whose losses were computed with another library
// (transformers, float32), over ready-made ids.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/status_macros.h"
#include "tests/support/test_data.h"
#include "tests/worker/evals/bigram_model.h"
#include "worker/checkpoints/reader.h"
#include "worker/evals/eval.h"

namespace quantd::evals {
namespace {

using nlohmann::json;

class FixturePerplexity : public testing::TestWithParam<const char*> {};

absl::StatusOr<v1::EvalReport> Evaluate(const std::string& model_path,
                                        const v1::Component& component) {
  ASSIGN_OR_RETURN(const auto reader, checkpoints::OpenCheckpoint(model_path));
  const auto loader = models::MakeDenseLoader(*reader);
  ASSIGN_OR_RETURN(const auto model, models::MakeModel(*reader, *loader));
  ASSIGN_OR_RETURN(const auto eval, MakeEval(component));
  const base::CancelToken cancel;
  return eval->Run({*model, DigitTokenizer(false), nullptr}, cancel);
}

TEST_P(FixturePerplexity, IsThatOfTheReferenceImplementation) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string path =
      support::TestData(absl::StrCat("fixtures/models/", GetParam()));
  const json golden =
      json::parse(base::ReadFile(absl::StrCat(path, "/golden.json")).value());
  const support::TemporaryDirectory folder;
  const std::string rows = folder.File("rows.jsonl");
  std::string bytes;
  for (const json& ids : golden.at("input_ids")) {
    absl::StrAppend(&bytes, json{{"input_ids", ids}}.dump(), "\n");
  }
  ASSERT_TRUE(base::WriteFileAtomically(rows, bytes).ok());
  v1::Component component;
  component.set_id("perplexity");
  (*component.mutable_params())["data"].set_string_value(rows);
  (*component.mutable_params())["window"].set_int_value(
      static_cast<int64_t>(golden.at("input_ids")[0].size()));
  const auto report = Evaluate(path, component);
  ASSERT_TRUE(report.ok()) << report.status();
  // One window a row, and as many tokens in each.
  double mean = 0;
  for (const json& row : golden.at("mean_nll")) {
    mean += row.get<double>() / static_cast<double>(golden["mean_nll"].size());
  }
  EXPECT_NEAR(report->metrics(1).value(), mean, 2e-4);
  EXPECT_NEAR(std::log(report->metrics(0).value()), mean, 2e-4);
  EXPECT_EQ(report->items(), static_cast<int64_t>(golden["mean_nll"].size()));
}

INSTANTIATE_TEST_SUITE_P(Families, FixturePerplexity,
                         testing::Values("llama", "mistral", "qwen3"));

}  // namespace
}  // namespace quantd::evals
