// SPDX-License-Identifier: Apache-2.0
// The rotated model, on random llamas with and without a head of their own.
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/transforms/transform_run.h"

namespace quantd::transforms {
namespace {

std::unique_ptr<Transform> Quarot(const std::string& online = "none") {
  v1::Component component;
  component.set_id("quarot");
  (*component.mutable_params())["online"].set_string_value(online);
  return *MakeTransform(component);
}

class QuarotTest : public testing::TestWithParam<support::TinyLlama> {
 protected:
  void SetUp() override {
    support::WriteTinyLlama(GetParam(), directory_.File("tiny"));
    original_ = *OpenEditable(directory_.File("tiny"));
    rotated_ = *OpenEditable(directory_.File("tiny"));
    ASSERT_TRUE(Apply(*Quarot(), at::Tensor(), Int3(), &rotated_).ok());
  }
  at::Tensor Read(EditableModel& opened, const std::string& name) {
    return *opened.reader->ReadFloat(name);
  }

  const support::TemporaryDirectory directory_;
  EditableModel original_;
  EditableModel rotated_;
};

TEST_P(QuarotTest, KeepsTheLogits) {
  const at::Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, at::kLong);
  const auto before = *models::RunModel(*original_.model, ids);
  const auto after = *models::RunModel(*rotated_.model, ids);
  EXPECT_LT(after.logits.sub(before.logits).abs().max().item<double>(), 2e-5);
  // The streams themselves are turned.
  EXPECT_GT(
      after.residuals[0].sub(before.residuals[0]).abs().max().item<double>(),
      0.1);
  EXPECT_NEAR(after.residuals[2].norm().item<double>(),
              before.residuals[2].norm().item<double>(), 1e-3);
}

TEST_P(QuarotTest, InputsThatAreRotatedAtRunTimeKeepThemToo) {
  const at::Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, at::kLong);
  const at::Tensor before = models::RunModel(*original_.model, ids)->logits;
  for (const char* online : {"down", "all"}) {
    EditableModel opened = *OpenEditable(directory_.File("tiny"));
    ASSERT_TRUE(Apply(*Quarot(online), at::Tensor(), Int3(), &opened).ok());
    const at::Tensor after = models::RunModel(*opened.model, ids)->logits;
    EXPECT_LT(after.sub(before).abs().max().item<double>(), 2e-5) << online;
    // What is stored is what it is without them.
    for (const auto& [name, info] : opened.reader->tensors()) {
      EXPECT_TRUE(Read(opened, name).equal(Read(rotated_, name))) << name;
    }
  }
}

TEST_P(QuarotTest, OnlineNamesTheLinearsWhoseInputsAreRotated) {
  EXPECT_TRUE(rotated_.reader->input_rotations().empty());
  EditableModel down = *OpenEditable(directory_.File("tiny"));
  ASSERT_TRUE(Apply(*Quarot("down"), at::Tensor(), Int3(), &down).ok());
  const auto& rotations = down.reader->input_rotations();
  EXPECT_EQ(rotations.size(), 2u);
  EXPECT_EQ(rotations.at("model.layers.1.mlp.down_proj").columns(),
            GetParam().intermediate);
  EditableModel all = *OpenEditable(directory_.File("tiny"));
  ASSERT_TRUE(Apply(*Quarot("all"), at::Tensor(), Int3(), &all).ok());
  EXPECT_EQ(all.reader->input_rotations().size(), 4u);
  const auto block = *all.model->LoadBlock(0, 4);
  EXPECT_NE(block->linear("model.layers.0.self_attn.o_proj").input_rotation(),
            nullptr);
  EXPECT_EQ(block->linear("model.layers.0.mlp.up_proj").input_rotation(),
            nullptr);
}

TEST_P(QuarotTest, GainsOfNormsMoveIntoWhatReadsThem) {
  for (const char* norm : {"model.layers.0.input_layernorm.weight",
                           "model.layers.1.post_attention_layernorm.weight",
                           "model.norm.weight"}) {
    EXPECT_TRUE(Read(rotated_, norm).eq(1).all().item<bool>()) << norm;
  }
}

TEST_P(QuarotTest, LengthsOfWhatIsOnlyRotatedStay) {
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.mlp.down_proj.weight"}) {
    EXPECT_NEAR(Read(rotated_, name).norm().item<double>() /
                    Read(original_, name).norm().item<double>(),
                1, 1e-6)
        << name;
  }
}

TEST_P(QuarotTest, TheHeadHasATensorOfItsOwn) {
  EXPECT_FALSE(rotated_.model->head_is_tied());
  EXPECT_EQ(rotated_.reader->config()["tie_word_embeddings"], false);
  EXPECT_TRUE(rotated_.reader->tensors().contains("lm_head.weight"));
}

TEST_P(QuarotTest, AnotherSeedIsAnotherRotation) {
  EditableModel other = *OpenEditable(directory_.File("tiny"));
  ASSERT_TRUE(Quarot()->EditModel(*other.model, 8, other.reader.get()).ok());
  EXPECT_FALSE(Read(other, "model.embed_tokens.weight")
                   .equal(Read(rotated_, "model.embed_tokens.weight")));
}

// 60 = 15 * 4 takes Paley's matrix; 44 too; heads of 10 and 22 have only pairs.
INSTANTIATE_TEST_SUITE_P(
    Sizes, QuarotTest,
    testing::Values(support::TinyLlama{},
                    support::TinyLlama{.hidden = 60, .heads = 6, .kv_heads = 3},
                    support::TinyLlama{.hidden = 44,
                                       .intermediate = 36,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .tied = true}));

// One loud channel of the stream is what makes weights hard to round.
TEST(QuarotTest, OutliersAreSpreadOverAllColumns) {
  const support::TemporaryDirectory directory;
  support::WriteTinyLlama({}, directory.File("tiny"));
  EditableModel opened = *OpenEditable(directory.File("tiny"));
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  at::Tensor loud = opened.reader->ReadFloat(name)->clone();
  loud[7].mul_(50);
  ASSERT_TRUE(opened.reader->Add({{name, EditKind::kReplace, loud}}).ok());
  const auto peak = [&] {
    const at::Tensor w = *opened.reader->ReadFloat(name);
    return w.abs().max().div(w.norm()).item<double>() *
           std::sqrt(static_cast<double>(w.numel()));
  };
  const double before = peak();
  ASSERT_TRUE(Apply(*Quarot(), at::Tensor(), Int3(), &opened).ok());
  EXPECT_LT(peak(), before / 3);
}

}  // namespace
}  // namespace quantd::transforms
