// SPDX-License-Identifier: Apache-2.0
// Whole jobs whose activations, keys and values are rounded, on a small random
// model and on the bundled one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/spec/presets.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/exports/simulation_config.h"
#include "worker/pipeline/pipeline.h"
#include "worker/pipeline/source_model.h"

namespace quantd::pipeline {
namespace {

using testing::HasSubstr;

struct Setting {
  std::string method;
  std::string activations;
  std::string range;
  std::string kv_cache;
  std::string layout;
  // Of transform quarot, which is left out where this is empty.
  std::string online = {};
  // Of gptq.
  double alpha = 0;
};

v1::JobSpec Job(const Setting& setting) {
  v1::JobSpec spec = TinyJob(setting.method);
  v1::Recipe& recipe = RecipeOf(spec);
  recipe.mutable_weights()->set_format("int8");
  recipe.mutable_weights()->set_group_size(-1);
  recipe.set_activations(setting.activations);
  recipe.mutable_activation_rounding()->set_range(setting.range);
  recipe.mutable_kv_cache()->set_format(setting.kv_cache);
  recipe.mutable_exports(0)->set_id(setting.layout);
  if (setting.alpha > 0) {
    (*recipe.mutable_method()->mutable_params())["alpha"].set_double_value(
        setting.alpha);
  }
  if (setting.online.empty()) return spec;
  recipe.mutable_kv_cache()->set_rotate_keys(!setting.kv_cache.empty());
  v1::Component* rotations = recipe.add_transforms();
  rotations->set_id("quarot");
  (*rotations->mutable_params())["online"].set_string_value(setting.online);
  return spec;
}

nlohmann::json ConfigOf(const LocalAgent& agent) {
  const auto text = base::ReadFile(
      agent.BlobFile(agent.StepOfKind("export"), "file:config.json"));
  EXPECT_TRUE(text.ok()) << text.status();
  return nlohmann::json::parse(*text);
}

class RoundedJob : public testing::TestWithParam<Setting> {};

TEST_P(RoundedJob, IsVerifiedToTheBitAndResumesToTheSameBytes) {
  LocalAgent agent(Job(GetParam()));
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
  for (const v1::LayerReport& layer : result->report.layers()) {
    EXPECT_EQ(layer.activations(),
              GetParam().activations == "bf16" ? "" : GetParam().activations);
    EXPECT_EQ(layer.has_input_range(), GetParam().range == "static");
  }
  const std::vector<std::string> expected = agent.BlobDigests();
  const int steps = agent.start_.committed_size();
  for (int kept = 0; kept < steps; ++kept) {
    agent.KeepSteps(kept);
    ASSERT_TRUE(agent.Run().ok()) << kept;
    EXPECT_EQ(agent.BlobDigests(), expected) << kept;
  }
}

TEST_P(RoundedJob, LostActivationsAreComputedAgainToTheSameBytes) {
  LocalAgent agent(Job(GetParam()));
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  const auto& blobs = agent.start_.committed(1).blobs();
  if (blobs.count("activations") == 0) GTEST_SKIP() << "there are none";
  agent.start_.mutable_blob_files()->erase(blobs.at("activations").sha256());
  agent.KeepSteps(2);
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, RoundedJob,
    testing::Values(Setting{"rtn", "int8", "", "", "gptq"},
                    Setting{"rtn", "int4", "static", "int8", "dequantized"},
                    Setting{"gptq", "int8", "static", "", "gptq"},
                    Setting{"gptq", "int4", "", "int4", "gptq"},
                    Setting{"gptq", "fp8_e4m3", "", "fp8_e4m3", "gptq"},
                    Setting{"gptq", "nvfp4", "static", "", "dequantized"},
                    Setting{"rtn", "mxfp8_e4m3", "", "", "dequantized"},
                    Setting{"brecq", "int8", "", "int8", "dequantized"},
                    Setting{"rtn", "bf16", "", "int4", "gptq"},
                    Setting{"gptq", "int4", "", "int4", "gptq", "none"},
                    Setting{"gptq", "int4", "", "int4", "dequantized", "all"},
                    Setting{"rtn", "int4", "static", "int8", "dequantized",
                            "down"},
                    Setting{"gptq", "bf16", "", "", "dequantized", "all"},
                    Setting{"gptq", "int8", "", "", "dequantized", "all", 1.0},
                    Setting{"brecq", "int8", "", "", "dequantized", "all"}),
    [](const auto& test) {
      const Setting& setting = test.param;
      return setting.method + "_" + setting.activations + "_" + setting.range +
             "_kv_" + setting.kv_cache + setting.online +
             (setting.alpha > 0 ? "_drift" : "");
    });

TEST(ActivationsJobTest, AnArtifactRunsAsItSaysWhereverItIsRead) {
  LocalAgent plain(Job({"rtn", "bf16", "", "", "gptq"}));
  LocalAgent rounded(Job({"rtn", "int4", "", "int4", "gptq"}));
  ASSERT_TRUE(plain.Run().ok());
  ASSERT_TRUE(rounded.Run().ok());
  EXPECT_FALSE(ConfigOf(plain).contains(exports::kSimulationKey));
  const nlohmann::json said = ConfigOf(rounded)[exports::kSimulationKey];
  EXPECT_EQ(said["recipe"]["activations"], "int4");
  EXPECT_EQ(said["recipe"]["kv_cache"]["format"], "int4");
  // The same codes, written into the same file.
  const auto weights = [](const LocalAgent& agent) {
    return agent.start_.committed(agent.StepOfKind("export"))
        .blobs()
        .at("file:model.safetensors")
        .sha256();
  };
  EXPECT_EQ(weights(plain), weights(rounded));
}

// Of the committed artifact: each tensor as it is stored.
checkpoints::TensorMap TensorsOf(const LocalAgent& agent) {
  return *checkpoints::ReadSafetensors(
      agent.BlobFile(agent.StepOfKind("export"), "file:model.safetensors"));
}

// The codes belong to rotated inputs, what is written to inputs as they are:
// other programs run the model without knowing of rotations.
TEST(OnlineRotationsTest, WeightsAreTurnedBackForWhoeverReadsThem) {
  const auto stored = [](const std::string& online) {
    v1::JobSpec spec = Job({"rtn", "bf16", "", "", "dequantized", online});
    (*RecipeOf(spec).mutable_exports(0)->mutable_params())["dtype"]
        .set_string_value("float32");
    LocalAgent agent(spec);
    const auto result = agent.Run();
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_FALSE(ConfigOf(agent).contains(exports::kSimulationKey));
    return TensorsOf(agent);
  };
  const checkpoints::TensorMap plain = stored("none");
  const checkpoints::TensorMap rotated = stored("down");
  for (const auto& [name, tensor] : plain) {
    const at::Tensor& other = rotated.at(name);
    if (!absl::StrContains(name, "down_proj")) {
      EXPECT_TRUE(other.equal(tensor)) << name;
      continue;
    }
    // Eight bits by row, each rounded in a basis of its own.
    const double difference =
        other.sub(tensor).norm().item<double>() / tensor.norm().item<double>();
    EXPECT_GT(difference, 1e-4) << name;
    EXPECT_LT(difference, 0.02) << name;
  }
}

TEST(OnlineRotationsTest, AnArtifactNamesThemWhereInputsAreRounded) {
  v1::JobSpec spec = Job({"rtn", "int4", "", "int4", "dequantized", "down"});
  RecipeOf(spec).set_seed(9);
  v1::Override* skipped = RecipeOf(spec).add_overrides();
  skipped->set_pattern("model.layers.0.mlp.down_proj");
  skipped->set_skip(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
  const nlohmann::json said = ConfigOf(agent)[exports::kSimulationKey];
  EXPECT_EQ(said["recipe"]["kv_cache"]["rotate_keys"], true);
  EXPECT_EQ(said["rotations"],
            nlohmann::json({{"model.layers.1.mlp.down_proj", 9}}));
}

// What is not quantized is stored as it is without rotations at run time.
TEST(OnlineRotationsTest, ModulesInFloatingPointHaveNone) {
  const auto down = [](const std::string& online) {
    v1::JobSpec spec = Job({"rtn", "int8", "", "", "dequantized", online});
    v1::Override* skipped = RecipeOf(spec).add_overrides();
    skipped->set_pattern("*.down_proj");
    skipped->set_skip(true);
    LocalAgent agent(spec);
    const auto result = agent.Run();
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->report.verify_max_difference(), 0);
    return TensorsOf(agent).at("model.layers.0.mlp.down_proj.weight");
  };
  EXPECT_TRUE(down("down").equal(down("none")));
}

TEST(OnlineRotationsTest, LayoutsOfCodesAreRefusedWithWhatWorks) {
  for (const std::string online : {"down", "all"}) {
    LocalAgent agent(Job({"rtn", "int4", "", "", "gptq", online}));
    const absl::Status status = agent.Run().status();
    EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID");
    EXPECT_EQ(agent.steps_run_, 0);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("quarot (online=" + online + ") with gptq: "));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("use export dequantized"));
  }
}

TEST(OnlineRotationsTest, RotatedKeysWithoutRoundedOnesAreRefused) {
  v1::JobSpec spec = Job({"rtn", "int8", "", "", "gptq"});
  RecipeOf(spec).mutable_kv_cache()->set_rotate_keys(true);
  LocalAgent agent(spec);
  const absl::Status status = agent.Run().status();
  EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID");
  EXPECT_THAT(std::string(status.message()), HasSubstr("kv_cache.rotate_keys"));
}

TEST(OnlineRotationsTest, FittedTransformsAndStrategiesGoAlongWithThem) {
  v1::JobSpec spec = Job({"rtn", "int4", "", "", "dequantized", "all"});
  v1::Recipe& recipe = RecipeOf(spec);
  for (const char* id : {"awq", "clip"}) recipe.add_transforms()->set_id(id);
  recipe.mutable_mixed()->set_id("sensitivity");
  auto& params = *recipe.mutable_mixed()->mutable_params();
  params["formats"].set_string_value("int4+int8");
  params["average_bits"].set_double_value(6);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
}

TEST(ActivationsJobTest, TheHeadIsRoundedWhereItIsQuantized) {
  v1::JobSpec spec = Job({"gptq", "int8", "static", "", "gptq"});
  RecipeOf(spec).set_quantize_lm_head(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
  const v1::LayerReport& head = *result->report.layers().rbegin();
  EXPECT_EQ(head.name(), "lm_head");
  EXPECT_LT(head.input_range().low(), head.input_range().high());
}

TEST(ActivationsJobTest, OverridesNameFormatsOfTheirOwn) {
  v1::JobSpec spec = Job({"rtn", "int8", "", "", "dequantized"});
  v1::Override* down = RecipeOf(spec).add_overrides();
  down->set_pattern("*.down_proj");
  down->set_aq("mxfp8_e4m3");
  v1::Override* up = RecipeOf(spec).add_overrides();
  up->set_pattern("*.up_proj");
  up->set_aq("bf16");
  v1::Override* skipped = RecipeOf(spec).add_overrides();
  skipped->set_pattern("*.1.mlp.gate_proj");
  skipped->set_skip(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.verify_max_difference(), 0);
  std::map<std::string, int> formats;
  for (const v1::LayerReport& layer : result->report.layers()) {
    ++formats[layer.activations()];
  }
  EXPECT_EQ(formats["mxfp8_e4m3"], 2);
  EXPECT_EQ(formats[""], 2);
  EXPECT_EQ(formats["int8"], 9);
}

TEST(ActivationsJobTest, StaticRangesLookAtTokensEvenWhereTheMethodDoesNot) {
  LocalAgent dynamic(Job({"rtn", "int8", "", "", "gptq"}));
  LocalAgent fixed(Job({"rtn", "int8", "static", "", "gptq"}));
  EXPECT_EQ(dynamic.Run()->report.calibration_tokens(), 0);
  EXPECT_EQ(fixed.Run()->report.calibration_tokens(), 6 * 48);
}

TEST(ActivationsJobTest, RangesAreThoseOfTheInputs) {
  v1::JobSpec spec = Job({"rtn", "int8", "static", "", "gptq"});
  LocalAgent whole(spec);
  RecipeOf(spec).mutable_activation_rounding()->set_percentile(60);
  LocalAgent part(spec);
  const auto all = whole.Run();
  const auto most = part.Run();
  ASSERT_TRUE(all.ok() && most.ok());
  for (int i = 0; i < all->report.layers_size(); ++i) {
    const v1::InputRange& wide = all->report.layers(i).input_range();
    const v1::InputRange& narrow = most->report.layers(i).input_range();
    EXPECT_LT(wide.low(), 0);
    EXPECT_GT(wide.high(), 0);
    EXPECT_LT(wide.low(), narrow.low());
    EXPECT_GT(wide.high(), narrow.high());
  }
  // q, k and v read the same rows.
  EXPECT_EQ(all->report.layers(0).input_range().high(),
            all->report.layers(2).input_range().high());
}

TEST(ActivationsJobTest, StepsOfAnotherRoundingAreNotContinued) {
  v1::JobSpec spec = Job({"gptq", "int8", "", "", "gptq"});
  LocalAgent agent(spec);
  ASSERT_TRUE(agent.Run().ok());
  const int steps = agent.start_.committed_size();
  const auto run_again = [&](const v1::JobSpec& other) {
    LocalAgent again(other);
    *again.start_.mutable_committed() = agent.start_.committed();
    *again.start_.mutable_blob_files() = agent.start_.blob_files();
    EXPECT_TRUE(again.RunOnce().ok());
    return again.steps_run_;
  };
  EXPECT_EQ(run_again(spec), 0);
  v1::JobSpec clipped = spec;
  RecipeOf(clipped).mutable_activation_rounding()->set_clip_ratio(0.9);
  EXPECT_GT(run_again(clipped), 0);
  v1::JobSpec cached = spec;
  RecipeOf(cached).mutable_kv_cache()->set_format("int8");
  EXPECT_GT(run_again(cached), 0);
  EXPECT_GT(steps, 3);
}

TEST(ActivationsJobTest, ARoundedArtifactIsNoFloatModel) {
  LocalAgent first(Job({"rtn", "int8", "", "", "dequantized"}));
  ASSERT_TRUE(first.Run().ok());
  const int step = first.StepOfKind("export");
  std::map<std::string, std::string> files;
  for (const auto& [role, blob] : first.start_.committed(step).blobs()) {
    if (role.rfind("file:", 0) == 0) {
      files[role.substr(5)] = first.BlobFile(step, role);
    }
  }
  const std::string folder = first.directory_.File("artifact");
  ASSERT_TRUE(LinkFiles(files, folder).ok());
  v1::JobSpec spec = Job({"rtn", "int8", "", "", "dequantized"});
  spec.mutable_quantize()->set_model(folder);
  LocalAgent second(spec);
  EXPECT_EQ(base::ErrorReason(second.Run().status()), "SOURCE_IS_QUANTIZED");
}

struct Refusal {
  std::string activations;
  std::string range;
  bool asymmetric;
  std::string kv_cache;
  std::string said;
};

TEST(ActivationsJobTest, WhatCannotBeIsRefusedWithWhatWorks) {
  for (const Refusal& c : std::vector<Refusal>{
           {"nf4", "", false, "", "is a number format of weights"},
           {"int9", "", false, "", "is no activation format"},
           {"mxfp4", "static", false, "", "static ranges with mxfp4"},
           {"fp8_e4m3", "", true, "", "with zero points"},
           {"bf16", "", false, "mxfp4", "no KV-cache format"}}) {
    v1::JobSpec spec = Job({"rtn", c.activations, c.range, c.kv_cache, "gptq"});
    RecipeOf(spec).mutable_activation_rounding()->set_asymmetric(c.asymmetric);
    LocalAgent agent(spec);
    const absl::Status status = agent.Run().status();
    EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID") << c.said;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.said));
  }
}

TEST(ActivationsJobTest, PresetsArePublishedSettings) {
  const auto smooth = spec::RecipeFromPreset(DescribeBuild(), "smoothquant");
  ASSERT_TRUE(smooth.ok());
  EXPECT_EQ(smooth->weights().format(), "int8");
  EXPECT_EQ(smooth->weights().group_size(), -1);
  EXPECT_EQ(smooth->activations(), "int8");
  const auto rotated = spec::RecipeFromPreset(DescribeBuild(), "quarot");
  ASSERT_TRUE(rotated.ok());
  EXPECT_EQ(rotated->method().id(), "gptq");
  EXPECT_EQ(rotated->weights().format(), "int4");
  EXPECT_EQ(rotated->activations(), "int4");
  EXPECT_EQ(rotated->kv_cache().format(), "int4");
  for (v1::Recipe recipe : {*smooth, *rotated}) {
    v1::JobSpec spec = TinyJob("rtn");
    *recipe.mutable_calibration() = RecipeOf(spec).calibration();
    RecipeOf(spec) = recipe;
    LocalAgent agent(spec);
    const auto result = agent.Run();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->report.verify_max_difference(), 0);
  }
}

// The bundled model with one channel behind each norm 512 times as loud, and
// the weights that read it as much smaller: the same function, to the bit.
const std::string& LoudModel() {
  static const auto& folder = *new support::TemporaryDirectory();
  static const bool made = [] {
    const std::string tiny = support::SourcePath("deploy/models/tiny/");
    auto tensors = *checkpoints::ReadSafetensors(tiny + "model.safetensors");
    for (auto& [name, tensor] : tensors) {
      const bool norm = absl::StrContains(name, "_layernorm.");
      bool reads = false;
      for (const char* module : {"q_proj", "k_proj", "v_proj", "gate", "up"}) {
        reads = reads || absl::StrContains(name, module);
      }
      if (norm) tensor.select(0, 5).mul_(1024);
      if (reads) tensor.select(1, 5).div_(1024);
    }
    const std::string to = folder.path();
    EXPECT_TRUE(
        checkpoints::WriteSafetensors(to + "/model.safetensors", tensors).ok());
    for (const char* file : {"config.json", "tokenizer.json"}) {
      std::filesystem::copy_file(tiny + file, to + "/" + file);
    }
    return true;
  }();
  EXPECT_TRUE(made);
  return folder.path();
}

// Perplexities of a float model and of the same with 8-bit weights and what
// `setting` says.
std::pair<double, double> Scores(
    const std::string& model, const Setting& setting,
    const std::vector<std::string>& transforms = {}) {
  v1::JobSpec spec = Job(setting);
  spec.mutable_quantize()->set_model(model);
  v1::Recipe& recipe = RecipeOf(spec);
  for (const std::string& id : transforms) {
    recipe.add_transforms()->set_id(id);
  }
  recipe.mutable_calibration()->set_dataset("bundled");
  recipe.mutable_calibration()->set_num_samples(32);
  recipe.mutable_calibration()->set_sequence_length(128);
  recipe.add_evals()->set_id("perplexity");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {0, 0};
  const v1::JobReport& report = result->report;
  return {report.evals(0).metrics(0).value(),
          report.evals(1).metrics(0).value()};
}

// How many times as large the perplexity of the bundled model becomes.
double Loss(const std::string& activations, const std::string& range = "",
            const std::string& kv_cache = "") {
  const auto [plain, rounded] =
      Scores(support::SourcePath("deploy/models/tiny"),
             {"rtn", activations, range, kv_cache, "gptq"});
  testing::Test::RecordProperty(
      absl::StrCat("a_", activations, "_", range, "_kv_", kv_cache),
      absl::StrCat(rounded / plain));
  return rounded / plain;
}

TEST(TrainedActivationsTest, EightBitsBarelyShowAndFourDo) {
  for (const char* format : {"int8", "fp8_e4m3", "mxint8"}) {
    EXPECT_NEAR(Loss(format), 1, 0.01) << format;
  }
  EXPECT_NEAR(Loss("int8", "static"), 1, 0.02);
  const double four = Loss("int4");
  EXPECT_GT(four, 1.03);
  // Blocks of their own are worth something.
  EXPECT_LT(Loss("nvfp4"), four);
  EXPECT_LT(Loss("mxfp4"), four);
}

TEST(TrainedActivationsTest, KeysAndValuesOfEightBitsBarelyShowAndOfTwoDo) {
  EXPECT_NEAR(Loss("bf16", "", "int8"), 1, 0.005);
  EXPECT_NEAR(Loss("bf16", "", "fp8_e4m3"), 1, 0.01);
  EXPECT_GT(Loss("bf16", "", "int2"), 1.02);
}

// The same function with one feature behind the activation function of each
// block 1024 times as loud, and the weights that read it as much smaller.
const std::string& LoudDownModel() {
  static const auto& folder = *new support::TemporaryDirectory();
  static const bool made = [] {
    const std::string tiny = support::SourcePath("deploy/models/tiny/");
    auto tensors = *checkpoints::ReadSafetensors(tiny + "model.safetensors");
    for (auto& [name, tensor] : tensors) {
      if (absl::StrContains(name, "up_proj")) tensor.select(0, 5).mul_(1024);
      if (absl::StrContains(name, "down_proj")) tensor.select(1, 5).div_(1024);
    }
    const std::string to = folder.path();
    EXPECT_TRUE(
        checkpoints::WriteSafetensors(to + "/model.safetensors", tensors).ok());
    for (const char* file : {"config.json", "tokenizer.json"}) {
      std::filesystem::copy_file(tiny + file, to + "/" + file);
    }
    return true;
  }();
  EXPECT_TRUE(made);
  return folder.path();
}

// Rotations that are folded into weights do not reach what comes out of the
// activation function.
TEST(TrainedActivationsTest, LoudFeaturesBeforeDownNeedARotationAtRunTime) {
  Setting setting = {"rtn", "int8", "", "", "dequantized", "none"};
  const auto [plain, folded] = Scores(LoudDownModel(), setting);
  EXPECT_GT(folded, 1.03 * plain);
  setting.online = "down";
  const double online = Scores(LoudDownModel(), setting).second;
  EXPECT_LT(online - plain, 0.2 * (folded - plain));
}

// How many times as large the perplexity becomes by preset quarot, with
// rotations at run time.
double PresetLoss(const std::string& online, bool rotate_keys) {
  v1::JobSpec spec;
  spec.mutable_quantize()->set_model(support::SourcePath("deploy/models/tiny"));
  v1::Recipe& recipe = RecipeOf(spec);
  recipe = *spec::RecipeFromPreset(DescribeBuild(), "quarot");
  recipe.mutable_calibration()->set_num_samples(32);
  recipe.mutable_calibration()->set_sequence_length(128);
  recipe.mutable_exports(0)->set_id("dequantized");
  (*recipe.mutable_transforms(0)->mutable_params())["online"].set_string_value(
      online);
  recipe.mutable_kv_cache()->set_rotate_keys(rotate_keys);
  recipe.add_evals()->set_id("perplexity");
  LocalAgent agent(spec);
  const auto result = agent.Run();
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return 0;
  const double loss = result->report.evals(1).metrics(0).value() /
                      result->report.evals(0).metrics(0).value();
  testing::Test::RecordProperty(
      absl::StrCat("quarot_online_", online, rotate_keys ? "_keys" : ""),
      absl::StrCat(loss));
  return loss;
}

TEST(TrainedActivationsTest, FourBitsGainFromRotationsAtRunTime) {
  for (const bool rotate_keys : {false, true}) {
    const double folded = PresetLoss("none", rotate_keys);
    EXPECT_GT(folded, 1) << rotate_keys;
    EXPECT_LT(folded, 1.1) << rotate_keys;
    for (const char* online : {"down", "all"}) {
      const double loss = PresetLoss(online, rotate_keys);
      EXPECT_GT(loss, 1) << online << rotate_keys;
      EXPECT_LT(loss, folded) << online << rotate_keys;
    }
  }
}

TEST(TrainedActivationsTest, LoudChannelsHurtUntilATransformQuietsThem) {
  const Setting setting = {"rtn", "int8", "", "", "dequantized"};
  const auto [plain, loud] = Scores(LoudModel(), setting);
  EXPECT_GT(loud, 1.03 * plain);
  for (const char* id : {"smoothquant", "quarot"}) {
    const double quiet = Scores(LoudModel(), setting, {id}).second;
    // At least nine tenths of the harm are gone.
    EXPECT_LT(quiet - plain, 0.1 * (loud - plain)) << id;
  }
}

}  // namespace
}  // namespace quantd::pipeline
