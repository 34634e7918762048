// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/catalog_rules.h"
#include "proto/spec/presets.h"
#include "proto/spec/recipe_rules.h"
#include "tests/proto/spec/small_catalog.h"

namespace quantd::spec {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// "field REASON" of every violation.
std::vector<std::string> Found(const v1::JobSpec& spec) {
  std::vector<std::string> found;
  const auto detail = BadRequestOf(ValidateJob(spec, SmallCatalog()));
  for (const auto& violation : detail.field_violations()) {
    found.push_back(absl::StrCat(violation.field(), " ", violation.reason()));
  }
  return found;
}

v1::Recipe* RecipeOf(v1::JobSpec* spec) {
  return spec->mutable_quantize()->mutable_recipe();
}

TEST(Rules, AGoodJobPasses) {
  EXPECT_TRUE(ValidateJob(GoodJob(), SmallCatalog()).ok());
}

TEST(Rules, EveryProblemIsReportedAtOnce) {
  v1::JobSpec spec = GoodJob();
  v1::Recipe* recipe = RecipeOf(&spec);
  spec.mutable_quantize()->clear_model();
  recipe->mutable_method()->set_id("fitt");
  recipe->mutable_weights()->set_group_size(0);
  recipe->mutable_weights()->set_scale_dtype("float8");
  recipe->add_overrides()->set_wq("int9");
  (*spec.mutable_labels())[""] = "x";
  EXPECT_THAT(Found(spec),
              ::testing::UnorderedElementsAre(
                  "quantize.model FIELD_MISSING",
                  "quantize.recipe.weights.group_size FIELD_OUT_OF_RANGE",
                  "quantize.recipe.weights.scale_dtype FIELD_INVALID",
                  "quantize.recipe.overrides[0].pattern FIELD_MISSING",
                  "labels. LABEL_INVALID",
                  "quantize.recipe.method.id COMPONENT_UNKNOWN",
                  "quantize.recipe.overrides[0].wq COMPONENT_UNKNOWN"));
}

TEST(Rules, UnknownComponentsAreAnsweredWithTheNearest) {
  v1::JobSpec spec = GoodJob();
  RecipeOf(&spec)->mutable_weights()->set_format("int5");
  const absl::Status status = ValidateJob(spec, SmallCatalog());
  EXPECT_EQ(base::ErrorReason(status), "RECIPE_INVALID");
  EXPECT_THAT(std::string(status.message()), HasSubstr("int3, int4"));
}

TEST(Rules, ParametersAreCheckedByTheCatalog) {
  v1::JobSpec spec = GoodJob();
  auto& params = *RecipeOf(&spec)->mutable_method()->mutable_params();
  params["damp"].set_double_value(2);
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.method.params PARAMETER_INVALID"));
  params["damp"].set_int_value(1);
  EXPECT_THAT(Found(spec), IsEmpty());
}

TEST(Rules, NonFiniteParametersAreRefused) {
  v1::JobSpec spec = GoodJob();
  (*RecipeOf(&spec)->mutable_method()->mutable_params())["damp"]
      .set_double_value(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(
      Found(spec),
      ::testing::Contains("quantize.recipe.method.params.damp FIELD_INVALID"));
}

// Every pair that a requirement forbids, with a sentence naming both sides.
TEST(Rules, EveryIllegalCombinationNamesBothComponents) {
  struct Case {
    std::string method, format, exports, order;
    bool symmetric;
    int64_t group;
    std::vector<std::pair<std::string, std::string>> named;
  };
  const Case cases[] = {
      {"fit", "code4", "sym", "none", true, 64, {{"fit", "code4"}}},
      {"round", "code4", "packed", "", true, 64, {{"packed", "code4"}}},
      {"round", "code4", "sym", "", true, 64, {}},
      {"round", "int4", "sym", "", false, 64, {{"sym", "asymmetric"}}},
      {"fit",
       "int4",
       "packed",
       "static",
       true,
       -1,
       {{"fit (order=static)", "one group per row"}}},
      {"fit", "int4", "packed", "none", true, -1, {}},
      {"fit",
       "code4",
       "packed",
       "static",
       false,
       -1,
       {{"fit", "code4"},
        {"fit (order=static)", "one group per row"},
        {"packed", "code4"}}},
  };
  for (const Case& c : cases) {
    v1::JobSpec spec = GoodJob();
    v1::Recipe* recipe = RecipeOf(&spec);
    recipe->mutable_method()->set_id(c.method);
    if (!c.order.empty()) {
      (*recipe->mutable_method()->mutable_params())["order"].set_string_value(
          c.order);
    }
    recipe->mutable_weights()->set_format(c.format);
    recipe->mutable_weights()->set_symmetric(c.symmetric);
    recipe->mutable_weights()->set_group_size(c.group);
    recipe->mutable_exports(0)->set_id(c.exports);
    const auto found = CheckRecipe(*recipe, SmallCatalog());
    ASSERT_EQ(found.size(), c.named.size()) << c.method << " " << c.format;
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].reason, "COMBINATION_ILLEGAL");
      const std::string sentence = ToSentence(found[i]);
      EXPECT_THAT(sentence,
                  HasSubstr(c.named[i].first + " with " + c.named[i].second));
      EXPECT_THAT(sentence, HasSubstr("why-"));
      EXPECT_THAT(sentence, HasSubstr("use-instead-of-"));
    }
  }
}

TEST(Rules, OverridesAreHeldToTheRequirementsToo) {
  v1::JobSpec spec = GoodJob();
  v1::Override* row = RecipeOf(&spec)->add_overrides();
  row->set_pattern("*.down_proj");
  row->set_wq("code4");
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.method COMBINATION_ILLEGAL",
                          "quantize.recipe.exports[0] COMBINATION_ILLEGAL"));
}

TEST(Rules, ActivationFormatsMustSayThatTheyAreOnes) {
  v1::JobSpec spec = GoodJob();
  RecipeOf(&spec)->set_activations("int8");
  EXPECT_THAT(Found(spec), IsEmpty());
  RecipeOf(&spec)->set_activations("int4");
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.activations COMPONENT_UNKNOWN"));
}

TEST(Rules, AFormatOfWeightsAloneIsNamedAsOne) {
  v1::JobSpec spec = GoodJob();
  RecipeOf(&spec)->set_activations("code4");
  const std::string message(ValidateJob(spec, SmallCatalog()).message());
  EXPECT_THAT(message, HasSubstr("is a number format of weights and no "
                                 "activation format"));
  EXPECT_THAT(message, HasSubstr("int8"));
  v1::Override* row = RecipeOf(&spec)->add_overrides();
  row->set_pattern("*.up_proj");
  row->set_aq("int88");
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.activations COMPONENT_UNKNOWN",
                          "quantize.recipe.overrides[0].aq COMPONENT_UNKNOWN"));
}

TEST(Rules, StaticRangesNeedAFormatAndTokensForThem) {
  v1::JobSpec spec = GoodJob();
  v1::Recipe* recipe = RecipeOf(&spec);
  recipe->set_activations("int8");
  recipe->mutable_activation_rounding()->set_range("static");
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.calibration FIELD_MISSING",
                          "quantize.recipe.activation_rounding.range "
                          "COMBINATION_ILLEGAL"));
  const std::string message(ValidateJob(spec, SmallCatalog()).message());
  EXPECT_THAT(message, HasSubstr("static ranges with int8"));
  EXPECT_THAT(message, HasSubstr("use range=dynamic, or fixed8"));
  *recipe->mutable_calibration() = BaseRecipe().calibration();
  recipe->set_activations("fixed8");
  recipe->mutable_activation_rounding()->set_percentile(99.9);
  EXPECT_THAT(Found(spec), IsEmpty());
}

TEST(Rules, RoundingFieldsHaveRanges) {
  v1::JobSpec spec = GoodJob();
  v1::Recipe* recipe = RecipeOf(&spec);
  recipe->set_activations("int8");
  v1::ActivationRounding* rounding = recipe->mutable_activation_rounding();
  rounding->set_range("sometimes");
  rounding->set_clip_ratio(1.5);
  rounding->set_percentile(20);
  (*rounding->mutable_params())["no_such"].set_int_value(1);
  v1::KvCache* cache = recipe->mutable_kv_cache();
  cache->set_format("int8");
  cache->set_group_size(-2);
  cache->set_clip_ratio(std::numeric_limits<double>::quiet_NaN());
  const std::string prefix = "quantize.recipe.";
  EXPECT_THAT(
      Found(spec),
      ElementsAre(prefix + "activation_rounding.range FIELD_INVALID",
                  prefix + "activation_rounding.clip_ratio FIELD_OUT_OF_RANGE",
                  prefix + "activation_rounding.percentile FIELD_OUT_OF_RANGE",
                  prefix + "activation_rounding.percentile FIELD_CONFLICT",
                  prefix + "kv_cache.clip_ratio FIELD_OUT_OF_RANGE",
                  prefix + "kv_cache.group_size FIELD_OUT_OF_RANGE",
                  prefix + "activation_rounding.params PARAMETER_INVALID",
                  prefix + "kv_cache.format COMPONENT_UNKNOWN"));
}

TEST(Rules, KeysAreRotatedOnlyWhereTheyAreRounded) {
  v1::JobSpec spec = GoodJob();
  v1::KvCache* cache = RecipeOf(&spec)->mutable_kv_cache();
  cache->set_rotate_keys(true);
  const auto refused =
      ElementsAre("quantize.recipe.kv_cache.rotate_keys FIELD_CONFLICT");
  EXPECT_THAT(Found(spec), refused);
  cache->set_format("bf16");
  EXPECT_THAT(Found(spec), refused);
  cache->set_format("fixed8");
  EXPECT_THAT(Found(spec), IsEmpty());
}

TEST(Rules, ZeroPointsNeedAFormatThatHasThem) {
  v1::JobSpec spec = GoodJob();
  v1::Recipe* recipe = RecipeOf(&spec);
  recipe->set_activations("fixed8");
  recipe->mutable_activation_rounding()->set_asymmetric(true);
  EXPECT_THAT(Found(spec),
              ElementsAre("quantize.recipe.activations COMBINATION_ILLEGAL"));
  recipe->set_activations("int8");
  EXPECT_THAT(Found(spec), IsEmpty());
  recipe->mutable_kv_cache()->set_format("fixed8");
  recipe->mutable_kv_cache()->set_asymmetric(true);
  EXPECT_THAT(
      Found(spec),
      ElementsAre("quantize.recipe.kv_cache.format COMBINATION_ILLEGAL"));
}

TEST(Rules, ParametersGoWithTheActivationFormatThatIsReplaced) {
  v1::Recipe recipe = GoodJob().quantize().recipe();
  SetActivations("int8", &recipe);
  (*recipe.mutable_activation_rounding()->mutable_params())["x"].set_int_value(
      1);
  SetActivations("int8", &recipe);
  EXPECT_EQ(recipe.activation_rounding().params().size(), 1u);
  SetActivations("fixed8", &recipe);
  EXPECT_TRUE(recipe.activation_rounding().params().empty());
}

TEST(Rules, AnEvaluateJobNeedsKnownTasks) {
  v1::JobSpec spec;
  spec.mutable_evaluate()->set_model("tiny");
  EXPECT_THAT(Found(spec), ElementsAre("evaluate.evals FIELD_MISSING"));
  spec.mutable_evaluate()->add_evals()->set_id("perplexityy");
  EXPECT_THAT(Found(spec),
              ElementsAre("evaluate.evals[0].id COMPONENT_UNKNOWN"));
  EXPECT_THAT(Found(v1::JobSpec()), ElementsAre("kind FIELD_MISSING"));
}

TEST(Rules, AnErrorStaysSmallHoweverManyProblemsThereAre) {
  v1::JobSpec spec = GoodJob();
  for (int i = 0; i < kMaxOverrides; ++i) {
    v1::Override* row = RecipeOf(&spec)->add_overrides();
    row->set_pattern(std::string(300, 'x'));
    row->set_wq("no_such_format");
  }
  const absl::Status status = ValidateJob(spec, SmallCatalog());
  EXPECT_LE(BadRequestOf(status).field_violations_size(),
            kMaxReportedViolations);
  EXPECT_LE(BadRequestOf(status).ByteSizeLong(),
            static_cast<size_t>(kMaxReportedBytes));
  EXPECT_LT(status.message().size(), 2048u);
  EXPECT_EQ(base::GetErrorMetadata(status)["problems"],
            absl::StrCat(2 * kMaxOverrides));
}

TEST(Rules, TooManyOverridesAreNotLookedAt) {
  v1::JobSpec spec = GoodJob();
  for (int i = 0; i <= kMaxOverrides; ++i) {
    RecipeOf(&spec)->add_overrides()->set_pattern("*");
  }
  EXPECT_THAT(Found(spec), ElementsAre("quantize.recipe.overrides TOO_MANY"));
}

TEST(Rules, ResolvingWritesOutDefaults) {
  v1::JobSpec spec = GoodJob();
  const auto resolved = ResolveRecipe(*RecipeOf(&spec), SmallCatalog());
  ASSERT_TRUE(resolved.ok());
  EXPECT_EQ(resolved->method().params().at("damp").double_value(), 0.01);
  EXPECT_EQ(resolved->weights().scale_dtype(), "float16");
  EXPECT_EQ(resolved->activations(), "bf16");
}

TEST(Rules, TheRecipesSeedIsTheMethodsWhereThatHasNone) {
  v1::Catalog catalog = SmallCatalog();
  v1::JobSpec spec = GoodJob();
  v1::Recipe& recipe = *RecipeOf(&spec);
  for (v1::ComponentEntry& entry : *catalog.mutable_entries()) {
    if (entry.id() != recipe.method().id()) continue;
    *entry.add_params() = IntParameter("seed", 42, 0, 4294967295, "Draws.");
  }
  const auto seed = [&] {
    return ResolveRecipe(recipe, catalog)
        ->method()
        .params()
        .at("seed")
        .int_value();
  };
  EXPECT_EQ(seed(), 42);
  recipe.set_seed(7);
  EXPECT_EQ(seed(), 7);
  recipe.set_seed((uint64_t{3} << 32) + 9);
  EXPECT_EQ(seed(), 9);
  (*recipe.mutable_method()->mutable_params())["seed"].set_int_value(5);
  EXPECT_EQ(seed(), 5);
  const auto without = ResolveRecipe(recipe, SmallCatalog());
  EXPECT_FALSE(without.ok());
}

TEST(Presets, LieOverTheBase) {
  const auto recipe = RecipeFromPreset(SmallCatalog(), "fit3");
  ASSERT_TRUE(recipe.ok());
  EXPECT_EQ(recipe->method().id(), "fit");
  EXPECT_EQ(recipe->weights().format(), "int3");
  EXPECT_EQ(recipe->weights().group_size(), 128);
  EXPECT_EQ(recipe->exports(0).id(), "packed");
  EXPECT_EQ(recipe->calibration().dataset(), "bundled");
}

TEST(Presets, AMethodIsAPresetOfItself) {
  EXPECT_EQ(RecipeFromPreset(SmallCatalog(), "round")->weights().format(),
            "int4");
  EXPECT_THAT(PresetIds(SmallCatalog()), ElementsAre("fit", "fit3", "round"));
  const auto unknown = RecipeFromPreset(SmallCatalog(), "fit4");
  EXPECT_EQ(base::ErrorReason(unknown.status()), "COMPONENT_UNKNOWN");
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("fit3"));
}

}  // namespace
}  // namespace quantd::spec
