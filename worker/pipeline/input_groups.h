// SPDX-License-Identifier: Apache-2.0
// Linears of a block that read the same rows, and the sums over those rows that
// their methods ask for. Experts read rows of their own and so have statistics
// of their own.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/base/cancel.h"
#include "worker/calibration/gram.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"
#include "worker/pipeline/module_plan.h"

namespace quantd::pipeline {

struct InputGroup {
  int64_t stage = 0;
  // Of Block::Inputs.
  int64_t input = 0;
  // Those that are quantized.
  std::vector<std::string> linears = {};
  // Input features.
  int64_t width = 0;
  // Output features, of all its linears.
  int64_t outputs = 0;
  // Groups of the stage that follow one another with these same shapes, this
  // one among them: experts.
  int64_t alike = 1;
  // The most that any of the linears asks for.
  methods::Needs needs = methods::Needs::kNothing;

  // What the sums take.
  int64_t bytes() const;
  // Whether a thread has the group to itself, beside others like it. Does not
  // depend on how many of them fit into memory at once, and so the bits do not.
  bool OnOneThread() const;
};

// The groups of the block's stage `index`.
absl::StatusOr<std::vector<InputGroup>> GroupsOf(
    const models::Stage& stage, int64_t index,
    const std::map<std::string, ModulePlan>& plans);

// `plans` for the linears of `block` as it is now, where those of a group that
// have the same format have one tensor scale.
absl::StatusOr<std::map<std::string, ModulePlan>> WithTensorScales(
    const models::Block& block, const std::map<std::string, ModulePlan>& plans);

// How many of `groups` have sums of at most `bytes`, but at least one.
size_t GroupsWithin(absl::Span<const InputGroup> groups, int64_t bytes);

using GroupStatistics = absl::StatusOr<calibration::Statistics>;

// The sums of some groups, in one pass over the sequences. One thread; groups
// that are OnOneThread are summed side by side. The groups and the token
// outlive it.
class GroupSums {
 public:
  GroupSums(absl::Span<const InputGroup> groups, at::Device device,
            const base::CancelToken& cancel);

  // Whether anything is summed up at `stage`.
  bool Wants(int64_t stage) const;
  // The rows of one sequence of `tokens` tokens. `reference`: the same of the
  // float model; empty where nobody compares. CANCELLED.
  absl::Status Add(int64_t stage, const std::vector<at::Tensor>& inputs,
                   const std::vector<at::Tensor>& reference, int64_t tokens);
  // In the order of the groups; nothing summed is nothing wrong.
  std::vector<GroupStatistics> Finish(int64_t sampled_tokens);

 private:
  struct Sums {
    std::optional<calibration::GramAccumulator> gram;
    std::optional<calibration::SquareAccumulator> squares;
  };

  absl::Status AddRows(size_t group, const std::vector<at::Tensor>& inputs,
                       const std::vector<at::Tensor>& reference,
                       int64_t tokens);

  const absl::Span<const InputGroup> groups_;
  const base::CancelToken& cancel_;
  std::vector<Sums> sums_;
};

}  // namespace quantd::pipeline
