// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/worker/checkpoints/safetensors_bytes.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_header.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::checkpoints {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SafetensorsWriterTest, WritesTheHeaderOfTheReferenceByteForByte) {
  const support::TemporaryDirectory folder;
  const TensorMap tensors = {
      {"b", at::tensor({1.0f, 2.0f})},
      {"a", at::tensor({3.0f}).to(at::kHalf)},
      {"ids", at::tensor({int64_t{7}})},
      {"a/\"q\"", at::tensor({4.0f})},
  };
  ASSERT_TRUE(WriteSafetensors(folder.File("x"), tensors).ok());
  // Rank of the dtype first (I64, F32, F16), then the name; space to 8 bytes.
  std::string header =
      R"({"__metadata__":{"format":"pt"},)"
      R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("a/\"q\"":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},)"
      R"("a":{"dtype":"F16","shape":[1],"data_offsets":[20,22]}})";
  while (header.size() % 8 != 0) header += ' ';
  const std::string data(
      "\x07\0\0\0\0\0\0\0\0\0\x80\x40\0\0\x80\x3f\0\0\0\x40\0\x42", 22);
  EXPECT_EQ(*base::ReadFile(folder.File("x")), SafetensorsBytes(header, data));
}

TEST(SafetensorsWriterTest, RewritesFilesOfTheReferenceWithoutChange) {
  SKIP_WITHOUT_TEST_DATA();
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(
           support::TestData("fixtures/models"))) {
    const std::string path = entry.path() / "model.safetensors";
    if (!std::filesystem::exists(path)) continue;
    const support::TemporaryDirectory folder;
    const auto tensors = ReadSafetensors(path);
    ASSERT_TRUE(tensors.ok()) << path << tensors.status();
    ASSERT_TRUE(WriteSafetensors(folder.File("x"), *tensors).ok());
    EXPECT_TRUE(*base::ReadFile(folder.File("x")) == *base::ReadFile(path))
        << path;
    ++files;
  }
  EXPECT_GT(files, 20);
}

TEST(SafetensorsWriterTest, ReadsBackEveryDtypeItWrites) {
  const support::TemporaryDirectory folder;
  TensorMap tensors;
  for (const SafetensorsDtype& dtype : SafetensorsDtypes()) {
    if (!dtype.type) continue;
    at::Tensor tensor = at::empty({3, 2}, *dtype.type);
    auto* bytes = static_cast<char*>(tensor.mutable_data_ptr());
    for (size_t i = 0; i < tensor.nbytes(); ++i) {
      bytes[i] = static_cast<char>(i % 2);
    }
    tensors[dtype.name] = tensor;
  }
  tensors["empty"] = at::empty({0, 4}, at::kFloat);
  tensors["scalar"] = at::tensor(2.5f).reshape({});
  ASSERT_TRUE(WriteSafetensors(folder.File("x"), tensors).ok());
  const auto read = ReadSafetensors(folder.File("x"));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor& other = read->at(name);
    EXPECT_EQ(other.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(other.sizes(), tensor.sizes()) << name;
    if (tensor.nbytes() == 0) continue;
    EXPECT_EQ(std::memcmp(other.const_data_ptr(), tensor.const_data_ptr(),
                          tensor.nbytes()),
              0)
        << name;
  }
}

TEST(SafetensorsWriterTest, LeavesNoFileBehindWhereATensorCannotBeWritten) {
  const support::TemporaryDirectory folder;
  const absl::Status status =
      WriteSafetensors(folder.File("x"), {{"t", at::zeros({2, 3}).t()}});
  EXPECT_EQ(base::ErrorReason(status), "TENSOR_UNWRITABLE");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriterTest, SplitsIntoShardsThatOpenAsOneCheckpoint) {
  const support::TemporaryDirectory folder;
  ShardedWriter writer(folder.path(), 48);
  ASSERT_TRUE(writer.Add("a", at::arange(8).to(at::kFloat)).ok());
  ASSERT_TRUE(writer.Add("b", at::arange(4).to(at::kFloat)).ok());
  // Larger than a shard may be: alone in its own.
  ASSERT_TRUE(writer.Add("c", at::arange(20).to(at::kFloat)).ok());
  ASSERT_TRUE(writer.Add("d", at::arange(1).to(at::kFloat)).ok());
  const auto files = writer.Finish();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(*files, ElementsAre("model-00001-of-00003.safetensors",
                                  "model-00002-of-00003.safetensors",
                                  "model-00003-of-00003.safetensors",
                                  "model.safetensors.index.json"));
  const auto index = nlohmann::json::parse(
      *base::ReadFile(folder.File("model.safetensors.index.json")));
  EXPECT_EQ(index["metadata"]["total_size"], 4 * (8 + 4 + 20 + 1));
  EXPECT_EQ(index["weight_map"]["b"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["c"], "model-00002-of-00003.safetensors");

  const auto reader = OpenCheckpoint(folder.path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), 4u);
  EXPECT_TRUE(at::equal(*(*reader)->Read("c"), at::arange(20).to(at::kFloat)));
  EXPECT_EQ((*reader)->tensors().at("c").size_bytes, 80);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_THAT(entry.path().string(), Not(HasSubstr("partial")));
  }
}

TEST(SafetensorsWriterTest, OneShardIsAPlainFile) {
  const support::TemporaryDirectory folder;
  ShardedWriter writer(folder.path(), 1000);
  ASSERT_TRUE(writer.Add("a", at::zeros({8})).ok());
  EXPECT_THAT(*writer.Finish(), ElementsAre("model.safetensors"));
}

class ReaderTest : public ::testing::Test {
 protected:
  ReaderTest() { support::WriteTinyLlama({}, folder_.path()); }

  const support::TemporaryDirectory folder_;
};

TEST_F(ReaderTest, ListsTensorsConfigAndCompanions) {
  const auto reader = OpenCheckpoint(folder_.path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const TensorInfo& head = (*reader)->tensors().at("lm_head.weight");
  EXPECT_EQ(head.dtype, "F32");
  EXPECT_THAT(head.shape, ElementsAre(256, 64));
  EXPECT_EQ(head.size_bytes, 256 * 64 * 4);
  EXPECT_EQ((*reader)->config()["hidden_size"], 64);
  EXPECT_EQ((*reader)->metadata()["format"], "pt");
  ASSERT_EQ((*reader)->companions().size(), 1u);
  EXPECT_EQ((*reader)->companions().at("tokenizer.json"),
            folder_.File("tokenizer.json"));
}

TEST_F(ReaderTest, OpensAFileWithTheConfigBesideIt) {
  const auto reader = OpenCheckpoint(folder_.File("model.safetensors"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->config()["model_type"], "llama");
  EXPECT_TRUE((*reader)->companions().empty());
}

TEST_F(ReaderTest, FollowsLinksToRegularFilesAsModelCachesUseThem) {
  std::filesystem::rename(folder_.File("model.safetensors"),
                          folder_.File("blob"));
  std::filesystem::create_symlink("blob", folder_.File("model.safetensors"));
  EXPECT_TRUE(OpenCheckpoint(folder_.path()).ok());
}

TEST_F(ReaderTest, RefusesAFifoInsteadOfWaitingForIt) {
  std::filesystem::remove(folder_.File("model.safetensors"));
  ASSERT_EQ(mkfifo(folder_.File("model.safetensors").c_str(), 0600), 0);
  EXPECT_EQ(base::ErrorReason(OpenCheckpoint(folder_.path()).status()),
            "NOT_A_REGULAR_FILE");
}

TEST_F(ReaderTest, NamesAMissingTensor) {
  const auto reader = OpenCheckpoint(folder_.path());
  const absl::Status status = (*reader)->Read("nose.weight").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(base::ErrorReason(status), "TENSOR_MISSING");
  EXPECT_THAT(std::string(status.message()), HasSubstr("nose.weight"));
}

TEST_F(ReaderTest, ReadsFloatsAndRefusesIntegersAsFloats) {
  const support::TemporaryDirectory other;
  ASSERT_TRUE(WriteSafetensors(other.File("model.safetensors"),
                               {{"half", at::tensor({1.5f}).to(at::kBFloat16)},
                                {"codes", at::tensor({3})}})
                  .ok());
  const auto reader = OpenCheckpoint(other.path());
  EXPECT_TRUE(at::equal(*(*reader)->ReadFloat("half"), at::tensor({1.5f})));
  EXPECT_EQ(base::ErrorReason((*reader)->ReadFloat("codes").status()),
            "TENSOR_NOT_FLOAT");
}

TEST_F(ReaderTest, DigestFollowsWeightsAndConfigButNotThePlace) {
  const std::string digest = *(*OpenCheckpoint(folder_.path()))->Digest();
  EXPECT_EQ(digest.size(), 64u);
  const support::TemporaryDirectory copy;
  support::WriteTinyLlama({}, copy.path());
  EXPECT_EQ(*(*OpenCheckpoint(copy.path()))->Digest(), digest);
  support::WriteTinyLlama({.seed = 2}, copy.path());
  EXPECT_NE(*(*OpenCheckpoint(copy.path()))->Digest(), digest);
  support::WriteTinyLlama({}, copy.path());
  WriteBytes(copy.File("config.json"), R"({"model_type":"llama"})");
  EXPECT_NE(*(*OpenCheckpoint(copy.path()))->Digest(), digest);
}

TEST_F(ReaderTest, ReportsAFileThatShrankAfterItWasOpened) {
  const auto reader = OpenCheckpoint(folder_.path());
  std::filesystem::resize_file(folder_.File("model.safetensors"), 9000);
  EXPECT_EQ(base::ErrorReason((*reader)->Read("model.norm.weight").status()),
            "FILE_TRUNCATED");
}

TEST(OpenCheckpointTest, SaysWhatIsNotThere) {
  const support::TemporaryDirectory folder;
  EXPECT_EQ(base::ErrorReason(OpenCheckpoint(folder.File("nothing")).status()),
            "MODEL_NOT_FOUND");
  EXPECT_EQ(base::ErrorReason(OpenCheckpoint(folder.path()).status()),
            "CHECKPOINT_UNKNOWN");
}

TEST(OpenCheckpointTest, RefusesPicklesUnderAnyName) {
  const std::string pickle("\x80\x02}q\0X\x05\0\0\0", 10);
  const std::string zip("PK\x03\x04\0\0\x08\x08\0\0", 10);
  for (const std::string& bytes : {pickle, zip}) {
    const support::TemporaryDirectory folder;
    for (const char* name : {"pytorch_model.bin", "model.safetensors"}) {
      WriteBytes(folder.File(name), bytes);
      EXPECT_EQ(base::ErrorReason(OpenCheckpoint(folder.File(name)).status()),
                "PICKLE_REFUSED");
      EXPECT_EQ(base::ErrorReason(OpenCheckpoint(folder.path()).status()),
                "PICKLE_REFUSED");
    }
  }
}

TEST(OpenCheckpointTest, AcceptsAHeaderWhoseLengthLooksLikeAPickle) {
  const support::TemporaryDirectory folder;
  std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  header.resize(0x280, ' ');
  WriteBytes(folder.File("x"), SafetensorsBytes(header, "z"));
  EXPECT_TRUE(OpenCheckpoint(folder.File("x")).ok());
}

}  // namespace
}  // namespace quantd::checkpoints
