// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/input_groups.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>

#include "proto/base/status_macros.h"
#include "worker/formats/tensor_scale.h"
#include "worker/numerics/side_by_side.h"

namespace quantd::pipeline {
namespace {

using methods::Needs;

// Adds the drift of `rows` where the float model has the same tokens there: an
// expert may have been sent others, but all of them are the same.
absl::Status AddDrift(const at::Tensor& rows, const at::Tensor& reference,
                      int64_t tokens, const base::CancelToken& cancel,
                      calibration::GramAccumulator* gram) {
  if (rows.size(0) == 0 && reference.size(0) == 0) return absl::OkStatus();
  if (rows.size(0) == tokens && reference.size(0) == tokens) {
    return gram->AddDrift(rows, reference, cancel);
  }
  gram->GiveUpDrift();
  return absl::OkStatus();
}

// Fills in `alike`.
void CountAlike(std::vector<InputGroup>* groups) {
  const auto differ = [](const InputGroup& a, const InputGroup& b) {
    return a.width != b.width || a.outputs != b.outputs;
  };
  for (auto begin = groups->begin(); begin != groups->end();) {
    auto end = std::adjacent_find(begin, groups->end(), differ);
    if (end != groups->end()) ++end;
    const int64_t alike = end - begin;
    for (; begin != end; ++begin) begin->alike = alike;
  }
}

}  // namespace

int64_t InputGroup::bytes() const {
  const int64_t matrix = width * width * static_cast<int64_t>(sizeof(float));
  if (needs == Needs::kGramAndDrift) return 2 * matrix;
  return needs == Needs::kGram ? matrix : 0;
}

// The kernels of a narrow layer leave threads idle between their parts, those
// of a wide one do not. Few groups on many threads are better off with all of
// them for each in turn.
bool InputGroup::OnOneThread() const {
  constexpr int64_t kWidest = 4096;
  return alike > 1 && 2 * alike >= at::get_num_threads() && width <= kWidest;
}

absl::StatusOr<std::vector<InputGroup>> GroupsOf(
    const models::Stage& stage, int64_t index,
    const std::map<std::string, ModulePlan>& plans) {
  std::vector<InputGroup> groups;
  for (size_t i = 0; i < stage.linears.size(); ++i) {
    const auto plan = plans.find(stage.linears[i]);
    if (plan == plans.end() || !plan->second.quantized) continue;
    if (groups.empty() || groups.back().input != stage.input_of[i]) {
      groups.push_back({.stage = index,
                        .input = stage.input_of[i],
                        .width = plan->second.in_features});
    }
    InputGroup& group = groups.back();
    group.linears.push_back(plan->first);
    group.outputs += plan->second.out_features;
    ASSIGN_OR_RETURN(const auto method,
                     methods::MakeMethod(plan->second.method));
    group.needs = std::max(group.needs, method->needs());
  }
  CountAlike(&groups);
  return groups;
}

absl::StatusOr<std::map<std::string, ModulePlan>> WithTensorScales(
    const models::Block& block,
    const std::map<std::string, ModulePlan>& plans) {
  std::map<std::string, ModulePlan> scaled = plans;
  for (size_t s = 0; s < block.stages().size(); ++s) {
    ASSIGN_OR_RETURN(
        const std::vector<InputGroup> groups,
        GroupsOf(block.stages()[s], static_cast<int64_t>(s), plans));
    for (const InputGroup& group : groups) {
      std::vector<formats::JoinedWeight> joined;
      for (const std::string& name : group.linears) {
        formats::WeightSpec& spec = scaled.at(name).spec;
        if (!formats::HasTensorScale(spec)) continue;
        joined.push_back({block.linear(name).DenseWeight(), &spec});
      }
      formats::ShareTensorScales(joined);
    }
  }
  return scaled;
}

size_t GroupsWithin(absl::Span<const InputGroup> groups, int64_t bytes) {
  int64_t sum = 0;
  size_t count = 0;
  for (; count < groups.size(); ++count) {
    sum += groups[count].bytes();
    if (count > 0 && sum > bytes) break;
  }
  return count;
}

GroupSums::GroupSums(absl::Span<const InputGroup> groups, at::Device device,
                     const base::CancelToken& cancel)
    : groups_(groups), cancel_(cancel), sums_(groups.size()) {
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].needs >= Needs::kGram) {
      sums_[g].gram.emplace(groups[g].width, device);
    } else if (groups[g].needs == Needs::kSquares) {
      sums_[g].squares.emplace(groups[g].width, device);
    }
  }
}

bool GroupSums::Wants(int64_t stage) const {
  return std::any_of(
      groups_.begin(), groups_.end(), [stage](const InputGroup& group) {
        return group.stage == stage && group.needs != Needs::kNothing;
      });
}

absl::Status GroupSums::Add(int64_t stage,
                            const std::vector<at::Tensor>& inputs,
                            const std::vector<at::Tensor>& reference,
                            int64_t tokens) {
  std::vector<size_t> beside;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].stage != stage) continue;
    if (groups_[g].OnOneThread()) {
      beside.push_back(g);
    } else {
      RETURN_IF_ERROR(AddRows(g, inputs, reference, tokens));
    }
  }
  if (beside.empty()) return absl::OkStatus();
  return numerics::SideBySide(std::ssize(beside), [&](int64_t i) {
    return AddRows(beside[static_cast<size_t>(i)], inputs, reference, tokens);
  });
}

absl::Status GroupSums::AddRows(size_t group,
                                const std::vector<at::Tensor>& inputs,
                                const std::vector<at::Tensor>& reference,
                                int64_t tokens) {
  const size_t input = static_cast<size_t>(groups_[group].input);
  const at::Tensor& rows = inputs[input];
  Sums& sums = sums_[group];
  if (sums.gram.has_value() && rows.size(0) > 0) {
    RETURN_IF_ERROR(sums.gram->Add(rows, cancel_));
  }
  if (sums.squares.has_value() && rows.size(0) > 0) sums.squares->Add(rows);
  if (groups_[group].needs == Needs::kGramAndDrift && !reference.empty()) {
    return AddDrift(rows, reference[input], tokens, cancel_, &*sums.gram);
  }
  return absl::OkStatus();
}

std::vector<GroupStatistics> GroupSums::Finish(int64_t sampled_tokens) {
  std::vector<GroupStatistics> statistics;
  for (Sums& sums : sums_) {
    calibration::Statistics finished;
    absl::Status finite;
    if (sums.gram.has_value()) finite = sums.gram->Finish(&finished);
    if (sums.squares.has_value()) finite = sums.squares->Finish(&finished);
    finished.sampled_tokens = sampled_tokens;
    statistics.push_back(finite.ok() ? GroupStatistics(std::move(finished))
                                     : finite);
    sums = {};
  }
  return statistics;
}

}  // namespace quantd::pipeline
