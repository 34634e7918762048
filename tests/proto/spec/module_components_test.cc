// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/module_components.h"

#include "gtest/gtest.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

v1::Value Number(double number) {
  v1::Value value;
  value.set_double_value(number);
  return value;
}

v1::Recipe Recipe() {
  v1::Recipe recipe;
  recipe.mutable_method()->set_id("gptq");
  (*recipe.mutable_method()->mutable_params())["percdamp"] = Number(0.01);
  recipe.add_transforms()->set_id("quarot");
  recipe.add_transforms()->set_id("smoothquant");
  (*recipe.mutable_transforms(1)->mutable_params())["alpha"] = Number(0.5);
  return recipe;
}

TEST(ModuleComponents, WithoutExtraAreTheRecipes) {
  const auto components = ComponentsWith(Recipe(), {});
  ASSERT_TRUE(components.ok());
  EXPECT_EQ(components->method.params().at("percdamp").double_value(), 0.01);
  ASSERT_EQ(components->transforms.size(), 2u);
  EXPECT_EQ(components->transforms[1].params().at("alpha").double_value(), 0.5);
}

TEST(ModuleComponents, APlainNameIsTheMethods) {
  const auto components = ComponentsWith(Recipe(), {{"percdamp", Number(0.1)}});
  ASSERT_TRUE(components.ok());
  EXPECT_EQ(components->method.params().at("percdamp").double_value(), 0.1);
  EXPECT_TRUE(components->transforms[0].params().empty());
}

TEST(ModuleComponents, ANameBehindAnIdIsTheTransforms) {
  const auto components =
      ComponentsWith(Recipe(), {{"smoothquant.alpha", Number(0.8)}});
  ASSERT_TRUE(components.ok());
  EXPECT_EQ(components->method.params().size(), 1u);
  EXPECT_EQ(components->transforms[1].params().at("alpha").double_value(), 0.8);
  EXPECT_TRUE(components->transforms[0].params().empty());
}

TEST(ModuleComponents, ATransformThatTheRecipeLacksHasNoParameters) {
  for (const char* key : {"awq.grid", ".grid", "smoothquan.alpha"}) {
    EXPECT_EQ(base::ErrorReason(
                  ComponentsWith(Recipe(), {{key, Number(1)}}).status()),
              "PARAMETER_INVALID")
        << key;
  }
}

}  // namespace
}  // namespace quantd::spec
