// SPDX-License-Identifier: Apache-2.0
// The list of transforms.
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "worker/transforms/transform.h"

namespace quantd::transforms {

TransformEntry Awq();          // awq.cc
TransformEntry Clip();         // clip.cc
TransformEntry Magr();         // magr.cc
TransformEntry Quarot();       // quarot.cc
TransformEntry SmoothQuant();  // smoothquant.cc

absl::Status Transform::EditModel(const models::Model&, uint64_t,
                                  EditedReader*) const {
  return absl::OkStatus();
}

absl::StatusOr<BlockEdits> Transform::FitBlock(const BlockProblem&,
                                               const base::CancelToken&) const {
  return BlockEdits();
}

const std::vector<TransformEntry>& Registry() {
  static const auto& entries = *new std::vector<TransformEntry>{
      Awq(), Clip(), Magr(), Quarot(), SmoothQuant()};
  return entries;
}

absl::StatusOr<std::unique_ptr<Transform>> MakeTransform(
    const v1::Component& component) {
  ASSIGN_OR_RETURN(const TransformEntry* entry,
                   spec::FindEntry(Registry(), "transform", component.id()));
  ASSIGN_OR_RETURN(const spec::Params params,
                   spec::Params::Resolve(component, entry->description));
  return entry->make(params);
}

}  // namespace quantd::transforms
