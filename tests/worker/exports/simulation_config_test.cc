// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/simulation_config.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "proto/base/error.h"

namespace quantd::exports {
namespace {

using nlohmann::json;

// Every linear is the identity over two features.
class Identity : public models::LinearLoader {
 public:
  absl::StatusOr<std::unique_ptr<models::Linear>> Load(const std::string&,
                                                       int64_t, int64_t,
                                                       bool) override {
    return models::MakeDenseLinear(
        at::tensor({1.0f, 0.0f, 0.0f, 1.0f}).view({2, 2}), at::Tensor());
  }
};

json Good() {
  return json::parse(R"({
    "schema": 1,
    "recipe": {
      "activations": "int8",
      "activation_rounding": {"range": "static"},
      "kv_cache": {"format": "int8"},
      "overrides": [{"pattern": "lm_head", "skip": true},
                    {"pattern": "*.up", "aq": "bf16"}]
    },
    "ranges": {"a.down": [-127.5, 3.0]}
  })");
}

absl::StatusOr<std::unique_ptr<models::LinearLoader>> Open(
    const json& simulation) {
  return WithSimulation({{kSimulationKey, simulation}},
                        std::make_unique<Identity>());
}

at::Tensor Through(models::LinearLoader& loader, const std::string& module) {
  const auto linear = loader.Load(module, 2, 2, false);
  EXPECT_TRUE(linear.ok()) << linear.status();
  return (*linear)->Apply(at::tensor({31.875f, 0.3f}).view({1, 2}));
}

TEST(SimulationConfigTest, ModulesRunAsTheConfigSays) {
  const auto loader = Open(Good());
  ASSERT_TRUE(loader.ok()) << loader.status();
  const at::Tensor untouched = at::tensor({31.875f, 0.3f}).view({1, 2});
  EXPECT_TRUE(Through(**loader, "a.down")
                  .equal(at::tensor({32.0f, 0.0f}).view({1, 2})));
  // Without a range every token has its own.
  EXPECT_TRUE(Through(**loader, "a.gate")
                  .equal(at::tensor({31.75f, 0.25f}).view({1, 2})));
  EXPECT_TRUE(Through(**loader, "a.up").equal(untouched));
  EXPECT_TRUE(Through(**loader, "lm_head").equal(untouched));
  EXPECT_NE((*loader)->KvRounding().keys, nullptr);
  EXPECT_NE((*loader)->KvRounding().values, nullptr);
}

TEST(SimulationConfigTest, InputsAreRoundedBehindTheirRotation) {
  json rotated = Good();
  rotated["recipe"]["activation_rounding"]["range"] = "dynamic";
  rotated["rotations"] = {{"a.down", 3u}};
  const auto loader = Open(rotated);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const at::Tensor x = at::tensor({31.875f, 0.3f}).view({1, 2});
  const at::Tensor turned = numerics::Rotation::Randomized(2, 3).Apply(x);
  // Another linear rounds what it is given in the same way.
  const at::Tensor expected = numerics::Rotation::Randomized(2, 3).Undo(
      (*(*loader)->Load("a.gate", 2, 2, false))->Apply(turned));
  EXPECT_TRUE(Through(**loader, "a.down").equal(expected));
  EXPECT_FALSE(expected.equal(x));
}

TEST(SimulationConfigTest, OtherConfigsChangeNothing) {
  auto identity = std::make_unique<Identity>();
  const models::LinearLoader* same = identity.get();
  const auto loader = WithSimulation(json::object(), std::move(identity));
  ASSERT_TRUE(loader.ok());
  EXPECT_EQ(loader->get(), same);
}

TEST(SimulationConfigTest, WhatCannotBeRightIsRefused) {
  for (const auto& [path, value] : std::vector<std::pair<std::string, json>>{
           {"/schema", 2},
           {"/recipe", "int8"},
           {"/recipe/activations", 8},
           {"/recipe/no_such_field", 1},
           {"/recipe/activation_rounding/range", "sometimes"},
           {"/recipe/activation_rounding/clip_ratio", 7},
           {"/recipe/kv_cache/group_size", -5},
           {"/ranges", 1},
           {"/rotations", 1},
           {"/rotations", {{"a.down", "3"}}},
           {"/rotations", {{"a.down", -3}}},
           {"/ranges/a.down", json::array({1})},
           {"/ranges/a.down", json::array({"a", 2})},
           {"/ranges/a.down", json::array({-1e300, 2})}}) {
    json changed = Good();
    changed[json::json_pointer(path)] = value;
    EXPECT_EQ(base::ErrorReason(Open(changed).status()), "SIMULATION_CONFIG")
        << path;
  }
  json unknown = Good();
  unknown["recipe"]["kv_cache"]["format"] = "int9";
  EXPECT_EQ(base::ErrorReason(Open(unknown).status()), "COMPONENT_UNKNOWN");
  EXPECT_EQ(base::ErrorReason(Open(json::array()).status()),
            "SIMULATION_CONFIG");
}

}  // namespace
}  // namespace quantd::exports
