// SPDX-License-Identifier: Apache-2.0
// Quantizes the linears of one decoder block, stage by stage, with a single
// forward pass: a stage's input gives the statistics, the stage's linears are
// replaced by what they became, and applying them gives the next stage's input.
// Experts read rows of their own and so have statistics of their own.
#pragma once

#include <functional>
#include <map>
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
#include "worker/pipeline/block_file.h"
#include "worker/pipeline/block_reconstruction.h"
#include "worker/pipeline/module_plan.h"
#include "worker/pipeline/progress.h"

namespace quantd::pipeline {

struct QuantizedBlock {
  QuantizedModules modules;
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

// One thread. The references outlive it.
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
  };
  static constexpr int64_t kGramBytes = int64_t{4} << 30;
  BlockQuantizer(const Options& options, const base::CancelToken& cancel,
                 ProgressReporter& progress)
      : options_(options), cancel_(cancel), progress_(progress) {}

  // `plans`: the block's linears by name. `cache` is null where no method needs
  // statistics; else it goes from the block's inputs to its outputs. Errors
  // whose reason begins with NUMERIC_ leave the layer in failure().
  absl::StatusOr<QuantizedBlock> Run(
      models::Block& block, const std::map<std::string, ModulePlan>& plans,
      ActivationCache* cache);

  // What linears of the next Run have become already, rounded together.
  void Take(BlockSolutions solved) { solved_ = std::move(solved); }

  // Quantizes a single linear, the head among them. `shared` belongs to the
  // statistics.
  absl::Status RunLinear(const ModulePlan& plan, const models::Linear& linear,
                         const absl::StatusOr<calibration::Statistics>& stats,
                         methods::SharedWork* shared, QuantizedBlock* out);

  const LayerFailure& failure() const { return failure_; }

 private:
  // Quantized linears of a stage that read the same rows.
  struct Group {
    int64_t input = 0;
    std::vector<std::string> linears = {};
    // Input features where somebody needs the Gram matrix, else 0.
    int64_t gram_width = 0;
  };
  using GroupStatistics = absl::StatusOr<calibration::Statistics>;

  static absl::StatusOr<std::vector<Group>> GroupsOf(
      const models::Stage& stage,
      const std::map<std::string, ModulePlan>& plans);
  // How many of `groups`, from `begin` on, have their statistics gathered in
  // one pass.
  size_t PassSize(const std::vector<Group>& groups, size_t begin) const;

  // One pass over all sequences, which stand before `stage`: applies the stage
  // before it where `advance`, and gathers the statistics of `groups`.
  absl::Status Pass(const models::Block& block, int64_t stage, bool advance,
                    absl::Span<const Group> groups, ActivationCache* cache,
                    std::vector<GroupStatistics>* statistics);
  absl::Status QuantizeGroup(models::Block& block, const Group& group,
                             const std::map<std::string, ModulePlan>& plans,
                             const GroupStatistics& statistics,
                             QuantizedBlock* out);

  // What Take left of `name`, else what the method makes of the problem.
  absl::StatusOr<methods::LinearSolution> Solve(const std::string& name,
                                                const methods::Method& method,
                                                methods::LinearProblem problem);

  const Options options_;
  const base::CancelToken& cancel_;
  ProgressReporter& progress_;
  LayerFailure failure_;
  BlockSolutions solved_;
};

}  // namespace quantd::pipeline
