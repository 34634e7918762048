// SPDX-License-Identifier: Apache-2.0
// Transforms applied to a whole model, the way the pipeline does, and the
// model's logits before and after.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/status_macros.h"
#include "tests/worker/models/model_run.h"
#include "worker/calibration/input_statistics.h"
#include "worker/checkpoints/reader.h"
#include "worker/models/model.h"
#include "worker/models/weights.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {

// A model over a reader that takes edits.
struct EditableModel {
  std::unique_ptr<EditedReader> reader;
  std::unique_ptr<models::LinearLoader> loader;
  std::unique_ptr<models::Model> model;

  absl::Status Remake() {
    model.reset();
    loader = models::WithRotatedInputs(models::MakeDenseLoader(*reader),
                                       reader->input_rotations());
    ASSIGN_OR_RETURN(model, models::MakeModel(*reader, *loader));
    return absl::OkStatus();
  }
  // The weights of all linears keep float32, as those of quantized ones do.
  void KeepLinears() {
    std::set<std::string> names = {"lm_head.weight"};
    for (int64_t i = 0; i < model->num_blocks(); ++i) {
      for (const models::LinearShape& linear : model->BlockLinears(i)) {
        names.insert(linear.name + ".weight");
      }
    }
    reader->KeepPrecision(names);
  }
};

inline absl::StatusOr<EditableModel> OpenEditable(const std::string& path) {
  EditableModel opened;
  ASSIGN_OR_RETURN(auto source, checkpoints::OpenCheckpoint(path));
  opened.reader = std::make_unique<EditedReader>(std::move(source));
  RETURN_IF_ERROR(opened.Remake());
  return opened;
}

// One layout for every linear of the block.
inline std::map<std::string, formats::WeightSpec> SpecsFor(
    const models::Model& model, int64_t block,
    const formats::WeightSpec& spec) {
  std::map<std::string, formats::WeightSpec> specs;
  for (const models::LinearShape& linear : model.BlockLinears(block)) {
    specs[linear.name] = spec;
  }
  return specs;
}

// Statistics of what each linear reads, and the block's output in
// state.residual. `rows`, where it is not null, gets the inputs themselves.
inline absl::StatusOr<InputsByLinear> GatherInputs(
    const models::Block& block, models::SequenceState* state,
    std::map<std::string, at::Tensor>* rows = nullptr) {
  InputsByLinear inputs;
  block.Begin(state);
  for (size_t s = 0; s < block.stages().size(); ++s) {
    const models::Stage& stage = block.stages()[s];
    const auto read = block.Inputs(static_cast<int64_t>(s), *state);
    std::vector<std::shared_ptr<calibration::InputStatistics>> gathered;
    for (const at::Tensor& x : read) {
      gathered.emplace_back();
      if (x.size(0) == 0) continue;
      calibration::InputAccumulator accumulator(true, at::kCPU);
      RETURN_IF_ERROR(accumulator.Add(x.contiguous(), base::CancelToken()));
      ASSIGN_OR_RETURN(auto finished, accumulator.Finish());
      gathered.back() =
          std::make_shared<calibration::InputStatistics>(std::move(finished));
    }
    for (size_t i = 0; i < stage.linears.size(); ++i) {
      const int64_t which = stage.input_of[i];
      if (gathered[which] == nullptr) continue;
      inputs[stage.linears[i]] = gathered[which];
      if (rows != nullptr) (*rows)[stage.linears[i]] = read[which].clone();
    }
    block.Apply(static_cast<int64_t>(s), state);
  }
  return inputs;
}

inline BlockProblem ProblemOf(
    EditableModel& opened, const models::Block& block,
    const models::BlockFolds& folds,
    const std::map<std::string, formats::WeightSpec>& specs,
    const InputsByLinear& inputs) {
  return {
      block, folds, specs, inputs, [&opened](const std::string& tensor) {
        return opened.reader->Read(models::StoredName(*opened.reader, tensor));
      }};
}

// Applies `transform` to all of the model; the edits of its blocks are added.
inline absl::Status Apply(const Transform& transform, const at::Tensor& ids,
                          const formats::WeightSpec& spec,
                          EditableModel* opened) {
  if (transform.needs() == Needs::kNoData) {
    RETURN_IF_ERROR(
        transform.EditModel(*opened->model, 7, opened->reader.get()));
    return opened->Remake();
  }
  const base::CancelToken cancel;
  models::SequenceState state;
  ASSIGN_OR_RETURN(state.residual, opened->model->Embed(ids));
  for (int64_t i = 0; i < opened->model->num_blocks(); ++i) {
    ASSIGN_OR_RETURN(const auto block,
                     opened->model->LoadBlock(i, ids.size(0)));
    ASSIGN_OR_RETURN(const InputsByLinear inputs, GatherInputs(*block, &state));
    const models::BlockFolds folds = opened->model->Folds(i);
    const auto specs = SpecsFor(*opened->model, i, spec);
    ASSIGN_OR_RETURN(
        const BlockEdits edits,
        transform.FitBlock(ProblemOf(*opened, *block, folds, specs, inputs),
                           cancel));
    RETURN_IF_ERROR(opened->reader->Add(edits.edits));
  }
  return absl::OkStatus();
}

inline formats::WeightSpec Int3() {
  formats::WeightSpec spec;
  spec.format = "int3";
  spec.group_size = 16;
  spec.symmetric = false;
  return spec;
}

}  // namespace quantd::transforms
