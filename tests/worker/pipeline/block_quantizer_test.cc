// SPDX-License-Identifier: Apache-2.0
// Blocks with experts, solved one after another and side by side.
#include "worker/pipeline/block_quantizer.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/clock.h"
#include "tests/support/test_data.h"
#include "worker/checkpoints/reader.h"
#include "worker/models/model.h"

namespace quantd::pipeline {
namespace {

constexpr int64_t kSequences = 6;
constexpr int64_t kTokens = 40;

class SilentSink : public Sink {
 public:
  void ReportProgress(const v1::Progress&) override {}
  absl::Status StepDone(const v1::Step&,
                        const std::map<std::string, std::string>&) override {
    return absl::OkStatus();
  }
};

class BlockQuantizerTest : public testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_TEST_DATA(); }
  void TearDown() override { at::set_num_threads(threads_); }

  void Open(const std::string& fixture) {
    reader_ = *checkpoints::OpenCheckpoint(
        support::TestData(absl::StrCat("fixtures/models/", fixture)));
    loader_ = models::MakeDenseLoader(*reader_);
    model_ = *models::MakeModel(*reader_, *loader_);
    input_ = at::randn({kSequences * kTokens, model_->hidden_size()});
  }

  static std::map<std::string, ModulePlan> PlanAll(const models::Block& block) {
    std::map<std::string, ModulePlan> plans;
    for (const models::Stage& stage : block.stages()) {
      for (const std::string& name : stage.linears) {
        ModulePlan& plan = plans[name];
        plan.name = name;
        plan.out_features = block.linear(name).out_features();
        plan.in_features = block.linear(name).in_features();
        plan.quantized = true;
        plan.spec.format = "int4";
        plan.spec.group_size = 32;
        plan.method.set_id("gptq");
      }
    }
    return plans;
  }

  // What becomes of the last block.
  QuantizedBlock Quantize(bool side_by_side) {
    auto block = *model_->LoadBlock(model_->num_blocks() - 1, kTokens);
    ActivationCache::Options options;
    options.sequences = kSequences;
    options.tokens = kTokens;
    options.hidden = model_->hidden_size();
    options.widest_input = model_->widest_input();
    options.budget_bytes = int64_t{1} << 30;
    auto cache = *ActivationCache::Create(options);
    for (int64_t i = 0; i < kSequences; ++i) {
      cache->Store(i, {.residual = input_.narrow(0, i * kTokens, kTokens),
                       .input = at::Tensor()});
    }
    SilentSink sink;
    const v1::StartJob start;
    const Journal journal(start, sink, "", {{kBlockStep, "0"}});
    ProgressReporter progress(sink, journal, 1, base::Clock::Real());
    const base::CancelToken cancel;
    BlockQuantizer quantizer(
        {.sequence_length = kTokens, .side_by_side = side_by_side}, cancel,
        progress);
    auto done = quantizer.Run(*block, PlanAll(*block), cache.get());
    EXPECT_TRUE(done.ok()) << done.status();
    return *std::move(done);
  }

 private:
  const int threads_ = at::get_num_threads();
  std::unique_ptr<checkpoints::CheckpointReader> reader_;
  std::unique_ptr<models::LinearLoader> loader_;
  std::unique_ptr<models::Model> model_;
  at::Tensor input_;
};

TEST_F(BlockQuantizerTest, ExpertsBecomeTheSameSideBySide) {
  for (const char* fixture : {"mixtral", "olmoe", "qwen3_moe"}) {
    Open(fixture);
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(absl::StrCat(fixture, " on ", threads));
      at::set_num_threads(threads);
      const QuantizedBlock in_turn = Quantize(/*side_by_side=*/false);
      const QuantizedBlock beside = Quantize(/*side_by_side=*/true);
      ASSERT_EQ(beside.layers.size(), in_turn.layers.size());
      for (size_t i = 0; i < in_turn.layers.size(); ++i) {
        const std::string& name = in_turn.layers[i].name();
        EXPECT_EQ(beside.layers[i].name(), name);
        EXPECT_EQ(beside.layers[i].tokens(), in_turn.layers[i].tokens());
        EXPECT_EQ(beside.layers[i].relative_error(),
                  in_turn.layers[i].relative_error());
        const formats::QuantizedLinear& linear = in_turn.modules.at(name);
        const formats::QuantizedLinear& other = beside.modules.at(name);
        EXPECT_TRUE(at::equal(other.codes, linear.codes)) << name;
        EXPECT_TRUE(at::equal(other.scales, linear.scales)) << name;
      }
    }
  }
}

}  // namespace
}  // namespace quantd::pipeline
