// SPDX-License-Identifier: Apache-2.0
#include "worker/transforms/edited_reader.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/models/weights.h"

namespace quantd::transforms {
namespace {

// Row-wise edits of large matrices go this many values at a time: float64 of a
// whole embedding would be the largest thing in memory.
constexpr int64_t kValuesAtOnce = int64_t{1} << 23;

at::Tensor ApplyAll(const std::vector<Edit>& edits, at::Tensor values,
                    int64_t first_row) {
  values = values.to(at::kDouble).contiguous();
  for (const Edit& edit : edits) values = ApplyEdit(edit, values, first_row);
  return values;
}

at::Tensor ApplyByRows(const std::vector<Edit>& edits, const at::Tensor& stored,
                       at::ScalarType type) {
  const int64_t rows = stored.size(0);
  const int64_t step = std::max<int64_t>(
      1, kValuesAtOnce / std::max<int64_t>(1, stored.numel() / rows));
  at::Tensor result = at::empty(stored.sizes(), type);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    result.narrow(0, row, count)
        .copy_(ApplyAll(edits, stored.narrow(0, row, count), row));
  }
  return result;
}

at::Tensor Edited(const std::vector<Edit>& edits, const at::Tensor& stored,
                  at::ScalarType type) {
  const bool by_rows =
      stored.numel() > 0 &&
      std::all_of(edits.begin(), edits.end(),
                  [](const Edit& edit) { return IsRowWise(edit.kind); });
  if (by_rows) return ApplyByRows(edits, stored, type);
  return ApplyAll(edits, stored, 0).to(type);
}

absl::Status Overflow(const std::string& name) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "TRANSFORM_OVERFLOW",
      absl::StrCat("a transform makes values of tensor \"", name,
                   "\" larger than the type it is stored in can hold; use a "
                   "bfloat16 or float32 checkpoint or leave the transform out"),
      {{"tensor", name}});
}

}  // namespace

EditedReader::EditedReader(
    std::unique_ptr<checkpoints::CheckpointReader> source)
    : source_(std::move(source)),
      tensors_(source_->tensors()),
      config_(source_->config()) {}

absl::Status EditedReader::Add(const std::vector<Edit>& edits) {
  std::vector<Edit> found = edits;
  for (Edit& edit : found) {
    const std::string stored = models::StoredName(*this, edit.tensor);
    if (stored.empty()) {
      return base::MakeError(
          absl::StatusCode::kNotFound, "TENSOR_MISSING",
          absl::StrCat("the checkpoint has no tensor \"", edit.tensor, "\""),
          {{"tensor", edit.tensor}});
    }
    edit.tensor = stored;
    RETURN_IF_ERROR(CheckEdit(edit, tensors_.at(stored).shape));
  }
  absl::MutexLock lock(&mutex_);
  for (Edit& edit : found) edits_[edit.tensor].push_back(std::move(edit));
  return absl::OkStatus();
}

absl::Status EditedReader::Copy(const std::string& name,
                                const std::string& source) {
  const std::string stored = models::StoredName(*source_, source);
  if (stored.empty() || tensors_.contains(name)) {
    return base::MakeError(
        absl::StatusCode::kNotFound, "TENSOR_MISSING",
        absl::StrCat("tensor \"", source, "\" cannot be copied to \"", name,
                     "\""),
        {{"tensor", source}});
  }
  tensors_[name] = tensors_.at(stored);
  copies_[name] = stored;
  return absl::OkStatus();
}

void EditedReader::SetConfig(const std::string& key, nlohmann::json value) {
  config_[key] = std::move(value);
}

void EditedReader::KeepPrecision(const std::set<std::string>& names) {
  for (const std::string& name : names) {
    const std::string stored = models::StoredName(*this, name);
    if (!stored.empty()) unrounded_.insert(stored);
  }
}

void EditedReader::RotateInput(const std::string& module,
                               const numerics::Rotation& rotation) {
  input_rotations_.insert_or_assign(module, rotation);
}

void EditedReader::KeepRotationsOf(const std::set<std::string>& modules) {
  std::erase_if(input_rotations_, [&modules](const auto& rotated) {
    return !modules.contains(rotated.first);
  });
}

std::vector<Edit> EditedReader::EditsOf(const std::string& name) const {
  absl::MutexLock lock(&mutex_);
  const auto found = edits_.find(name);
  return found == edits_.end() ? std::vector<Edit>() : found->second;
}

absl::StatusOr<at::Tensor> EditedReader::Read(const std::string& name) {
  const auto copy = copies_.find(name);
  ASSIGN_OR_RETURN(at::Tensor stored,
                   source_->Read(copy == copies_.end() ? name : copy->second));
  const std::vector<Edit> edits = EditsOf(name);
  if (edits.empty()) return stored;
  if (!at::isFloatingType(stored.scalar_type())) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "TENSOR_NOT_FLOAT",
        absl::StrCat("tensor \"", name, "\" is not floating point"),
        {{"tensor", name}});
  }
  const at::ScalarType type =
      unrounded_.contains(name) ? at::kFloat : stored.scalar_type();
  at::Tensor edited = Edited(edits, stored, type);
  // Values that were not finite before are the quantizer's to report.
  if (!at::isfinite(edited).all().item<bool>() &&
      at::isfinite(stored).all().item<bool>()) {
    return Overflow(name);
  }
  return edited;
}

}  // namespace quantd::transforms
