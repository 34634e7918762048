// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/kept_linears.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "tests/worker/methods/every_state.h"
#include "tests/worker/methods/random_layer.h"
#include "worker/formats/format.h"

namespace quantd::steps {
namespace {

using google::protobuf::util::MessageDifferencer;

v1::LayerReport LayerOf(const std::string& name, const std::string& format) {
  v1::LayerReport layer;
  layer.set_name(name);
  layer.set_block(4);
  layer.set_format(format);
  layer.set_group_size(format == "nvfp4" ? 16 : 32);
  layer.set_out_features(6);
  layer.set_in_features(64);
  return layer;
}

class KeptLinearsTest : public testing::Test {
 protected:
  KeptLinearsTest() {
    for (const v1::LayerReport& wanted : wanted_) {
      const at::Tensor weight = methods::RandomNormal(6, 64, 7);
      modules_[wanted.name()] = *formats::RoundToNearest(
          weight,
          {.format = wanted.format(), .group_size = wanted.group_size()});
      v1::LayerReport& layer = layers_.emplace_back(wanted);
      layer.set_verdict(v1::VERDICT_DAMPED);
      layer.set_reason("by hand");
      layer.set_damp(0.1);
      layer.set_seconds(1.0 / 3);
      layer.add_loss_curve()->set_loss(0.7);
    }
  }
  // What a process that kept `done_` leaves to the next.
  void Restart() {
    KeptLinears(&store_).Keep(done_);
    store_.given_ = store_.kept_.back();
  }

  // The name of one begins with another's; codes fill words or do not.
  const std::vector<v1::LayerReport> wanted_ = {
      LayerOf("a.q", "int3"), LayerOf("a.q.b", "int4"), LayerOf("c", "nvfp4")};
  QuantizedModules modules_;
  std::vector<v1::LayerReport> layers_;
  const DoneLinears done_ = {modules_, layers_};
  methods::EveryState store_;
};

TEST_F(KeptLinearsTest, WhatIsTakenIsWhatWasKept) {
  Restart();
  KeptLinears kept(&store_);
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const auto taken = kept.Take(wanted_[i]);
    ASSERT_TRUE(taken.has_value()) << wanted_[i].name();
    EXPECT_TRUE(MessageDifferencer::Equals(taken->layer, layers_[i]));
    const formats::QuantizedLinear& linear = modules_.at(wanted_[i].name());
    EXPECT_TRUE(at::equal(taken->linear.codes, linear.codes));
    EXPECT_TRUE(at::equal(taken->linear.scales, linear.scales));
    EXPECT_EQ(taken->linear.zeros.defined(), linear.zeros.defined());
    EXPECT_EQ(taken->linear.parts.size(), linear.parts.size());
    EXPECT_EQ(taken->linear.group_size, linear.group_size);
    EXPECT_EQ(taken->linear.symmetric, linear.symmetric);
  }
  EXPECT_FALSE(kept.Take(LayerOf("d", "int3")).has_value());
}

TEST_F(KeptLinearsTest, WhatIsNotWantedIsLeft) {
  Restart();
  KeptLinears kept(&store_);
  v1::LayerReport other = wanted_[0];
  other.set_format("int4");
  EXPECT_FALSE(kept.Take(other).has_value());
  other = wanted_[0];
  other.set_block(5);
  EXPECT_FALSE(kept.Take(other).has_value());
  other = wanted_[0];
  other.set_out_features(7);
  EXPECT_FALSE(kept.Take(other).has_value());
  EXPECT_TRUE(kept.Take(wanted_[0]).has_value());
}

TEST_F(KeptLinearsTest, TensorsOfSomethingElseAreLeft) {
  Restart();
  const methods::LoopState good = store_.given_;
  for (const auto& [name, tensor] : good) {
    if (!name.starts_with("solved/c.")) continue;
    // Layouts that lack these parts are sound.
    if (name.find(".part.") != std::string::npos) continue;
    store_.given_ = good;
    store_.given_[name] = at::full({3}, 1.5);
    EXPECT_FALSE(KeptLinears(&store_).Take(wanted_[2]).has_value()) << name;
    store_.given_.erase(name);
    EXPECT_FALSE(KeptLinears(&store_).Take(wanted_[2]).has_value()) << name;
  }
}

TEST_F(KeptLinearsTest, TheLinearInWorkHasItsStateBesideTheOthers) {
  const methods::LoopState state = {{"step", at::full({1}, 9)}};
  KeptLinears first(&store_);
  const auto in_work = first.StoreOf("d", done_);
  EXPECT_TRUE(in_work->Load().empty());
  EXPECT_TRUE(in_work->IsDue());
  in_work->Keep(state);
  store_.given_ = store_.kept_.back();
  KeptLinears second(&store_);
  EXPECT_TRUE(second.StoreOf("d.e", done_)->Load().empty());
  const methods::LoopState loaded = second.StoreOf("d", done_)->Load();
  ASSERT_EQ(loaded.size(), 1);
  EXPECT_TRUE(at::equal(loaded.at("step"), state.at("step")));
  for (const v1::LayerReport& wanted : wanted_) {
    EXPECT_TRUE(second.Take(wanted).has_value()) << wanted.name();
  }
  // A linear that is solved has no state any more.
  second.Keep(done_);
  store_.given_ = store_.kept_.back();
  EXPECT_TRUE(KeptLinears(&store_).StoreOf("d", done_)->Load().empty());
}

TEST_F(KeptLinearsTest, WithoutAStoreNothingIsKept) {
  KeptLinears kept(nullptr);
  kept.Keep(done_);
  EXPECT_EQ(kept.StoreOf("d", done_), nullptr);
  EXPECT_FALSE(kept.Take(wanted_[0]).has_value());
}

}  // namespace
}  // namespace quantd::steps
