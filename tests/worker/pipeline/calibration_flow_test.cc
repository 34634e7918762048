// SPDX-License-Identifier: Apache-2.0
// The ways that calibration tokens take through a model, each layer of a job
// beside what its method makes of inputs that are worked out here from the
// definition: with blocks, linears and sums, and none of the pipeline.
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/worker/pipeline/local_agent.h"
#include "tests/worker/pipeline/tiny_job.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"
#include "worker/steps/block_file.h"

namespace quantd::pipeline {
namespace {

struct Flow {
  bool true_sequential;
  bool propagate_error;
  double alpha;
};

v1::JobSpec FlowJob(const Flow& flow) {
  v1::JobSpec spec = TinyJob("gptq");
  auto& params = *RecipeOf(spec).mutable_method()->mutable_params();
  params["true_sequential"].set_bool_value(flow.true_sequential);
  params["propagate_error"].set_bool_value(flow.propagate_error);
  params["alpha"].set_double_value(flow.alpha);
  return spec;
}

using Residuals = std::vector<at::Tensor>;

// The model, and the tokens before one of its blocks.
class Walk {
 public:
  explicit Walk(const LocalAgent& agent)
      : reader_(*checkpoints::OpenCheckpoint(TinyInputs().File("tiny"))),
        loader_(models::MakeDenseLoader(*reader_)),
        model_(*models::MakeModel(*reader_, *loader_)) {
    const at::Tensor tokens =
        checkpoints::ReadSafetensors(agent.BlobFile(0, "tokens"))->at("tokens");
    for (int64_t i = 0; i < tokens.size(0); ++i) {
      embedded.push_back(*model_->Embed(tokens[i]));
    }
  }

  // Block `index`; the linears of its first `stages` stages are those of
  // `quantized`.
  std::unique_ptr<models::Block> Load(int64_t index,
                                      const steps::QuantizedModules& quantized,
                                      int64_t stages) const {
    auto block = *model_->LoadBlock(index, embedded[0].size(0));
    for (int64_t s = 0; s < stages; ++s) {
      for (const std::string& name : block->stages()[s].linears) {
        block->Replace(name, models::MakeDenseLinear(
                                 formats::Dequantize(quantized.at(name)),
                                 block->linear(name).bias()));
      }
    }
    return block;
  }

  int64_t blocks() const { return model_->num_blocks(); }

  Residuals embedded;

 private:
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<models::LinearLoader> loader_;
  std::unique_ptr<models::Model> model_;
};

at::Tensor InputOf(const models::Block& block, int64_t stage,
                   const at::Tensor& residual) {
  models::SequenceState state;
  state.residual = residual.clone();
  block.Begin(&state);
  for (int64_t s = 0; s < stage; ++s) block.Apply(s, &state);
  return block.Inputs(stage, state).front();
}

Residuals Through(const models::Block& block, const Residuals& residuals) {
  Residuals outputs;
  for (const at::Tensor& residual : residuals) {
    models::SequenceState state;
    state.residual = residual.clone();
    block.Forward(&state);
    outputs.push_back(state.residual);
  }
  return outputs;
}

class CalibrationFlowTest : public testing::TestWithParam<Flow> {};

TEST_P(CalibrationFlowTest, EveryLayerIsCalibratedOnWhatItIsToSee) {
  const Flow& flow = GetParam();
  const v1::JobSpec spec = FlowJob(flow);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const Walk walk(agent);
  const auto method = *methods::MakeMethod(spec.quantize().recipe().method());
  Residuals seen = walk.embedded;
  Residuals reference = walk.embedded;
  for (int64_t b = 0; b < walk.blocks(); ++b) {
    const steps::QuantizedModules done = *steps::ReadBlockFile(
        agent.BlobFile(static_cast<int>(b) + 1, "weights"));
    const auto float_block = walk.Load(b, done, 0);
    const auto stages = static_cast<int64_t>(float_block->stages().size());
    for (int64_t s = 0; s < stages; ++s) {
      const auto block = walk.Load(b, done, flow.true_sequential ? s : 0);
      const auto& linears = block->stages()[s].linears;
      calibration::GramAccumulator gram(
          block->linear(linears.front()).in_features(), at::kCPU);
      for (size_t i = 0; i < seen.size(); ++i) {
        const at::Tensor input = InputOf(*block, s, seen[i]);
        EXPECT_TRUE(gram.Add(input, base::CancelToken()).ok());
        if (flow.alpha == 0) continue;
        EXPECT_TRUE(gram.AddDrift(input, InputOf(*float_block, s, reference[i]),
                                  base::CancelToken())
                        .ok());
      }
      calibration::Statistics statistics;
      ASSERT_TRUE(gram.Finish(&statistics).ok());
      for (const std::string& name : linears) {
        const at::Tensor weight = float_block->linear(name).DenseWeight();
        const auto expected = method->QuantizeLinear(
            {weight, &statistics, {"int4", 32, true, "float16"}}, {});
        ASSERT_TRUE(expected.ok()) << expected.status();
        EXPECT_TRUE(at::equal(expected->linear.codes, done.at(name).codes))
            << name;
        EXPECT_TRUE(at::equal(expected->linear.scales, done.at(name).scales))
            << name;
      }
    }
    reference = Through(*float_block, reference);
    seen = flow.propagate_error ? Through(*walk.Load(b, done, stages), seen)
                                : reference;
  }
}

TEST_P(CalibrationFlowTest,
       ResumedJobsAndThoseWithLittleMemoryAreTheSameBytes) {
  const v1::JobSpec spec = FlowJob(GetParam());
  LocalAgent agent(spec);
  ASSERT_TRUE(agent.Run().ok());
  const std::vector<std::string> expected = agent.BlobDigests();
  agent.KeepSteps(2);
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
  agent.KeepSteps(2);
  agent.LoseBlob(1, "activations");
  ASSERT_TRUE(agent.Run().ok());
  EXPECT_EQ(agent.BlobDigests(), expected);
  // Everything on disk, one group of matrices at a time.
  LocalAgent small(spec);
  small.start_.set_memory_reduction(1);
  ASSERT_TRUE(small.Run().ok());
  EXPECT_EQ(small.BlobDigests(), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Flows, CalibrationFlowTest,
    testing::Values(Flow{true, true, 0}, Flow{false, true, 0},
                    Flow{true, false, 0}, Flow{false, false, 0},
                    Flow{true, true, 1}, Flow{false, true, 0.5},
                    Flow{true, false, 0.25}));

TEST(CalibrationFlowJobTest, TheHeadIsCalibratedToo) {
  v1::JobSpec spec = FlowJob({true, true, 1});
  RecipeOf(spec).set_quantize_lm_head(true);
  LocalAgent agent(spec);
  const auto result = agent.Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const v1::LayerReport& head =
      result->report.layers(result->report.layers_size() - 1);
  EXPECT_EQ(head.name(), "lm_head");
  EXPECT_EQ(head.verdict(), v1::VERDICT_OK) << head.reason();
}

TEST(CalibrationFlowJobTest, ThereIsOneWayThroughTheModel) {
  for (const char* parameter : {"true_sequential", "propagate_error"}) {
    v1::JobSpec spec = TinyJob("gptq");
    v1::Override* row = RecipeOf(spec).add_overrides();
    row->set_pattern("*.1.*");
    (*row->mutable_extra())[parameter].set_bool_value(false);
    LocalAgent agent(spec);
    EXPECT_EQ(base::ErrorReason(agent.Run().status()),
              "METHOD_PARAMETERS_DIFFER");
  }
}

TEST(CalibrationFlowJobTest, SomeLayersAloneMayFollowTheDrift) {
  v1::JobSpec spec = TinyJob("gptq");
  v1::Override* row = RecipeOf(spec).add_overrides();
  row->set_pattern("*.down_proj");
  (*row->mutable_extra())["alpha"].set_double_value(1);
  LocalAgent some(spec);
  LocalAgent none(TinyJob("gptq"));
  ASSERT_TRUE(some.Run().ok());
  ASSERT_TRUE(none.Run().ok());
  const steps::QuantizedModules followed =
      *steps::ReadBlockFile(some.BlobFile(1, "weights"));
  const steps::QuantizedModules plain =
      *steps::ReadBlockFile(none.BlobFile(1, "weights"));
  for (const auto& [name, linear] : plain) {
    const bool down = name.find("down_proj") != name.npos;
    EXPECT_EQ(at::equal(linear.codes, followed.at(name).codes), !down) << name;
  }
}

}  // namespace
}  // namespace quantd::pipeline
