// SPDX-License-Identifier: Apache-2.0
// Quantizes the linears of one decoder block. Stage by stage this takes a
// single forward pass: a stage's input gives the statistics, the stage's
// linears are replaced by what they became, and applying them gives the next
// stage's input. All at once it takes a pass through the float block and one
// through the quantized block.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/base/cancel.h"
#include "quantd/v1/report.pb.h"
#include "worker/calibration/gram.h"
#include "worker/methods/shared_work.h"
#include "worker/models/model.h"
#include "worker/pipeline/activation_cache.h"
#include "worker/pipeline/block_reconstruction.h"
#include "worker/pipeline/input_groups.h"
#include "worker/pipeline/input_ranges.h"
#include "worker/pipeline/module_plan.h"
#include "worker/pipeline/progress.h"
#include "worker/steps/block_file.h"
#include "worker/steps/kept_linears.h"

namespace quantd::pipeline {

struct QuantizedBlock {
  steps::QuantizedModules modules;
  // In forward order.
  std::vector<v1::LayerReport> layers;
  // The Gram matrices that could not be used, by module.
  std::map<std::string, at::Tensor> rejected_grams;
};

// One layer's failure under the policy "fail": what is kept of it.
struct LayerFailure {
  v1::LayerReport layer;
  // Undefined where the method had none.
  at::Tensor gram;
};

// The same tokens in the float model, for methods that compare.
struct FloatReference {
  // Stands before the block and goes along to its outputs. Null: none.
  ActivationCache* cache = nullptr;
  const models::Block* block = nullptr;
};

// One thread; experts are solved on all of LibTorch's. The references outlive
// it.
class BlockQuantizer {
 public:
  struct Options {
    // False: a layer that falls back to rounding ends the job.
    bool allow_fallback = true;
    // Tokens per sequence.
    int64_t sequence_length = 0;
    at::Device device = at::kCPU;
    // Gram matrices of a stage that are held at once; at least one is. What is
    // above takes further passes over the stage's inputs.
    int64_t gram_bytes = kGramBytes;
    methods::CalibrationFlow flow = {};
    // False: experts too are solved one after another, on all threads.
    bool side_by_side = true;
  };
  static constexpr int64_t kGramBytes = int64_t{4} << 30;
  BlockQuantizer(const Options& options, const base::CancelToken& cancel,
                 ProgressReporter& progress)
      : options_(options), cancel_(cancel), progress_(progress) {}

  // `plans`: the block's linears by name. `cache` is null where no method needs
  // statistics; else it goes from the block's inputs to its outputs, or, where
  // those are not to go through the quantized block, anywhere. Errors whose
  // reason begins with NUMERIC_ leave the layer in failure().
  absl::StatusOr<QuantizedBlock> Run(
      models::Block& block, const std::map<std::string, ModulePlan>& plans,
      ActivationCache* cache, const FloatReference& reference = {});

  // What linears of the next Run have become already, rounded together.
  void Take(BlockSolutions solved) { solved_ = std::move(solved); }

  // From here on linears that an earlier process quantized are taken from
  // `store`, and what this one makes is kept there where that is due. Null:
  // nothing is kept.
  void KeepIn(methods::LoopStore* store) {
    kept_ = std::make_unique<steps::KeptLinears>(store);
  }

  // Quantizes a single linear, the head among them. `shared` belongs to the
  // statistics.
  absl::Status RunLinear(const ModulePlan& plan, const models::Linear& linear,
                         const absl::StatusOr<calibration::Statistics>& stats,
                         methods::SharedWork* shared, QuantizedBlock* out);

  // Puts the static range of a layer's input, if it has one, into its report.
  // One that is not finite is an error where there is no fallback; else every
  // token keeps a range of its own.
  absl::Status ReportRange(const InputRanges& ranges,
                           v1::LayerReport* layer) const;

  const LayerFailure& failure() const { return failure_; }

 private:
  using Plans = std::map<std::string, ModulePlan>;
  using Groups = absl::Span<const InputGroup>;
  // What a linear is quantized by.
  struct LinearInput {
    const methods::Method& method;
    // Null where there are none or the method looks at none.
    const calibration::Statistics* statistics = nullptr;
    methods::SharedWork* shared = nullptr;
    // Why the method is not asked; empty where it is.
    std::string unusable = {};
    // Nothing is wrong with the statistics but the number of their tokens.
    bool too_few = false;
  };
  struct Streams {
    ActivationCache* cache = nullptr;
    FloatReference reference = {};
  };
  // What one thread makes of one group.
  struct SolvedGroup {
    // By linear: what an earlier process made of it, if that was kept.
    std::vector<std::optional<steps::SolvedLinear>> kept;
    QuantizedBlock done;
    LayerFailure failure;
    absl::Status ended;
  };

  absl::Status RunStages(models::Block& block, const Plans& plans,
                         const Streams& streams, QuantizedBlock* out);
  absl::Status RunAtOnce(models::Block& block, const Plans& plans,
                         const Streams& streams, QuantizedBlock* out);

  absl::StatusOr<std::vector<InputGroup>> StageGroups(
      const models::Stage& stage, int64_t index, const Plans& plans) const;

  // One pass over all sequences, which stand before `stage`: applies the stage
  // before it where `advance`, and gathers the statistics of `groups`.
  absl::StatusOr<std::vector<GroupStatistics>> StagePass(
      const models::Block& block, int64_t stage, bool advance, Groups groups,
      const Streams& streams);
  // One pass from the block's inputs on, which stay as they are.
  // `first`: earlier groups of the block have not made the same pass.
  absl::StatusOr<std::vector<GroupStatistics>> BlockPass(
      const models::Block& block, bool first, Groups groups,
      const Streams& streams);

  // `statistics` by group; each is let go of once its group is done.
  absl::Status QuantizeGroups(const models::Block& block, Groups groups,
                              const Plans& plans,
                              absl::Span<GroupStatistics> statistics,
                              QuantizedBlock* out);
  absl::Status QuantizeGroup(const models::Block& block,
                             const InputGroup& group, const Plans& plans,
                             const GroupStatistics& statistics,
                             QuantizedBlock* out);
  absl::Status QuantizeSideBySide(const models::Block& block, Groups groups,
                                  const Plans& plans,
                                  absl::Span<GroupStatistics> statistics,
                                  QuantizedBlock* out);
  // QuantizeGroup for several threads at once, each with an `out` of its own.
  absl::Status SolveGroup(const models::Block& block, const InputGroup& group,
                          const Plans& plans, const GroupStatistics& statistics,
                          SolvedGroup* out);
  // Adds what a thread made, and keeps its failure.
  void TakeOver(SolvedGroup group, QuantizedBlock* out);
  // Puts what the linears became into the block.
  absl::Status Replace(models::Block& block, const InputGroup& group,
                       const Plans& plans, const QuantizedBlock& done) const;

  // Whatever was kept of it; `done`: the linears before, to be kept beside what
  // is in work. Null: nothing of it is kept.
  absl::StatusOr<steps::SolvedLinear> QuantizeLinear(
      const ModulePlan& plan, const at::Tensor& weight,
      const LinearInput& input, const QuantizedBlock* done);
  // What Take left of `name`, else what the method makes of the problem.
  absl::StatusOr<methods::LinearSolution> Solve(const std::string& name,
                                                const LinearInput& input,
                                                methods::LinearProblem problem,
                                                const QuantizedBlock* done);
  static LinearInput InputOf(const methods::Method& method,
                             const GroupStatistics& statistics,
                             methods::SharedWork* shared);
  // Adds a linear to `out`. NUMERIC_LAYER and the `failure` where it was
  // rounded to nearest for want of better and that ends the job.
  absl::Status Accept(steps::SolvedLinear solved, const LinearInput& input,
                      QuantizedBlock* out, LayerFailure* failure) const;

  const Options options_;
  const base::CancelToken& cancel_;
  ProgressReporter& progress_;
  LayerFailure failure_;
  BlockSolutions solved_;
  std::unique_ptr<steps::KeptLinears> kept_ =
      std::make_unique<steps::KeptLinears>(nullptr);
  // Of the block of the current Run.
  std::unique_ptr<InputRanges> ranges_;
};

}  // namespace quantd::pipeline
