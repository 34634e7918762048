// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/block_reconstruction.h"

#include <google/protobuf/util/message_differencer.h>

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/methods/block_method.h"
#include "worker/models/open_block.h"

namespace quantd::pipeline {
namespace {

absl::Status CheckSameMethod(const std::vector<const ModulePlan*>& plans) {
  for (const ModulePlan* plan : plans) {
    if (google::protobuf::util::MessageDifferencer::Equals(
            plan->method, plans.front()->method)) {
      continue;
    }
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "METHOD_PARAMETERS_DIFFER",
        absl::StrCat(plan->name, " and ", plans.front()->name,
                     " are rounded together by ", plan->method.id(),
                     " and cannot have different parameters of it; give the "
                     "override a pattern for whole blocks"),
        {{"module", plan->name}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> RoundsTogether(const ModulePlan& plan) {
  if (!plan.quantized) return false;
  ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(plan.method));
  return method->block_method() != nullptr;
}

absl::StatusOr<BlockSolutions> ReconstructBlock(
    models::Block& block, const std::map<std::string, ModulePlan>& plans,
    const BlockTokens& tokens, methods::LoopStore* store,
    const base::CancelToken& cancel, ProgressReporter* progress) {
  bool together = false;
  for (const auto& [name, plan] : plans) {
    ASSIGN_OR_RETURN(const bool own, RoundsTogether(plan));
    together = together || own;
  }
  if (!together) return BlockSolutions();
  std::set<std::string> quantized;
  for (const auto& [name, plan] : plans) {
    if (plan.quantized) quantized.insert(name);
  }
  const models::OpenBlock open(block, quantized);
  std::vector<const ModulePlan*> opened;
  for (const std::string& name : open.given()) {
    opened.push_back(&plans.at(name));
  }
  RETURN_IF_ERROR(CheckSameMethod(opened));
  const ModulePlan& first = *opened.front();
  ASSIGN_OR_RETURN(const auto method, methods::MakeMethod(first.method));

  methods::BlockProblem problem;
  problem.store = store;
  problem.sequences = tokens.inputs.sequences();
  problem.input = [&](int64_t i) { return tokens.inputs.Load(i).residual; };
  problem.target = [&](int64_t i) { return tokens.targets.Load(i).residual; };
  if (tokens.weights.values.defined()) {
    const int64_t length = tokens.inputs.tokens();
    problem.output_weights = [&tokens, length](int64_t i) {
      return tokens.weights.values.narrow(0, i * length, length)
          .to(tokens.inputs.device(), at::kFloat);
    };
  }
  problem.forward = [&open](const at::Tensor& input,
                            const std::vector<at::Tensor>& weights) {
    return open.Forward(input, weights);
  };
  problem.observe = [&](int64_t step, int64_t steps, double loss) {
    progress->ReportLoss(step, steps, loss);
  };
  for (const ModulePlan* plan : opened) {
    problem.linears.push_back(
        {plan->name, block.linear(plan->name).DenseWeight(), plan->spec});
  }
  progress->Report(absl::StrCat("block ", first.block));
  ASSIGN_OR_RETURN(std::vector<methods::LinearSolution> solutions,
                   method->block_method()->QuantizeBlock(problem, cancel));
  spdlog::info(
      "block {}: {} began with {:.4f} of plain rounding's output error and "
      "left {:.4f}",
      first.block, first.method.id(), solutions.front().first_loss,
      solutions.front().last_loss);
  BlockSolutions by_name;
  for (size_t i = 0; i < solutions.size(); ++i) {
    if (!tokens.weights.unusable.empty() &&
        solutions[i].verdict == v1::VERDICT_OK) {
      solutions[i].verdict = v1::VERDICT_UNWEIGHTED;
      solutions[i].reason = tokens.weights.unusable;
    }
    by_name[opened[i]->name] = std::move(solutions[i]);
  }
  return by_name;
}

}  // namespace quantd::pipeline
