// SPDX-License-Identifier: Apache-2.0
// What every model family must do, on each of the small reference checkpoints
// that it takes: tensors, stages and numbers are those of the reference.
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "tests/contract/registered.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/models/model.h"
#include "worker/models/weights.h"

namespace quantd::contract {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The references are float32 within 2e-5 of a float64 run; 1e-4 leaves room for
// another order of sums and for nothing else.
constexpr double kTolerance = 1e-4;

json ReadJson(const std::string& path) {
  return json::parse(*base::ReadFile(path));
}

// The reference checkpoints whose model_type the family takes.
std::vector<std::string> References(const std::string& family) {
  std::vector<std::string> folders;
  for (const models::FamilyEntry& entry : models::Registry()) {
    if (entry.description.id() != family) continue;
    for (const auto& folder :
         fs::directory_iterator(support::TestData("fixtures/models"))) {
      const std::string config = folder.path() / "config.json";
      if (!fs::exists(config)) continue;
      if (entry.matches(ReadJson(config)["model_type"])) {
        folders.push_back(folder.path());
      }
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

struct Reference {
  std::unique_ptr<checkpoints::CheckpointReader> reader;
  std::unique_ptr<models::LinearLoader> loader;
  std::unique_ptr<models::Model> model;
  checkpoints::TensorMap golden;
  json facts;
};

Reference Open(const std::string& folder) {
  Reference reference;
  reference.reader = *checkpoints::OpenCheckpoint(folder);
  reference.loader = models::MakeDenseLoader(*reference.reader);
  auto model = models::MakeModel(*reference.reader, *reference.loader);
  EXPECT_TRUE(model.ok()) << folder << ": " << model.status();
  reference.model = *std::move(model);
  reference.golden =
      *checkpoints::ReadSafetensors(folder + "/golden.safetensors");
  reference.facts = ReadJson(folder + "/golden.json");
  return reference;
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

class FamilyContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_TEST_DATA();
    folders_ = References(GetParam());
    if (folders_.empty()) {
      GTEST_SKIP() << "no reference checkpoint has this model type";
    }
  }
  std::vector<std::string> folders_;
};

TEST_P(FamilyContract, HiddenStatesAndLogitsAreThoseOfTheReference) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    models::Model& model = *reference.model;
    const at::Tensor ids = reference.golden.at("input_ids");
    for (int64_t row = 0; row < ids.size(0); ++row) {
      models::SequenceState state;
      state.residual = *model.Embed(ids[row]);
      for (int64_t i = 0; i < model.num_blocks(); ++i) {
        const auto block = model.LoadBlock(i, ids.size(1));
        ASSERT_TRUE(block.ok()) << block.status();
        (*block)->Forward(&state);
        const at::Tensor& expected =
            reference.golden.at(absl::StrCat("layer_out.", i));
        EXPECT_LT(Difference(state.residual, expected[row]), kTolerance) << i;
      }
      const at::Tensor logits =
          (*model.LoadHead())->Apply(*model.FinalNorm(state.residual));
      const at::Tensor expected = reference.golden.at("logits")[row];
      EXPECT_LT(Difference(logits, expected), kTolerance);
      EXPECT_TRUE(logits.argmax(-1).equal(expected.argmax(-1)));
    }
  }
}

// What the reference counts as quantizable, experts included.
struct Quantizable {
  // "<name> <out> x <in>"; without those of experts that lie in one tensor.
  std::multiset<std::string> linears;
  int64_t weights = 0;
  bool fused_experts = false;
};

Quantizable QuantizableOf(const json& facts, const std::string& head) {
  Quantizable all;
  for (const char* kind : {"quantizable_linears", "quantizable_experts"}) {
    for (const json& linear : facts[kind]) {
      if (linear["name"] == head) continue;
      if (linear.value("fused", false)) {
        all.fused_experts = true;
        int64_t weights = 1;
        for (const json& size : linear["shape"]) weights *= size.get<int64_t>();
        all.weights += weights;
        continue;
      }
      const int64_t out = linear["out_features"];
      const int64_t in = linear["in_features"];
      all.weights += out * in;
      all.linears.insert(
          absl::StrCat(linear["name"].get<std::string>(), " ", out, " x ", in));
    }
  }
  return all;
}

TEST_P(FamilyContract, EveryQuantizableLinearOfTheReferenceIsListedOnce) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    const models::Model& model = *reference.model;
    const Quantizable expected =
        QuantizableOf(reference.facts, model.HeadShape().name);
    std::multiset<std::string> listed;
    int64_t weights = 0;
    for (int64_t i = 0; i < model.num_blocks(); ++i) {
      for (const models::LinearShape& shape : model.BlockLinears(i)) {
        listed.insert(absl::StrCat(shape.name, " ", shape.out_features, " x ",
                                   shape.in_features));
        weights += shape.out_features * shape.in_features;
      }
    }
    EXPECT_EQ(weights, expected.weights);
    if (!expected.fused_experts) {
      EXPECT_EQ(listed, expected.linears);
    }
    const std::set<std::string> once(listed.begin(), listed.end());
    EXPECT_EQ(once.size(), listed.size());
  }
}

TEST_P(FamilyContract, StagesHoldThePlannedLinearsInForwardOrder) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    models::Model& model = *reference.model;
    for (int64_t i = 0; i < model.num_blocks(); ++i) {
      const auto block = model.LoadBlock(i, 8);
      ASSERT_TRUE(block.ok()) << block.status();
      std::vector<std::string> planned;
      for (const models::LinearShape& shape : model.BlockLinears(i)) {
        planned.push_back(shape.name);
        const models::Linear& linear = (*block)->linear(shape.name);
        EXPECT_EQ(linear.out_features(), shape.out_features) << shape.name;
        EXPECT_EQ(linear.in_features(), shape.in_features) << shape.name;
      }
      std::vector<std::string> staged;
      for (const models::Stage& stage : (*block)->stages()) {
        EXPECT_FALSE(stage.linears.empty());
        staged.insert(staged.end(), stage.linears.begin(), stage.linears.end());
      }
      EXPECT_EQ(staged, planned);
    }
  }
}

TEST_P(FamilyContract, StageByStageWithEqualLinearsGivesTheSameBits) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    models::Model& model = *reference.model;
    const at::Tensor ids = reference.golden.at("input_ids")[0];
    const at::Tensor hidden = *model.Embed(ids);
    const auto whole = *model.LoadBlock(0, ids.size(0));
    const auto parts = *model.LoadBlock(0, ids.size(0));
    models::SequenceState expected{.residual = hidden, .input = {}};
    whole->Forward(&expected);
    models::SequenceState state{.residual = hidden, .input = {}};
    parts->Begin(&state);
    for (size_t s = 0; s < parts->stages().size(); ++s) {
      ASSERT_TRUE(state.input.defined());
      EXPECT_EQ(state.input.size(0), ids.size(0));
      for (const std::string& name : parts->stages()[s].linears) {
        const models::Linear& linear = parts->linear(name);
        parts->Replace(name, models::MakeDenseLinear(
                                 linear.DenseWeight().clone(), linear.bias()));
      }
      parts->Apply(static_cast<int64_t>(s), &state);
    }
    EXPECT_TRUE(state.residual.equal(expected.residual));
    EXPECT_FALSE(state.input.defined());
  }
}

// The output of block 0 for every row of ids, after `change`.
at::Tensor FirstBlock(models::Model& model, const at::Tensor& ids,
                      const std::function<void(models::Block*)>& change) {
  std::vector<at::Tensor> rows;
  for (int64_t row = 0; row < ids.size(0); ++row) {
    const auto block = *model.LoadBlock(0, ids.size(1));
    change(block.get());
    models::SequenceState state{.residual = *model.Embed(ids[row]),
                                .input = {}};
    block->Forward(&state);
    rows.push_back(state.residual);
  }
  return at::stack(rows);
}

TEST_P(FamilyContract, EveryLinearHasASayInTheOutput) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    models::Model& model = *reference.model;
    const at::Tensor ids = reference.golden.at("input_ids");
    const at::Tensor expected = FirstBlock(model, ids, [](auto*) {});
    for (const models::LinearShape& shape : model.BlockLinears(0)) {
      // Scaling would not do: norms of queries and keys take it back.
      const auto upside_down = [&](models::Block* block) {
        const models::Linear& linear = block->linear(shape.name);
        block->Replace(shape.name,
                       models::MakeDenseLinear(linear.DenseWeight().flip(0),
                                               linear.bias()));
      };
      EXPECT_GT(Difference(FirstBlock(model, ids, upside_down), expected), 1e-3)
          << shape.name;
    }
  }
}

TEST_P(FamilyContract, ATiedHeadIsTheEmbedding) {
  for (const std::string& folder : folders_) {
    SCOPED_TRACE(folder);
    const Reference reference = Open(folder);
    models::Model& model = *reference.model;
    const models::LinearShape shape = model.HeadShape();
    EXPECT_EQ(shape.out_features, model.vocabulary_size());
    EXPECT_EQ(shape.in_features, model.hidden_size());
    const auto head = model.LoadHead();
    ASSERT_TRUE(head.ok()) << head.status();
    EXPECT_EQ((*head)->out_features(), shape.out_features);
    const bool stored =
        !models::StoredName(*reference.reader, shape.name + ".weight").empty();
    // A head without a tensor of its own can only be the embedding.
    EXPECT_TRUE(stored || model.head_is_tied());
    EXPECT_EQ(model.head_is_tied(),
              reference.reader->config().value("tie_word_embeddings", false));
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, FamilyContract,
                         testing::ValuesIn(Ids(v1::SEAM_FAMILY)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace quantd::contract
