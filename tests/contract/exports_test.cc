// SPDX-License-Identifier: Apache-2.0
// What every checkpoint layout must do with every number format: refuse it
// before a job starts, or write files that read back as what was quantized.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "worker/exports/export.h"
#include "worker/pipeline/module_plan.h"
#include "worker/pipeline/resolve_recipe.h"
#include "worker/pipeline/source_model.h"

namespace quantd::contract {
namespace {

namespace fs = std::filesystem;
using Modules = std::map<std::string, formats::QuantizedLinear>;

// A small random model, written once.
const std::string& TinyModel() {
  static const auto& folder = *new support::TemporaryDirectory();
  static const auto& path = *new std::string([] {
    support::WriteTinyLlama({.layers = 1}, folder.File("tiny"));
    return folder.File("tiny");
  }());
  return path;
}

// One job's worth of work without the job.
struct Work {
  pipeline::SourceModel source;
  v1::Recipe recipe;
  std::vector<pipeline::ModulePlan> plans;
  Modules quantized;

  std::vector<std::string> Names() const {
    return pipeline::QuantizedNames(plans);
  }
};

// What the pipeline says of the recipe before it reads a weight.
absl::Status Prepare(const v1::Recipe& recipe, const exports::Export& layout,
                     Work* work) {
  auto source = pipeline::OpenSource(TinyModel(), at::kCPU);
  EXPECT_TRUE(source.ok()) << source.status();
  work->source = *std::move(source);
  const models::Model& model = *work->source.model;
  auto resolved = pipeline::ResolveRecipe(recipe, model);
  if (!resolved.ok()) return resolved.status();
  work->recipe = *std::move(resolved);
  auto plans = pipeline::PlanModules(work->recipe, model);
  if (!plans.ok()) return plans.status();
  work->plans = *std::move(plans);
  for (const pipeline::ModulePlan& plan : work->plans) {
    if (!plan.quantized) continue;
    const absl::Status status =
        layout.CheckModule({.name = plan.name,
                            .out_features = plan.out_features,
                            .in_features = plan.in_features,
                            .spec = plan.spec,
                            .tied_head = false});
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Quantize(Work* work) {
  for (const pipeline::ModulePlan& plan : work->plans) {
    if (!plan.quantized) continue;
    const auto weight =
        work->source.reader->ReadFloat(absl::StrCat(plan.name, ".weight"));
    ASSERT_TRUE(weight.ok()) << weight.status();
    const auto linear = formats::RoundToNearest(*weight, plan.spec);
    ASSERT_TRUE(linear.ok()) << linear.status();
    work->quantized[plan.name] = *linear;
  }
}

absl::StatusOr<std::vector<std::string>> Write(Work& work,
                                               const exports::Export& layout,
                                               const std::string& directory) {
  fs::create_directories(directory);
  const std::vector<std::string> names = work.Names();
  const exports::ExportSource source{
      .reader = *work.source.reader,
      .model = *work.source.model,
      .quantized_modules = names,
      .quantized =
          [&](const std::string& name) { return work.quantized.at(name); },
      .recipe = work.recipe,
      .tokenizer_json = ""};
  return layout.Write(source, directory);
}

void ExpectReadsBack(Work& work, const exports::Export& layout,
                     const std::string& directory) {
  const auto artifact = pipeline::OpenSource(directory, at::kCPU);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  for (const pipeline::ModulePlan& plan : work.plans) {
    if (!plan.quantized) continue;
    const auto linear = artifact->loader->Load(plan.name, plan.out_features,
                                               plan.in_features, false);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_TRUE((*linear)->DenseWeight().equal(
        layout.StoredWeight(work.quantized.at(plan.name), nullptr)))
        << plan.name;
  }
  // What was not quantized keeps its bits.
  for (const auto& [name, info] : work.source.reader->tensors()) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (work.quantized.contains(module)) continue;
    const auto kept = artifact->reader->Read(name);
    ASSERT_TRUE(kept.ok()) << kept.status();
    EXPECT_TRUE(kept->equal(*work.source.reader->Read(name))) << name;
  }
}

void ExpectSameFiles(const std::vector<std::string>& files,
                     const std::string& one, const std::string& other) {
  for (const std::string& file : files) {
    EXPECT_EQ(*base::ReadFile(absl::StrCat(one, "/", file)),
              *base::ReadFile(absl::StrCat(other, "/", file)))
        << file;
  }
}

// Every file below `directory`, sorted.
std::vector<std::string> FilesBelow(const std::string& directory) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files.push_back(fs::relative(entry.path(), directory));
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

class ExportContract : public testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<exports::Export> Make() {
    v1::Component component;
    component.set_id(GetParam());
    auto made = exports::MakeExport(component);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
};

TEST_P(ExportContract, EveryLegalFormatIsRefusedWithAReasonOrReadsBack) {
  const auto layout = Make();
  const support::TemporaryDirectory folder;
  int written = 0;
  for (const std::string& format : Ids(v1::SEAM_FORMAT)) {
    for (const formats::WeightSpec& spec : Layouts(format)) {
      // Whole rows, groups that fit and groups that leave a rest; every
      // combination is written and synced twice.
      const bool tried = spec.scale_dtype != "bfloat16" &&
                         spec.group_size != 16 && spec.group_size != 64;
      const auto recipe = LegalRecipe("", spec, GetParam());
      if (!tried || !recipe.has_value()) continue;
      SCOPED_TRACE(LayoutName(spec));
      Work work;
      const absl::Status prepared = Prepare(*recipe, *layout, &work);
      if (!prepared.ok()) {
        EXPECT_EQ(prepared.code(), absl::StatusCode::kInvalidArgument);
        EXPECT_NE(base::ErrorReason(prepared), "") << prepared;
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(Quantize(&work));
      const std::string directory = folder.File(absl::StrCat("w", ++written));
      const auto files = Write(work, *layout, directory);
      ASSERT_TRUE(files.ok()) << files.status();
      EXPECT_EQ(*files, FilesBelow(directory));
      ASSERT_NO_FATAL_FAILURE(ExpectReadsBack(work, *layout, directory));
      const std::string again = directory + "-again";
      ASSERT_TRUE(Write(work, *layout, again).ok());
      ExpectSameFiles(*files, directory, again);
      fs::remove_all(directory);
      fs::remove_all(again);
    }
  }
  EXPECT_GT(written, 0) << "no format at all can be written";
}

INSTANTIATE_TEST_SUITE_P(Registered, ExportContract,
                         testing::ValuesIn(Ids(v1::SEAM_EXPORT)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
