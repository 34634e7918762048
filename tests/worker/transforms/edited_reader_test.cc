// SPDX-License-Identifier: Apache-2.0
#include "worker/transforms/edited_reader.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::transforms {
namespace {

class EditedReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(checkpoints::WriteSafetensors(
                    directory_.File("model.safetensors"),
                    {{"model.half", at::full({4, 8}, 3.0, at::kHalf)},
                     {"model.counts", at::ones({4}, at::kInt)}})
                    .ok());
    ASSERT_TRUE(
        base::WriteFileAtomically(directory_.File("config.json"), "{\"a\": 1}")
            .ok());
    auto source = checkpoints::OpenCheckpoint(directory_.File(""));
    ASSERT_TRUE(source.ok()) << source.status();
    reader_ = std::make_unique<EditedReader>(*std::move(source));
  }
  absl::Status Multiply(const std::string& name, double factor) {
    return reader_->Add({{name, EditKind::kMultiplyColumns,
                          at::full({8}, factor, at::kDouble)}});
  }

  const support::TemporaryDirectory directory_;
  std::unique_ptr<EditedReader> reader_;
};

TEST_F(EditedReaderTest, RoundsOnceHoweverManyEditsThereAre) {
  // 3 / 3 * 3 would not be 3 if each step were rounded to half precision.
  ASSERT_TRUE(Multiply("model.half", 1.0 / 3).ok());
  ASSERT_TRUE(Multiply("model.half", 2.0 / 7).ok());
  ASSERT_TRUE(Multiply("model.half", 21.0 / 2).ok());
  const at::Tensor read = *reader_->Read("model.half");
  EXPECT_EQ(read.scalar_type(), at::kHalf);
  EXPECT_TRUE(read.eq(3).all().item<bool>());
}

TEST_F(EditedReaderTest, KeepsPrecisionWhereItIsAskedTo) {
  reader_->KeepPrecision({"model.half", "no.such.tensor"});
  EXPECT_EQ(reader_->Read("model.half")->scalar_type(), at::kHalf);
  ASSERT_TRUE(Multiply("model.half", 1.0 / 7).ok());
  const at::Tensor read = *reader_->Read("model.half");
  EXPECT_EQ(read.scalar_type(), at::kFloat);
  EXPECT_EQ(read[0][0].item<float>(), static_cast<float>(3.0 / 7));
}

TEST_F(EditedReaderTest, FindsATensorUnderItsBareName) {
  ASSERT_TRUE(Multiply("half", 2).ok());
  EXPECT_TRUE(reader_->Read("model.half")->eq(6).all().item<bool>());
}

TEST_F(EditedReaderTest, TakesAllEditsOrNone) {
  const Edit good{"model.half", EditKind::kDivideRows, at::full({4}, 2.0)};
  const Edit missing{"model.other", EditKind::kDivideRows, at::ones({4})};
  EXPECT_EQ(base::ErrorReason(reader_->Add({good, missing})), "TENSOR_MISSING");
  const Edit wide{"model.half", EditKind::kDivideRows, at::ones({5})};
  EXPECT_EQ(base::ErrorReason(reader_->Add({good, wide})), "EDIT_SHAPE");
  EXPECT_TRUE(reader_->Read("model.half")->eq(3).all().item<bool>());
}

TEST_F(EditedReaderTest, ACopyIsChangedByItself) {
  ASSERT_TRUE(reader_->Copy("head", "model.half").ok());
  ASSERT_TRUE(Multiply("head", 2).ok());
  EXPECT_TRUE(reader_->Read("head")->eq(6).all().item<bool>());
  EXPECT_TRUE(reader_->Read("model.half")->eq(3).all().item<bool>());
  EXPECT_EQ(reader_->tensors().at("head").shape, (std::vector<int64_t>{4, 8}));
  EXPECT_FALSE(reader_->Copy("head", "model.half").ok());
}

TEST_F(EditedReaderTest, ValuesBeyondTheStoredTypeAreAnError) {
  ASSERT_TRUE(Multiply("model.half", 1e6).ok());
  EXPECT_EQ(base::ErrorReason(reader_->Read("model.half").status()),
            "TRANSFORM_OVERFLOW");
}

TEST_F(EditedReaderTest, TheConfigCanSayOtherwiseAndTheDigestStays) {
  const std::string digest = *reader_->Digest();
  reader_->SetConfig("a", 2);
  EXPECT_EQ(reader_->config()["a"], 2);
  EXPECT_EQ(*reader_->Digest(), digest);
}

}  // namespace
}  // namespace quantd::transforms
