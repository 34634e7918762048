// SPDX-License-Identifier: Apache-2.0
// Whole jobs on the small mixture-of-experts checkpoints of fixtures/models:
// per-expert tensors in shards (mixtral), fused ones (olmoe), and a dense layer
// among sparse ones (qwen3_moe).
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/exports/export.h"
#include "worker/exports/simulation_config.h"
#include "worker/steps/block_file.h"

namespace quantd::pipeline {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kSampled = 8 * 48;

// A reference checkpoint with the tokenizer that it lacks: bytes are tokens.
std::string WithTokenizer(const std::string& fixture, const std::string& to) {
  support::WriteTinyLlama({}, to);
  for (const char* own : {"config.json", "model.safetensors"}) {
    fs::remove(fs::path(to) / own);
  }
  for (const auto& file : fs::directory_iterator(
           support::TestData(absl::StrCat("fixtures/models/", fixture)))) {
    fs::copy(file.path(), fs::path(to) / file.path().filename());
  }
  fs::remove(fs::path(to) / "golden.safetensors");
  return to;
}

class MixtureJobTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_TEST_DATA();
    WriteFoxText(folder_.File("text.txt"));
  }
  v1::JobSpec Job(const std::string& fixture) {
    const std::string model = folder_.File(fixture);
    if (!fs::exists(model)) WithTokenizer(fixture, model);
    v1::JobSpec spec = JobOver(model, folder_.File("text.txt"), "gptq");
    RecipeOf(spec).mutable_calibration()->set_num_samples(8);
    return spec;
  }
  static void SetMinTokens(double fraction, v1::JobSpec* spec) {
    (*RecipeOf(*spec).mutable_method()->mutable_params())["min_tokens"]
        .set_double_value(fraction);
  }
  static void AddOverride(const std::string& pattern, bool skip,
                          v1::JobSpec* spec) {
    v1::Override* row = RecipeOf(*spec).add_overrides();
    row->set_pattern(pattern);
    if (skip) {
      row->set_skip(true);
    } else {
      row->set_wq("int8");
    }
  }
  // The files of an export as a checkpoint.
  static std::unique_ptr<checkpoints::CheckpointReader> OpenExport(
      const LocalAgent& agent, const std::string& to) {
    const int step = agent.StepOfKind("export");
    fs::create_directories(to);
    for (const auto& [role, blob] : agent.start_.committed(step).blobs()) {
      if (!absl::StartsWith(role, "file:")) continue;
      fs::create_symlink(agent.BlobFile(step, role),
                         fs::path(to) / role.substr(5));
    }
    auto reader = checkpoints::OpenCheckpoint(to);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }

  const support::TemporaryDirectory folder_;
};

bool IsExpert(const std::string& name) {
  return absl::StrContains(name, ".experts.");
}

struct Family {
  const char* fixture;
  // What an expert's linears are called, and its router, in block 1.
  const char* expert;
  const char* gate;
  const char* up;
  const char* down;
  const char* router;
  int64_t sparse_layers;
};

constexpr Family kFamilies[] = {
    {"mixtral", "model.layers.1.block_sparse_moe.experts.3.", "w1", "w3", "w2",
     "model.layers.1.block_sparse_moe.gate.weight", 2},
    {"olmoe", "model.layers.1.mlp.experts.3.", "gate_proj", "up_proj",
     "down_proj", "model.layers.1.mlp.gate.weight", 2},
    {"qwen3_moe", "model.layers.1.mlp.experts.3.", "gate_proj", "up_proj",
     "down_proj", "model.layers.1.mlp.gate.weight", 1}};

TEST_F(MixtureJobTest, ExpertsInputsAreRotatedAtRunTimeWhereThatIsAskedFor) {
  for (const char* fixture : {"mixtral", "olmoe", "qwen3_moe"}) {
    SCOPED_TRACE(fixture);
    v1::JobSpec spec = Job(fixture);
    SetMinTokens(0, &spec);
    v1::Recipe& recipe = RecipeOf(spec);
    recipe.set_activations("int8");
    v1::Component* rotations = recipe.add_transforms();
    rotations->set_id("quarot");
    (*rotations->mutable_params())["online"].set_string_value("all");
    recipe.mutable_exports(0)->set_id("dequantized");
    LocalAgent agent(spec);
    const auto result = agent.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->report.verify_max_difference(), 0);
    const auto artifact =
        OpenExport(agent, folder_.File(absl::StrCat(fixture, "-rotated")));
    const auto& rotated =
        artifact->config()[exports::kSimulationKey]["rotations"];
    for (const v1::LayerReport& layer : result->report.layers()) {
      const bool expected = absl::EndsWith(layer.name(), "down_proj") ||
                            absl::EndsWith(layer.name(), "w2") ||
                            absl::EndsWith(layer.name(), "o_proj");
      EXPECT_EQ(rotated.contains(layer.name()), expected) << layer.name();
    }
  }
}

TEST_F(MixtureJobTest, EveryExpertIsQuantizedByItsOwnTokens) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.fixture);
    v1::JobSpec spec = Job(family.fixture);
    SetMinTokens(0, &spec);
    v1::Component* task = RecipeOf(spec).add_evals();
    task->set_id("perplexity");
    (*task->mutable_params())["window"].set_int_value(48);
    (*task->mutable_params())["windows"].set_int_value(4);
    LocalAgent agent(spec);
    const auto result = agent.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT(result->report.verify_max_difference(), 1e-4);
    ASSERT_EQ(result->report.evals_size(), 2);
    EXPECT_NEAR(result->report.evals(1).metrics(0).value() /
                    result->report.evals(0).metrics(0).value(),
                1, 0.2);
    int64_t gate_tokens = 0;
    double error = 0;
    double rtn_error = 0;
    for (const v1::LayerReport& layer : result->report.layers()) {
      error += layer.relative_error();
      rtn_error += layer.rtn_relative_error();
      if (!IsExpert(layer.name())) {
        EXPECT_EQ(layer.tokens(), kSampled) << layer.name();
      } else if (absl::EndsWith(layer.name(), family.gate)) {
        gate_tokens += layer.tokens();
      }
    }
    // Every token goes to two experts of each sparse layer.
    EXPECT_EQ(gate_tokens, 2 * family.sparse_layers * kSampled);
    EXPECT_LT(error, 0.9 * rtn_error);
  }
}

TEST_F(MixtureJobTest, AllLinearsOfAnExpertReportTheSameCount) {
  v1::JobSpec spec = Job("qwen3_moe");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  std::map<std::string, std::set<int64_t>> counts;
  for (const v1::LayerReport& layer : result->report.layers()) {
    const std::string expert = layer.name().substr(0, layer.name().rfind('.'));
    if (IsExpert(layer.name())) counts[expert].insert(layer.tokens());
  }
  EXPECT_EQ(counts.size(), 8u);
  std::set<int64_t> different;
  for (const auto& [expert, tokens] : counts) {
    EXPECT_EQ(tokens.size(), 1u) << expert;
    different.insert(tokens.begin(), tokens.end());
  }
  EXPECT_GT(different.size(), 1u);
}

TEST_F(MixtureJobTest, ExportsHaveTheFamilysNamesAndTheSourcesRouter) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.fixture);
    LocalAgent agent(Job(family.fixture));
    ASSERT_TRUE(agent.Run().ok());
    const auto source =
        checkpoints::OpenCheckpoint(folder_.File(family.fixture));
    const auto written = OpenExport(
        agent, folder_.File(absl::StrCat("export-", family.fixture)));
    for (const char* linear : {family.gate, family.up, family.down}) {
      for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
        EXPECT_TRUE(written->tensors().contains(
            absl::StrCat(family.expert, linear, ".", part)))
            << linear << " " << part;
      }
    }
    for (const auto& [name, info] : written->tensors()) {
      EXPECT_FALSE(absl::EndsWith(name, "experts.gate_up_proj")) << name;
      EXPECT_FALSE(absl::EndsWith(name, "experts.down_proj")) << name;
    }
    EXPECT_TRUE(
        written->Read(family.router)->equal(*(*source)->Read(family.router)));
  }
}

TEST_F(MixtureJobTest, FloatExportsOfFusedExpertsAreOnePerExpert) {
  v1::JobSpec spec = Job("olmoe");
  AddOverride("*.experts.3.*", /*skip=*/true, &spec);
  RecipeOf(spec).mutable_exports(0)->set_id("dequantized");
  (*RecipeOf(spec).mutable_exports(0)->mutable_params())["dtype"]
      .set_string_value("float32");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const auto source = *checkpoints::OpenCheckpoint(folder_.File("olmoe"));
  const auto written = OpenExport(agent, folder_.File("float"));
  ASSERT_EQ(written->tensors().size(), source->tensors().size());
  for (const auto& [name, info] : written->tensors()) {
    ASSERT_TRUE(source->tensors().contains(name)) << name;
    const bool quantized = absl::StrContains(name, "_proj.") &&
                           !absl::StrContains(name, ".experts.3.");
    EXPECT_EQ(written->Read(name)->equal(*source->Read(name)), !quantized)
        << name;
  }
}

TEST_F(MixtureJobTest, FromEveryStepTheSameBytesComeBack) {
  LocalAgent undisturbed(Job("qwen3_moe"));
  ASSERT_TRUE(undisturbed.Run().ok());
  const std::vector<std::string> expected = undisturbed.BlobDigests();
  const int steps = undisturbed.start_.committed_size();
  for (int kept = 0; kept < steps; ++kept) {
    undisturbed.KeepSteps(kept);
    ASSERT_TRUE(undisturbed.Run().ok()) << kept;
    EXPECT_EQ(undisturbed.BlobDigests(), expected) << kept;
  }
}

TEST_F(MixtureJobTest, LostActivationsOfASparseBlockComeBack) {
  LocalAgent agent(Job("mixtral"));
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  agent.KeepSteps(2);
  agent.LoseBlob(1, "activations");
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
}

TEST_F(MixtureJobTest, OneMatrixAtATimeGivesTheSameBytes) {
  LocalAgent all(Job("olmoe"));
  ASSERT_TRUE(all.Run().ok());
  LocalAgent one(Job("olmoe"));
  one.start_.set_memory_reduction(1);
  ASSERT_TRUE(one.Run().ok());
  EXPECT_EQ(one.BlobDigests(), all.BlobDigests());
}

// Products of a general library may sum in another order beside others.
TEST_F(MixtureJobTest, NeighboursDoNotChangeTheBytes) {
  for (const char* method : {"gptq", "adaround", "autoround"}) {
    SCOPED_TRACE(method);
    v1::JobSpec spec = Job("qwen3_moe");
    v1::Component& component = *RecipeOf(spec).mutable_method();
    component.set_id(method);
    if (absl::string_view(method) == "gptq") {
      (*component.mutable_params())["alpha"].set_double_value(0.25);
    } else {
      (*component.mutable_params())["iterations"].set_int_value(5);
    }
    LocalAgent all(spec);
    at::set_num_threads(2);
    ASSERT_TRUE(all.Run().ok());
    LocalAgent one_at_a_time(spec);
    one_at_a_time.start_.set_memory_reduction(1);
    at::set_num_threads(2);
    ASSERT_TRUE(one_at_a_time.Run().ok());
    EXPECT_EQ(one_at_a_time.BlobDigests(), all.BlobDigests());
  }
  at::set_num_threads(1);
}

TEST_F(MixtureJobTest, LayersAreReportedInForwardOrder) {
  const auto names = [this](int threads) {
    LocalAgent agent(Job("olmoe"));
    at::set_num_threads(threads);
    const auto result = agent.Run();
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<std::string> layers;
    for (const v1::LayerReport& layer : result->report.layers()) {
      layers.push_back(layer.name());
    }
    return layers;
  };
  const std::vector<std::string> one = names(1);
  EXPECT_THAT(
      one, testing::IsSupersetOf({"model.layers.1.mlp.experts.0.gate_proj",
                                  "model.layers.1.mlp.experts.3.down_proj"}));
  EXPECT_EQ(names(2), one);
  at::set_num_threads(1);
}

TEST_F(MixtureJobTest, OnlyTheJobsOwnThreadReports) {
  LocalAgent agent(Job("olmoe"));
  at::set_num_threads(2);
  const std::thread::id own = std::this_thread::get_id();
  int experts = 0;
  agent.on_progress_ = [&](const v1::Progress& progress) {
    EXPECT_EQ(std::this_thread::get_id(), own);
    if (IsExpert(progress.detail())) ++experts;
  };
  EXPECT_TRUE(agent.Run().ok());
  EXPECT_GT(experts, 0);
  at::set_num_threads(1);
}

TEST_F(MixtureJobTest, ACancelledJobEndsAmongItsExperts) {
  LocalAgent agent(Job("olmoe"));
  at::set_num_threads(2);
  agent.on_progress_ = [&](const v1::Progress& progress) {
    if (IsExpert(progress.detail())) agent.cancel_.Cancel();
  };
  EXPECT_TRUE(absl::IsCancelled(agent.Run().status()));
  at::set_num_threads(1);
}

TEST_F(MixtureJobTest, ThePolicyFailNamesTheFirstExpertThatFails) {
  v1::JobSpec spec = Job("mixtral");
  SetMinTokens(0.6, &spec);
  LocalAgent lenient(spec);
  const auto result = lenient.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  std::string first;
  for (const v1::LayerReport& layer : result->report.layers()) {
    if (layer.verdict() != v1::VERDICT_RTN_FALLBACK) continue;
    first = layer.name();
    break;
  }
  RecipeOf(spec).mutable_policy()->set_on_numeric_failure("fail");
  for (const int threads : {1, 2}) {
    LocalAgent strict(spec);
    at::set_num_threads(threads);
    const absl::Status status = strict.Run().status();
    EXPECT_EQ(base::ErrorReason(status), "NUMERIC_LAYER");
    EXPECT_THAT(std::string(status.message()), testing::StartsWith(first));
    ASSERT_EQ(strict.failures_.size(), 1u);
    EXPECT_EQ(strict.failures_[0].layers(0).name(), first);
  }
  at::set_num_threads(1);
}

TEST_F(MixtureJobTest, ExpertsWithTooFewTokensAreRoundedAndSayWhy) {
  v1::JobSpec spec = Job("mixtral");
  // Four experts share two choices per token: not all can have 60 %.
  SetMinTokens(0.6, &spec);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const int64_t needed = 231;  // 0.6 of 384, rounded up.
  int rounded = 0;
  for (const v1::LayerReport& layer : result->report.layers()) {
    if (layer.tokens() >= needed) {
      EXPECT_EQ(layer.verdict(), v1::VERDICT_OK) << layer.name();
      continue;
    }
    ++rounded;
    EXPECT_TRUE(IsExpert(layer.name())) << layer.name();
    EXPECT_EQ(layer.verdict(), v1::VERDICT_RTN_FALLBACK) << layer.name();
    EXPECT_THAT(layer.reason(), HasSubstr(absl::StrCat(layer.tokens())));
    EXPECT_THAT(layer.reason(), HasSubstr(absl::StrCat(needed)));
    EXPECT_EQ(layer.relative_error(), layer.rtn_relative_error());
  }
  EXPECT_GE(rounded, 2 * 3);
  // Nothing is wrong with their matrices.
  for (const v1::Step& step : agent.start_.committed()) {
    for (const auto& [role, blob] : step.blobs()) {
      EXPECT_FALSE(absl::StartsWith(role, "gram:")) << role;
    }
  }
  RecipeOf(spec).mutable_policy()->set_on_numeric_failure("fail");
  LocalAgent strict(spec);
  EXPECT_EQ(base::ErrorReason(strict.Run().status()), "NUMERIC_LAYER");
}

// Makes all scores of a router equal: the same two experts get every token.
void LevelRouter(const std::string& model, const std::string& router) {
  const std::string weights = absl::StrCat(model, "/model.safetensors");
  auto tensors = *checkpoints::ReadSafetensors(weights);
  tensors[router] = at::zeros_like(tensors[router]);
  ASSERT_TRUE(checkpoints::WriteSafetensors(weights, tensors).ok());
}

TEST_F(MixtureJobTest, ExpertsWithoutAnyTokenAreRounded) {
  v1::JobSpec spec = Job("qwen3_moe");
  SetMinTokens(0, &spec);
  LevelRouter(spec.quantize().model(), "model.layers.1.mlp.gate.weight");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  int without = 0;
  for (const v1::LayerReport& layer : result->report.layers()) {
    if (layer.tokens() > 0) continue;
    ++without;
    EXPECT_EQ(layer.verdict(), v1::VERDICT_RTN_FALLBACK) << layer.name();
    EXPECT_THAT(layer.reason(), HasSubstr("no calibration token"));
    EXPECT_THAT(layer.reason(), HasSubstr(absl::StrCat("0 of ", kSampled)));
  }
  EXPECT_EQ(without, 6 * 3);
}

// With experts that no token reaches, which is what methods and transforms see
// on large mixtures.
TEST_F(MixtureJobTest, EveryMethodAndTransformTakesMixtures) {
  const std::string model = Job("qwen3_moe").quantize().model();
  LevelRouter(model, "model.layers.1.mlp.gate.weight");
  const v1::Catalog catalog = DescribeBuild();
  for (const v1::ComponentEntry& entry : catalog.entries()) {
    const bool transform = entry.seam() == v1::SEAM_TRANSFORM;
    if (!transform && entry.seam() != v1::SEAM_METHOD) continue;
    SCOPED_TRACE(entry.id());
    v1::JobSpec spec = Job("qwen3_moe");
    v1::Recipe& recipe = RecipeOf(spec);
    recipe.mutable_weights()->set_symmetric(false);
    recipe.mutable_exports(0)->set_id("dequantized");
    if (transform) {
      recipe.mutable_method()->set_id("rtn");
      recipe.add_transforms()->set_id(entry.id());
    } else {
      recipe.mutable_method()->set_id(entry.id());
    }
    for (const v1::Parameter& parameter : entry.params()) {
      if (parameter.name() != "iterations") continue;
      v1::Component& own =
          transform ? *recipe.mutable_transforms(0) : *recipe.mutable_method();
      (*own.mutable_params())["iterations"].set_int_value(3);
    }
    LocalAgent agent(spec);
    const auto result = agent.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    // 7 of the dense block, 4 and 3 for each expert of the sparse one.
    EXPECT_EQ(result->report.layers_size(), 7 + 4 + 3 * 8);
  }
}

TEST_F(MixtureJobTest, GateAndUpOfAnExpertHaveOneTensorScale) {
  v1::JobSpec spec = Job("qwen3_moe");
  v1::Recipe& recipe = RecipeOf(spec);
  recipe.mutable_method()->set_id("rtn");
  recipe.mutable_weights()->set_format("nvfp4");
  recipe.mutable_exports(0)->set_id("dequantized");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  std::set<float> scales;
  int experts = 0;
  for (const v1::Step& step : agent.start_.committed()) {
    if (!step.blobs().contains("weights")) continue;
    const steps::QuantizedModules block = *steps::ReadBlockFile(
        agent.BlobFile(static_cast<int>(step.step()), "weights"));
    for (const auto& [name, linear] : block) {
      absl::string_view expert = name;
      if (!IsExpert(name) || !absl::ConsumeSuffix(&expert, "gate_proj")) {
        continue;
      }
      const float scale = linear.parts.at("tensor_scale").item<float>();
      EXPECT_EQ(block.at(absl::StrCat(expert, "up_proj"))
                    .parts.at("tensor_scale")
                    .item<float>(),
                scale)
          << name;
      scales.insert(scale);
      ++experts;
    }
  }
  EXPECT_EQ(experts, 8);
  // Experts do not share theirs.
  EXPECT_GT(scales.size(), 4u);
}

TEST_F(MixtureJobTest, RoundingNeedsNoTokens) {
  for (const Family& family : kFamilies) {
    v1::JobSpec spec = Job(family.fixture);
    RecipeOf(spec).mutable_method()->set_id("rtn");
    LocalAgent agent(spec);
    const auto result = agent.Run();
    EXPECT_TRUE(result.ok()) << family.fixture << result.status();
  }
}

TEST_F(MixtureJobTest, PatternsMayNameARouterToLeaveItAlone) {
  for (const Family& family : kFamilies) {
    v1::JobSpec spec = Job(family.fixture);
    RecipeOf(spec).mutable_method()->set_id("rtn");
    AddOverride("*.mlp.gate", /*skip=*/true, &spec);
    LocalAgent agent(spec);
    const auto result = agent.Run();
    EXPECT_TRUE(result.ok()) << family.fixture << result.status();
    AddOverride("*.mlp.gate", /*skip=*/false, &spec);
    LocalAgent other(spec);
    EXPECT_EQ(base::ErrorReason(other.Run().status()), "ROUTER_STAYS_FLOAT")
        << family.fixture;
  }
}

}  // namespace
}  // namespace quantd::pipeline
