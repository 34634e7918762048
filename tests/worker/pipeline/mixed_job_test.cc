// SPDX-License-Identifier: Apache-2.0
// Whole jobs in which a strategy chooses the formats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/spec/mixed_config.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/formats/format.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Groups of 32 with float16 scales: 2.5, 3.5, 4.5 and 8.5 bits.
constexpr double kAverageBits = 3.9;
constexpr char kFormats[] = "int2+int3+int4+int8";

v1::Component& Strategy(const std::string& id, v1::JobSpec& spec) {
  v1::Component& strategy = *RecipeOf(spec).mutable_mixed();
  strategy.set_id(id);
  return strategy;
}

v1::JobSpec SensitivityJob(const std::string& method = "gptq") {
  v1::JobSpec spec = TinyJob(method);
  auto& params = *Strategy("sensitivity", spec).mutable_params();
  params["average_bits"].set_double_value(kAverageBits);
  params["formats"].set_string_value(kFormats);
  return spec;
}

// The digests of an export's files and of its manifest.
std::map<std::string, std::string> ArtifactOf(const LocalAgent& agent) {
  std::map<std::string, std::string> digests;
  const int step = agent.StepOfKind("export");
  for (const auto& [role, blob] : agent.start_.committed(step).blobs()) {
    if (absl::StartsWith(role, "file:") || role == "manifest") {
      digests[role] = blob.sha256();
    }
  }
  return digests;
}

std::map<std::string, std::string> FormatsOf(const v1::JobReport& report) {
  std::map<std::string, std::string> formats;
  for (const v1::LayerReport& layer : report.layers()) {
    formats[layer.name()] = layer.format();
  }
  return formats;
}

absl::StatusOr<v1::JobReport> ReportOf(LocalAgent& agent) {
  auto result = agent.Run();
  if (!result.ok()) return result.status();
  return result->report;
}

TEST(MixedJobTest, SpendsABudgetOnSeveralFormats) {
  LocalAgent agent(SensitivityJob());
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LE(report->bits_per_weight(), kAverageBits);
  // Nothing can be raised any more: the smallest module is 1/20 of the model.
  EXPECT_GT(report->bits_per_weight(), kAverageBits - 0.05);
  std::set<std::string> used;
  for (const auto& [name, format] : FormatsOf(*report)) used.insert(format);
  EXPECT_GE(used.size(), 2u);
}

TEST(MixedJobTest, ReportsWhatEveryCandidateCosts) {
  LocalAgent agent(SensitivityJob());
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  const v1::MixedReport& mixed = report->mixed();
  EXPECT_EQ(mixed.strategy(), "sensitivity");
  EXPECT_THAT(mixed.formats(), ElementsAre("int2", "int3", "int4", "int8"));
  ASSERT_EQ(mixed.modules_size(), 14);
  const std::map<std::string, std::string> formats = FormatsOf(*report);
  double loss = 0;
  for (const v1::ModuleChoice& row : mixed.modules()) {
    EXPECT_THAT(row.bits_per_weight(), ElementsAre(2.5, 3.5, 4.5, 8.5));
    ASSERT_EQ(row.losses_size(), 4);
    EXPECT_EQ(row.format(), formats.at(row.name()));
    for (int i = 0; i < 4; ++i) {
      if (i > 0) {
        EXPECT_LT(row.losses(i), row.losses(i - 1)) << row.name();
      }
      if (mixed.formats(i) == row.format()) loss += row.losses(i);
    }
  }
  EXPECT_NEAR(mixed.loss(), loss, 1e-12);
  EXPECT_EQ(mixed.loss_bound(), mixed.loss());
}

// The tokens of a job before the first block: what its attention reads.
calibration::Statistics FirstStatistics(const LocalAgent& agent,
                                        models::Model& model,
                                        const models::Block& block) {
  const int step = agent.StepOfKind("load");
  const at::Tensor tokens =
      checkpoints::ReadSafetensors(agent.BlobFile(step, "tokens"))
          ->at("tokens");
  calibration::GramAccumulator gram(model.hidden_size(), at::kCPU);
  for (int64_t i = 0; i < tokens.size(0); ++i) {
    models::SequenceState state;
    state.residual = *model.Embed(tokens[i]);
    block.Begin(&state);
    EXPECT_TRUE(gram.Add(state.input, base::CancelToken()).ok());
  }
  calibration::Statistics statistics;
  EXPECT_TRUE(gram.Finish(&statistics).ok());
  return statistics;
}

// Losses of one module differ by its rounding errors alone.
TEST(MixedJobTest, LossesOfJoinedLayersHaveTheirOneTensorScale) {
  v1::JobSpec spec = TinyJob("rtn");
  auto& params = *Strategy("sensitivity", spec).mutable_params();
  params["average_bits"].set_double_value(6);
  params["formats"].set_string_value("nvfp4+int8");
  RecipeOf(spec).mutable_exports(0)->set_id("dequantized");
  LocalAgent agent(spec);
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto reader = *checkpoints::OpenCheckpoint(TinyInputs().File("tiny"));
  const auto loader = models::MakeDenseLoader(*reader);
  const auto model = *models::MakeModel(*reader, *loader);
  const auto block = *model->LoadBlock(0, 48);
  const auto statistics = FirstStatistics(agent, *model, *block);
  const auto& stage = block->stages().front().linears;
  ASSERT_EQ(stage.size(), 3u);
  formats::WeightSpec nvfp4{"nvfp4", 16};
  for (const std::string& name : stage) {
    nvfp4.shared_range =
        std::max(nvfp4.shared_range,
                 block->linear(name).DenseWeight().abs().max().item<float>());
  }
  int seen = 0;
  for (const v1::ModuleChoice& row : report->mixed().modules()) {
    if (std::find(stage.begin(), stage.end(), row.name()) == stage.end()) {
      continue;
    }
    const at::Tensor weight = block->linear(row.name()).DenseWeight();
    const auto error = [&](const formats::WeightSpec& of) {
      return methods::RelativeError(
          weight, *formats::RoundToNearest(weight, of), &statistics);
    };
    EXPECT_NEAR(row.losses(0) / row.losses(1),
                error(nvfp4) / error({"int8", 32}),
                1e-6 * row.losses(0) / row.losses(1))
        << row.name();
    ++seen;
  }
  EXPECT_EQ(seen, 3);
}

// The bundled model, whose layers differ as those of trained models do; in
// groups of 64 int3 takes 3.25 bits.
v1::JobSpec TrainedJob() {
  v1::JobSpec spec =
      JobOver(support::SourcePath("deploy/models/tiny"), "bundled", "rtn");
  v1::Recipe& recipe = RecipeOf(spec);
  recipe.mutable_weights()->set_format("int3");
  recipe.mutable_weights()->set_group_size(64);
  recipe.mutable_calibration()->set_num_samples(8);
  recipe.mutable_calibration()->set_sequence_length(128);
  v1::Component* task = recipe.add_evals();
  task->set_id("perplexity");
  auto& params = *task->mutable_params();
  params["window"].set_int_value(128);
  params["windows"].set_int_value(32);
  return spec;
}

double QuantizedPerplexity(const v1::JobReport& report) {
  for (const v1::EvalReport& eval : report.evals()) {
    if (eval.subject() != "quantized") continue;
    for (const v1::Metric& metric : eval.metrics()) {
      if (metric.name() == "perplexity") return metric.value();
    }
  }
  return 0;
}

TEST(MixedJobTest, TheSameBitsServeATrainedModelBetterThanSpentEvenly) {
  LocalAgent even(TrainedJob());
  const auto even_report = ReportOf(even);
  ASSERT_TRUE(even_report.ok()) << even_report.status();
  EXPECT_EQ(even_report->bits_per_weight(), 3.25);
  v1::JobSpec spec = TrainedJob();
  auto& params = *Strategy("sensitivity", spec).mutable_params();
  params["average_bits"].set_double_value(3.25);
  params["formats"].set_string_value(kFormats);
  LocalAgent mixed(spec);
  const auto report = ReportOf(mixed);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LE(report->bits_per_weight(), 3.25);
  double even_loss = 0;
  for (const v1::ModuleChoice& row : report->mixed().modules()) {
    even_loss += row.losses(1);
  }
  EXPECT_LT(report->mixed().loss(), even_loss);
  EXPECT_LT(QuantizedPerplexity(*report), QuantizedPerplexity(*even_report))
      << "losses " << report->mixed().loss() << " and " << even_loss;
}

TEST(MixedJobTest, TheFileInTheArtifactMakesTheSameArtifactAgain) {
  LocalAgent measured(SensitivityJob());
  ASSERT_TRUE(measured.Run().ok());
  const std::string file =
      measured.BlobFile(measured.StepOfKind("export"), "file:mixed.json");
  v1::JobSpec spec = TinyJob("gptq");
  ASSERT_TRUE(
      spec::ApplyMixedConfig(*base::ReadFile(file), &RecipeOf(spec)).ok());
  LocalAgent stated(spec);
  const auto report = ReportOf(stated);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->has_mixed());
  EXPECT_EQ(ArtifactOf(stated), ArtifactOf(measured));
}

TEST(MixedJobTest, AJobKilledAfterAnyStepEndsInTheSameBytes) {
  v1::JobSpec spec = SensitivityJob();
  RecipeOf(spec).set_quantize_lm_head(true);
  LocalAgent undisturbed(spec);
  ASSERT_TRUE(undisturbed.Run().ok());
  const int measured = undisturbed.StepOfKind("block");
  // Load, two blocks and the head.
  ASSERT_EQ(measured, 4);
  for (int step = 1; step <= measured + 1; ++step) {
    LocalAgent agent(spec);
    agent.stop_before_ = step;
    ASSERT_FALSE(agent.Run().ok());
    agent.stop_before_ = -1;
    ASSERT_TRUE(agent.Run().ok());
    EXPECT_EQ(agent.BlobDigests(), undisturbed.BlobDigests()) << step;
    // Nothing was done twice.
    EXPECT_EQ(agent.steps_run_, undisturbed.steps_run_) << step;
  }
}

TEST(MixedJobTest, LostActivationsOfTheMeasurementAreComputedAgain) {
  LocalAgent undisturbed(SensitivityJob());
  ASSERT_TRUE(undisturbed.Run().ok());
  LocalAgent agent(SensitivityJob());
  agent.stop_before_ = 2;
  ASSERT_FALSE(agent.Run().ok());
  agent.LoseBlob(1, "activations");
  agent.stop_before_ = -1;
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(ArtifactOf(agent), ArtifactOf(undisturbed));
}

TEST(MixedJobTest, ACancelledMeasurementStops) {
  LocalAgent agent(SensitivityJob());
  agent.stop_before_ = 1;
  ASSERT_FALSE(agent.Run().ok());
  agent.cancel_.Cancel();
  EXPECT_TRUE(absl::IsCancelled(agent.Run().status()));
}

TEST(MixedJobTest, OverridesAreNotTouched) {
  v1::JobSpec spec = SensitivityJob();
  (*RecipeOf(spec).mutable_mixed()->mutable_params())["average_bits"]
      .set_double_value(5.5);
  v1::Override* skipped = RecipeOf(spec).add_overrides();
  skipped->set_pattern("*.v_proj");
  skipped->set_skip(true);
  v1::Override* stated = RecipeOf(spec).add_overrides();
  stated->set_pattern("*.layers.0.mlp.*");
  stated->set_wq("int8");
  LocalAgent agent(spec);
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LE(report->bits_per_weight(), 5.5);
  for (const auto& [name, format] : FormatsOf(*report)) {
    EXPECT_FALSE(absl::StrContains(name, "v_proj")) << name;
    if (absl::StrContains(name, "layers.0.mlp")) {
      EXPECT_EQ(format, "int8");
    }
  }
  EXPECT_EQ(report->mixed().modules_size(), 14 - 2 - 3);
}

TEST(MixedJobTest, WholeBlocksBecomeOneRowEach) {
  v1::JobSpec spec = SensitivityJob();
  (*RecipeOf(spec).mutable_mixed()->mutable_params())["unit"].set_string_value(
      "block");
  LocalAgent agent(spec);
  ASSERT_TRUE(agent.Run().ok());
  v1::Recipe recipe;
  const std::string file =
      agent.BlobFile(agent.StepOfKind("export"), "file:mixed.json");
  ASSERT_TRUE(spec::ApplyMixedConfig(*base::ReadFile(file), &recipe).ok());
  ASSERT_EQ(recipe.overrides_size(), 2);
  EXPECT_EQ(recipe.overrides(0).pattern(), "model.layers.0.*");
  EXPECT_EQ(recipe.overrides(1).pattern(), "model.layers.1.*");
}

TEST(MixedJobTest, TheEndsGetTheirFormatWithoutMeasuring) {
  v1::JobSpec spec = TinyJob("rtn");
  (*Strategy("ends", spec).mutable_params())["last"].set_int_value(0);
  LocalAgent agent(spec);
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(agent.StepOfKind("measure"), -1);
  for (const v1::LayerReport& layer : report->layers()) {
    EXPECT_EQ(layer.format(), layer.block() == 0 ? "int8" : "int4")
        << layer.name();
  }
}

TEST(MixedJobTest, ABudgetThatCannotBeMetIsRefusedBeforeAnyWork) {
  v1::JobSpec spec = SensitivityJob();
  (*RecipeOf(spec).mutable_mixed()->mutable_params())["average_bits"]
      .set_double_value(2.4);
  LocalAgent agent(spec);
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "MIXED_BUDGET_TOO_SMALL") << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at least 2.50"));
  EXPECT_EQ(agent.steps_run_, 0);
}

TEST(MixedJobTest, ACandidateThatTheExportCannotStoreIsRefusedAtOnce) {
  v1::JobSpec spec = SensitivityJob();
  (*RecipeOf(spec).mutable_mixed()->mutable_params())["formats"]
      .set_string_value("int4+nf4");
  LocalAgent agent(spec);
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID") << status;
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr("nf4"), HasSubstr("dequantized")));
  EXPECT_EQ(agent.steps_run_, 0);
}

TEST(PlanModelTest, ListsEveryModuleAndTheHead) {
  v1::JobSpec spec = TinyJob("gptq");
  v1::Override* row = RecipeOf(spec).add_overrides();
  row->set_pattern("model.layers.0.*");
  row->set_wq("int8");
  const auto plan = PlanModel(spec);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->family(), "llama");
  ASSERT_EQ(plan->modules_size(), 15);
  EXPECT_EQ(plan->modules(0).name(), "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(plan->modules(0).format(), "int8");
  EXPECT_EQ(plan->modules(0).bits_per_weight(), 8.5);
  EXPECT_EQ(plan->modules(7).format(), "int4");
  EXPECT_TRUE(plan->modules(14).skip());
  EXPECT_EQ(plan->modules(14).name(), "lm_head");
  EXPECT_EQ(plan->bits_per_weight(), 6.5);
  LocalAgent agent(spec);
  const auto report = ReportOf(agent);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(plan->float_bytes(), report->float_bytes());
  // Besides what is counted the files have headers and configs.
  EXPECT_LE(plan->estimated_bytes(), report->quantized_bytes());
  EXPECT_GT(plan->estimated_bytes(), report->quantized_bytes() * 0.8);
}

TEST(PlanModelTest, LeavesOpenWhatIsChosenAfterMeasuring) {
  v1::JobSpec spec = SensitivityJob();
  v1::Override* row = RecipeOf(spec).add_overrides();
  row->set_pattern("*.o_proj");
  row->set_wq("int4");
  const auto plan = PlanModel(spec);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->bits_per_weight(), kAverageBits);
  for (const v1::PlannedModule& module : plan->modules()) {
    if (module.skip()) continue;
    const bool stated = absl::EndsWith(module.name(), "o_proj");
    EXPECT_EQ(module.format(), stated ? "int4" : "") << module.name();
  }
}

TEST(PlanModelTest, APatternThatMatchesNothingNamesTheNearestModules) {
  v1::JobSpec spec = TinyJob("gptq");
  RecipeOf(spec).add_overrides()->set_pattern("model.layers.0.mlp.gate");
  const absl::Status status = PlanModel(spec).status();
  EXPECT_EQ(base::ErrorReason(status), "PATTERN_MATCHES_NOTHING");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model.layers.0.mlp.gate_proj"));
}

}  // namespace
}  // namespace quantd::pipeline
