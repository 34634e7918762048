// SPDX-License-Identifier: Apache-2.0
// Against logits of the reference implementation (fixtures/models, gguf).
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "tests/support/test_data.h"
#include "tests/worker/models/model_run.h"
#include "worker/checkpoints/gguf_header.h"
#include "worker/checkpoints/gguf_names.h"
#include "worker/checkpoints/input_file.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::models {
namespace {

namespace fs = std::filesystem;

constexpr double kTolerance = 1e-4;
constexpr double kNllTolerance = 2e-5;

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

// Mean negative log-likelihood of each token given those before it.
double MeanNll(const at::Tensor& logits, const at::Tensor& ids) {
  const int64_t last = ids.size(0) - 1;
  return at::log_softmax(logits.slice(0, 0, last).to(at::kDouble), -1)
      .gather(1, ids.slice(0, 1).unsqueeze(1))
      .mean()
      .neg()
      .item<double>();
}

struct Opened {
  std::unique_ptr<checkpoints::CheckpointReader> reader;
  std::unique_ptr<LinearLoader> loader;
  std::unique_ptr<Model> model;
};

absl::StatusOr<Opened> Open(const std::string& path) {
  Opened opened;
  ASSIGN_OR_RETURN(opened.reader, checkpoints::OpenCheckpoint(path));
  opened.loader = MakeDenseLoader(*opened.reader);
  ASSIGN_OR_RETURN(opened.model, MakeModel(*opened.reader, *opened.loader));
  return opened;
}

void ExpectParity(const std::string& path,
                  const checkpoints::TensorMap& golden) {
  const auto opened = Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Model& model = *opened->model;
  const at::Tensor ids = golden.at("input_ids");
  for (int64_t row = 0; row < ids.size(0); ++row) {
    const auto run = RunModel(model, ids[row]);
    ASSERT_TRUE(run.ok()) << run.status();
    const at::Tensor logits = golden.at("logits")[row];
    EXPECT_LT(MaxDifference(run->logits, logits), kTolerance);
    EXPECT_TRUE(run->logits.argmax(-1).equal(logits.argmax(-1)));
    EXPECT_NEAR(MeanNll(run->logits, ids[row]),
                golden.at("nll")[row].to(at::kDouble).mean().item<double>(),
                kNllTolerance);
    EXPECT_LT(MaxDifference(run->residuals[0], golden.at("layer_in.0")[row]),
              kTolerance);
    for (int64_t i = 0; i < model.num_blocks(); ++i) {
      EXPECT_LT(MaxDifference(run->residuals[static_cast<size_t>(i) + 1],
                              golden.at(absl::StrCat("layer_out.", i))[row]),
                kTolerance);
    }
  }
}

using Sizes = std::map<std::string, std::pair<int64_t, int64_t>>;

// A linear of golden.json, or all experts' of a fused tensor.
void AddExpected(const nlohmann::json& linear, Sizes* expected) {
  const std::string name = linear["name"];
  if (name == "lm_head") return;
  if (!linear.value("fused", false)) {
    (*expected)[name] = {linear["out_features"], linear["in_features"]};
    return;
  }
  const std::vector<int64_t> shape = linear["shape"];
  const std::string layer = name.substr(0, name.rfind('.'));
  const bool gate_up = name.substr(layer.size()) == ".gate_up_proj";
  for (int64_t e = 0; e < shape[0]; ++e) {
    const std::string expert = absl::StrCat(layer, ".", e, ".");
    if (gate_up) {
      (*expected)[expert + "gate_proj"] = {shape[1] / 2, shape[2]};
      (*expected)[expert + "up_proj"] = {shape[1] / 2, shape[2]};
    } else {
      (*expected)[expert + "down_proj"] = {shape[1], shape[2]};
    }
  }
}

class ParityTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::string Fixture() {
    return support::TestData(absl::StrCat("fixtures/models/", GetParam()));
  }
};

TEST_P(ParityTest, LogitsAreThoseOfTheReference) {
  SKIP_WITHOUT_TEST_DATA();
  const auto golden =
      checkpoints::ReadSafetensors(Fixture() + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  ExpectParity(Fixture(), *golden);
}

TEST_P(ParityTest, LogitsAreTheSameFromTheOtherSpellingOfTheConfig) {
  SKIP_WITHOUT_TEST_DATA();
  const support::TemporaryDirectory folder;
  for (const auto& entry : fs::directory_iterator(Fixture())) {
    const std::string name = entry.path().filename();
    if (name == "config.json" || name == "golden.safetensors") continue;
    fs::create_symlink(
        fs::absolute(entry.path()),
        folder.File(name == "config_alt.json" ? "config.json" : name));
  }
  const auto golden =
      checkpoints::ReadSafetensors(Fixture() + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  ExpectParity(folder.path(), *golden);
}

TEST_P(ParityTest, LinearsAreThoseOfTheReferenceInOrder) {
  SKIP_WITHOUT_TEST_DATA();
  const auto golden =
      nlohmann::json::parse(*base::ReadFile(Fixture() + "/golden.json"));
  const auto opened = Open(Fixture());
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::vector<LinearShape> linears;
  for (int64_t i = 0; i < opened->model->num_blocks(); ++i) {
    for (const LinearShape& linear : opened->model->BlockLinears(i)) {
      linears.push_back(linear);
    }
  }
  Sizes found;
  for (const LinearShape& linear : linears) {
    found[linear.name] = {linear.out_features, linear.in_features};
  }
  Sizes expected;
  for (const char* kind : {"quantizable_linears", "quantizable_experts"}) {
    if (!golden.contains(kind)) continue;
    for (const auto& linear : golden[kind]) AddExpected(linear, &expected);
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found.size(), linears.size());
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ParityTest,
                         ::testing::Values("llama", "llama_tied", "llama3_rope",
                                           "llama_yarn", "llama_dynamic",
                                           "mistral", "mixtral", "olmoe",
                                           "qwen2", "qwen3", "qwen3_moe"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

TEST(DynamicRopeTest, ShortSequencesUseThePlainTable) {
  SKIP_WITHOUT_TEST_DATA();
  // The first 24 tokens alone: below the context, so nothing is scaled.
  const std::string fixture =
      support::TestData("fixtures/models/llama_dynamic");
  const auto golden =
      checkpoints::ReadSafetensors(fixture + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto opened = Open(fixture);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const at::Tensor prefix = golden->at("prefix_logits");
  const at::Tensor ids = golden->at("input_ids")[0].slice(0, 0, 24);
  const auto run = RunModel(*opened->model, ids);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_LT(MaxDifference(run->logits, prefix[0]), kTolerance);
  EXPECT_GT(MaxDifference(golden->at("logits")[0].slice(0, 0, 24), prefix[0]),
            0.1);
}

TEST(DynamicRopeTest, OneBlockServesSequencesOfDifferentLengths) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string fixture =
      support::TestData("fixtures/models/llama_dynamic");
  const auto opened = Open(fixture);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto golden =
      checkpoints::ReadSafetensors(fixture + "/golden.safetensors");
  const auto block = opened->model->LoadBlock(0, 48);
  ASSERT_TRUE(block.ok()) << block.status();
  const at::Tensor input = golden->at("layer_in.0")[0];
  SequenceState first{.residual = input, .input = {}};
  (*block)->Forward(&first);
  SequenceState second{.residual = input.slice(0, 0, 24), .input = {}};
  (*block)->Forward(&second);
  SequenceState third{.residual = input, .input = {}};
  (*block)->Forward(&third);
  EXPECT_TRUE(first.residual.equal(third.residual));
  EXPECT_GT(MaxDifference(first.residual.slice(0, 0, 24), second.residual),
            1e-3);
}

// A GGUF file with the values of its blocks as they are, in float32: what the
// fixtures' logits were computed from. The reader itself rounds them to
// float16.
class ExactGguf : public checkpoints::CheckpointReader {
 public:
  ExactGguf(const std::string& path,
            std::unique_ptr<checkpoints::CheckpointReader> rounded)
      : file_(checkpoints::InputFile::Open(path).value()),
        header_(checkpoints::ReadGgufHeader(*file_).value()),
        rounded_(std::move(rounded)) {}

  absl::StatusOr<at::Tensor> Read(const std::string& name) override {
    for (const checkpoints::GgufTensor& tensor : header_.tensors) {
      if (checkpoints::HuggingFaceName(tensor.name) == name) {
        return Exact(tensor);
      }
    }
    return rounded_->Read(name);
  }
  const std::map<std::string, checkpoints::TensorInfo>& tensors()
      const override {
    return rounded_->tensors();
  }
  const nlohmann::json& config() const override { return rounded_->config(); }
  const nlohmann::json& metadata() const override {
    return rounded_->metadata();
  }
  const std::map<std::string, std::string>& companions() const override {
    return rounded_->companions();
  }
  absl::StatusOr<std::string> Digest() override { return rounded_->Digest(); }

 private:
  at::Tensor Exact(const checkpoints::GgufTensor& tensor) const {
    std::vector<uint8_t> bytes(static_cast<size_t>(tensor.size_bytes));
    EXPECT_TRUE(
        file_->ReadAt(tensor.offset, tensor.size_bytes, bytes.data()).ok());
    at::Tensor values = at::empty(tensor.shape, at::kFloat);
    tensor.type->dequantize(bytes.data(),
                            tensor.size_bytes / tensor.type->block_bytes,
                            values.data_ptr<float>());
    const int64_t heads = checkpoints::InterleavedHeads(
        config(), config()["model_type"].get<std::string>(), tensor.name);
    if (heads == 0) return values;
    // Row j D/2 + i of a head of D rows lies at 2 i + j.
    std::vector<at::Tensor> rows;
    const int64_t head_dim = tensor.shape[0] / heads;
    for (int64_t row = 0; row < tensor.shape[0]; ++row) {
      const int64_t within = row % head_dim;
      const int64_t half = head_dim / 2;
      rows.push_back(
          values[row - within + 2 * (within % half) + within / half]);
    }
    return at::stack(rows);
  }

  const std::unique_ptr<checkpoints::InputFile> file_;
  const checkpoints::GgufHeader header_;
  const std::unique_ptr<checkpoints::CheckpointReader> rounded_;
};

struct GgufFixture {
  std::string path;
  at::Tensor ids;
  at::Tensor logits;
};

GgufFixture ReadGgufFixture(const std::string& name) {
  const std::string base =
      support::TestData(absl::StrCat("fixtures/gguf/", name));
  const auto golden =
      checkpoints::ReadSafetensors(base + ".logits.safetensors");
  EXPECT_TRUE(golden.ok()) << golden.status();
  const at::Tensor ids = golden->at("input_ids").view({-1});
  return {base + ".gguf", ids, golden->at("logits").view({ids.size(0), -1})};
}

class GgufParityTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufParityTest, LogitsAreThoseOfTheReference) {
  SKIP_WITHOUT_TEST_DATA();
  const GgufFixture fixture = ReadGgufFixture(GetParam());
  auto rounded = checkpoints::OpenCheckpoint(fixture.path);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  ExactGguf reader(fixture.path, *std::move(rounded));
  const auto loader = MakeDenseLoader(reader);
  const auto model = MakeModel(reader, *loader);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto run = RunModel(**model, fixture.ids);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_LT(MaxDifference(run->logits, fixture.logits), kTolerance);
  EXPECT_TRUE(run->logits.argmax(-1).equal(fixture.logits.argmax(-1)));
}

TEST_P(GgufParityTest, TheReaderRoundsBlocksToFloat16AndNothingElse) {
  SKIP_WITHOUT_TEST_DATA();
  const GgufFixture fixture = ReadGgufFixture(GetParam());
  const auto opened = Open(fixture.path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  ExactGguf exact(fixture.path,
                  checkpoints::OpenCheckpoint(fixture.path).value());
  for (const auto& [name, info] : opened->reader->tensors()) {
    const auto read = opened->reader->Read(name);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->scalar_type(), info.dtype == "F32" ? at::kFloat : at::kHalf)
        << name << " " << info.dtype;
    EXPECT_TRUE(read->equal(exact.Read(name)->to(read->scalar_type()))) << name;
  }
  // Weights move by at most 2^-11 of themselves. Through a dozen matrices in a
  // row that stays below a hundredth of the logits' standard deviation.
  const auto run = RunModel(*opened->model, fixture.ids);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_LT(MaxDifference(run->logits, fixture.logits),
            0.01 * fixture.logits.std().item<double>());
  EXPECT_TRUE(run->logits.argmax(-1).equal(fixture.logits.argmax(-1)));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GgufParityTest,
                         ::testing::Values("tiny_f16", "tiny_q4_0_q8_0"),
                         [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace quantd::models
