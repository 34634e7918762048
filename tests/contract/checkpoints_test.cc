// SPDX-License-Identifier: Apache-2.0
// What every checkpoint container must do, on all sample files there are: those
// made here and the reference checkpoints of other programs.
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/checkpoints/gguf_bytes.h"
#include "worker/checkpoints/reader.h"

namespace quantd::contract {
namespace {

namespace fs = std::filesystem;
using checkpoints::CheckpointEntry;

// A file of two small tensors in the other common container.
std::string SmallGguf() {
  std::string values;
  for (int i = 0; i < 24; ++i) {
    values += checkpoints::Raw(static_cast<float>(i));
  }
  return checkpoints::LlamaMetadata()
      .Tensor("token_embd.weight", {8, 3}, 0, values)
      .Tensor("output_norm.weight", {8}, 0, values.substr(0, 32))
      .Build();
}

// Folders and files that some container should take.
const std::vector<std::string>& Samples() {
  static const auto& folder = *new support::TemporaryDirectory();
  static const auto& samples = *new std::vector<std::string>([] {
    support::WriteTinyLlama({.layers = 1, .tied = true}, folder.File("tiny"));
    const std::string file = folder.File("small.gguf");
    EXPECT_TRUE(base::WriteFileAtomically(file, SmallGguf()).ok());
    std::vector<std::string> paths = {folder.File("tiny"), file};
    if (support::TestData("").empty()) return paths;
    for (const char* below : {"fixtures/models", "fixtures/gguf"}) {
      for (const auto& entry :
           fs::directory_iterator(support::TestData(below))) {
        const bool model = fs::exists(entry.path() / "config.json") ||
                           entry.path().extension() == ".gguf";
        if (model) paths.push_back(entry.path());
      }
    }
    return paths;
  }());
  return samples;
}

class CheckpointContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const CheckpointEntry& entry : checkpoints::Registry()) {
      if (entry.description.id() == GetParam()) entry_ = &entry;
    }
    ASSERT_NE(entry_, nullptr);
    for (const std::string& sample : Samples()) {
      if (entry_->matches(sample)) samples_.push_back(sample);
    }
    ASSERT_FALSE(samples_.empty()) << "no sample is of this container";
  }

  const CheckpointEntry* entry_ = nullptr;
  std::vector<std::string> samples_;
};

TEST_P(CheckpointContract, NoOtherContainerClaimsTheSame) {
  for (const std::string& sample : samples_) {
    for (const CheckpointEntry& other : checkpoints::Registry()) {
      if (&other == entry_) continue;
      EXPECT_FALSE(other.matches(sample))
          << sample << " " << other.description.id();
    }
  }
}

TEST_P(CheckpointContract, EveryTensorReadsAsItIsListed) {
  for (const std::string& sample : samples_) {
    const auto reader = checkpoints::OpenCheckpoint(sample);
    ASSERT_TRUE(reader.ok()) << sample << reader.status();
    EXPECT_FALSE((*reader)->tensors().empty());
    for (const auto& [name, info] : (*reader)->tensors()) {
      SCOPED_TRACE(absl::StrCat(sample, " ", name));
      const auto tensor = (*reader)->Read(name);
      ASSERT_TRUE(tensor.ok()) << tensor.status();
      EXPECT_EQ(tensor->sizes().vec(), info.shape);
      EXPECT_TRUE(tensor->is_contiguous());
      EXPECT_FALSE(info.dtype.empty());
      EXPECT_GT(info.size_bytes, 0);
      EXPECT_LE(info.size_bytes, static_cast<int64_t>(tensor->nbytes()));
      if (!at::isFloatingType(tensor->scalar_type())) {
        EXPECT_EQ(base::ErrorReason((*reader)->ReadFloat(name).status()),
                  "TENSOR_NOT_FLOAT");
        continue;
      }
      const auto values = (*reader)->ReadFloat(name);
      ASSERT_TRUE(values.ok()) << values.status();
      EXPECT_TRUE(values->equal(tensor->to(at::kFloat)));
    }
  }
}

TEST_P(CheckpointContract, ReadsGiveCopies) {
  for (const std::string& sample : samples_) {
    const auto reader = checkpoints::OpenCheckpoint(sample);
    ASSERT_TRUE(reader.ok()) << reader.status();
    const std::string name = (*reader)->tensors().begin()->first;
    const at::Tensor first = *(*reader)->Read(name);
    const at::Tensor kept = first.clone();
    first.zero_();
    EXPECT_TRUE((*reader)->Read(name)->equal(kept)) << sample;
  }
}

TEST_P(CheckpointContract, ANameThatIsNotThereIsMissing) {
  for (const std::string& sample : samples_) {
    const auto reader = checkpoints::OpenCheckpoint(sample);
    ASSERT_TRUE(reader.ok()) << reader.status();
    const absl::Status status = (*reader)->Read("no.such.tensor").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(base::ErrorReason(status), "TENSOR_MISSING");
  }
}

TEST_P(CheckpointContract, TheConfigNamesAModelType) {
  for (const std::string& sample : samples_) {
    const auto reader = checkpoints::OpenCheckpoint(sample);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE((*reader)->config().value("model_type", "") != "") << sample;
    for (const auto& [name, path] : (*reader)->companions()) {
      EXPECT_TRUE(fs::is_regular_file(path)) << name;
    }
  }
}

TEST_P(CheckpointContract, TheDigestNamesTheContent) {
  std::map<std::string, std::string> seen;
  for (const std::string& sample : samples_) {
    const auto digest = (*checkpoints::OpenCheckpoint(sample))->Digest();
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(digest->size(), 64u);
    EXPECT_EQ(*digest, *(*checkpoints::OpenCheckpoint(sample))->Digest());
    EXPECT_TRUE(seen.emplace(*digest, sample).second)
        << sample << " and " << seen[*digest];
  }
}

// The weights file of a sample: itself, or one in its folder that is cut.
std::string WeightsFile(const std::string& folder) {
  if (!fs::is_directory(folder)) return folder;
  std::string largest;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path();
    if (largest.empty() || fs::file_size(path) > fs::file_size(largest)) {
      largest = path;
    }
  }
  return largest;
}

TEST_P(CheckpointContract, ACutFileIsRefusedWithAReason) {
  const support::TemporaryDirectory folder;
  const std::string& sample = samples_.front();
  const auto size = fs::file_size(WeightsFile(sample));
  for (const double part : {0.0, 0.001, 0.1, 0.5, 0.999}) {
    const std::string copy = folder.File(
        absl::StrCat("cut-", part, fs::path(sample).extension().string()));
    fs::copy(sample, copy, fs::copy_options::recursive);
    fs::resize_file(WeightsFile(copy),
                    static_cast<uintmax_t>(part * static_cast<double>(size)));
    // By this container, whether or not it is still recognized as its own.
    const auto reader = entry_->open(copy);
    EXPECT_FALSE(reader.ok()) << part;
    EXPECT_NE(base::ErrorReason(reader.status()), "") << reader.status();
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, CheckpointContract,
                         testing::ValuesIn(Ids(v1::SEAM_CHECKPOINT)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
