// SPDX-License-Identifier: Apache-2.0
// What every transform must do on each small reference checkpoint that this
// build runs: what it calls function preserving leaves the logits as they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "tests/worker/transforms/transform_run.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::contract {
namespace {

namespace fs = std::filesystem;
using transforms::EditableModel;

// Logits of the references have a standard deviation of about 2; a float32 run
// is within 2e-5 of a float64 one. Weights are rounded to float32 once more.
constexpr double kFloatNoise = 1e-4;

// Reference checkpoints that some family runs, by folder.
std::vector<std::string> Checkpoints() {
  std::vector<std::string> folders;
  for (const auto& entry :
       fs::directory_iterator(support::TestData("fixtures/models"))) {
    if (!entry.is_directory()) continue;
    const auto opened = transforms::OpenEditable(entry.path().string());
    if (opened.ok()) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// Stored in 16 bits, a tensor that stays in floating point is rounded after it
// was changed.
bool IsStoredInFloat32(const EditableModel& opened) {
  for (const auto& [name, info] : opened.reader->tensors()) {
    if (info.dtype != "F32") return false;
  }
  return true;
}

// A transform with its defaults, and with every other value that a parameter of
// few values can have.
std::vector<v1::Component> Settings(const std::string& id) {
  v1::Component component;
  component.set_id(id);
  std::vector<v1::Component> settings = {component};
  for (const v1::Parameter& parameter :
       Describe(v1::SEAM_TRANSFORM, id).params()) {
    const auto add = [&](const v1::Value& value) {
      v1::Component changed = component;
      (*changed.mutable_params())[parameter.name()] = value;
      settings.push_back(std::move(changed));
    };
    v1::Value value = parameter.default_value();
    if (parameter.type() == v1::PARAMETER_TYPE_BOOL) {
      value.set_bool_value(!value.bool_value());
      add(value);
    }
    for (const std::string& choice : parameter.choices()) {
      if (choice == parameter.default_value().string_value()) continue;
      value.set_string_value(choice);
      add(value);
    }
  }
  return settings;
}

class TransformContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_TEST_DATA();
    v1::Component component;
    component.set_id(GetParam());
    auto made = transforms::MakeTransform(component);
    ASSERT_TRUE(made.ok()) << made.status();
    transform_ = *std::move(made);
  }
  bool Preserves() const {
    const auto& provides = Describe(v1::SEAM_TRANSFORM, GetParam()).provides();
    return std::find(provides.begin(), provides.end(), "function_preserving") !=
           provides.end();
  }
  bool EditsTheModel() const {
    return transform_->needs() == transforms::Needs::kNoData;
  }
  // How many of the references were looked at.
  static int ExpectSameLogits(const transforms::Transform& transform);

  std::unique_ptr<transforms::Transform> transform_;
};

at::Tensor FirstIds(const std::string& folder) {
  return (*checkpoints::ReadSafetensors(folder + "/golden.safetensors"))
      .at("input_ids")[0];
}

// The tensors that are read otherwise than they are stored.
int ChangedTensors(EditableModel& opened, const std::string& folder) {
  const auto source = *checkpoints::OpenCheckpoint(folder);
  int changed = 0;
  for (const auto& [name, info] : source->tensors()) {
    const at::Tensor now = *opened.reader->Read(name);
    changed += now.equal(source->Read(name)->to(now.scalar_type())) ? 0 : 1;
  }
  return changed;
}

int TransformContract::ExpectSameLogits(
    const transforms::Transform& transform) {
  const bool whole_model = transform.needs() == transforms::Needs::kNoData;
  int checked = 0;
  for (const std::string& folder : Checkpoints()) {
    SCOPED_TRACE(folder);
    EditableModel opened = *transforms::OpenEditable(folder);
    if (whole_model && !IsStoredInFloat32(opened)) continue;
    if (whole_model ? !opened.model->Rotation().ok()
                    : opened.model->Folds(0).scales.empty()) {
      continue;
    }
    opened.KeepLinears();
    const at::Tensor ids = FirstIds(folder);
    const auto before = models::RunModel(*opened.model, ids);
    EXPECT_TRUE(before.ok()) << before.status();
    const absl::Status applied =
        transforms::Apply(transform, ids, transforms::Int3(), &opened);
    EXPECT_TRUE(applied.ok()) << applied;
    // Not by doing nothing.
    EXPECT_GT(ChangedTensors(opened, folder), 4);
    EXPECT_TRUE(opened.Remake().ok());
    const auto after = models::RunModel(*opened.model, ids);
    EXPECT_TRUE(after.ok()) << after.status();
    if (!before.ok() || !after.ok()) continue;
    EXPECT_LT(after->logits.sub(before->logits).abs().max().item<double>(),
              kFloatNoise);
    ++checked;
  }
  return checked;
}

TEST_P(TransformContract, LeavesTheLogitsAsTheyAreWhateverItsParametersSay) {
  if (!Preserves()) GTEST_SKIP() << "changes the function";
  for (const v1::Component& setting : Settings(GetParam())) {
    SCOPED_TRACE(setting.ShortDebugString());
    const auto made = transforms::MakeTransform(setting);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_GE(ExpectSameLogits(**made), 4);
  }
}

TEST_P(TransformContract, RefusesAModelThatItWouldChangeWithAReason) {
  for (const std::string& folder : Checkpoints()) {
    SCOPED_TRACE(folder);
    EditableModel opened = *transforms::OpenEditable(folder);
    const absl::Status status =
        transform_->EditModel(*opened.model, 1, opened.reader.get());
    if (!EditsTheModel() || opened.model->Rotation().ok()) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(base::ErrorReason(status), "ROTATION_UNSUPPORTED");
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(opened.model->family()));
  }
}

TEST_P(TransformContract, TheSameInputsGiveTheSameBits) {
  for (const std::string& folder : Checkpoints()) {
    SCOPED_TRACE(folder);
    EditableModel first = *transforms::OpenEditable(folder);
    EditableModel second = *transforms::OpenEditable(folder);
    const at::Tensor ids = FirstIds(folder);
    const auto apply = [&](EditableModel* opened) {
      return transforms::Apply(*transform_, ids, transforms::Int3(), opened);
    };
    if (!apply(&first).ok()) continue;
    ASSERT_TRUE(apply(&second).ok());
    for (const auto& [name, info] : first.reader->tensors()) {
      EXPECT_TRUE(first.reader->Read(name)->equal(*second.reader->Read(name)))
          << name;
    }
    return;
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, TransformContract,
                         testing::ValuesIn(Ids(v1::SEAM_TRANSFORM)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
