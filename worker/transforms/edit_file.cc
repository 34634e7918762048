// SPDX-License-Identifier: Apache-2.0
// Edits in a file: one tensor per edit, named by its place in the list, its
// kind, the columns per group and the tensor it changes.
#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/transforms/edit.h"

namespace quantd::transforms {
namespace {

constexpr std::array<std::pair<EditKind, const char*>, 6> kKinds = {{
    {EditKind::kDivideRows, "divide_rows"},
    {EditKind::kMultiplyColumns, "multiply_columns"},
    {EditKind::kRotateColumns, "rotate_columns"},
    {EditKind::kRotateRows, "rotate_rows"},
    {EditKind::kClampGroups, "clamp_groups"},
    {EditKind::kReplace, "replace"},
}};

const char* WordOf(EditKind kind) {
  for (const auto& [known, word] : kKinds) {
    if (known == kind) return word;
  }
  return "";
}

absl::Status Damaged() {
  return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                         "the committed changes of a transform cannot be read");
}

// "<place>/<kind>/<columns per group>/<tensor>".
absl::StatusOr<Edit> ParseName(const std::string& name) {
  const std::vector<std::string> words =
      absl::StrSplit(name, absl::MaxSplits('/', 3));
  Edit edit;
  if (words.size() != 4 || !absl::SimpleAtoi(words[2], &edit.group_size)) {
    return Damaged();
  }
  edit.tensor = words[3];
  for (const auto& [kind, word] : kKinds) {
    if (words[1] != word) continue;
    edit.kind = kind;
    return edit;
  }
  return Damaged();
}

}  // namespace

absl::Status WriteEdits(const std::string& path,
                        const std::vector<Edit>& edits) {
  checkpoints::TensorMap tensors;
  for (size_t i = 0; i < edits.size(); ++i) {
    const Edit& edit = edits[i];
    tensors[absl::StrFormat("%06d/%s/%d/%s", i, WordOf(edit.kind),
                            edit.group_size, edit.tensor)] =
        edit.operand.contiguous();
  }
  return checkpoints::WriteSafetensors(path, tensors);
}

absl::StatusOr<std::vector<Edit>> ReadEdits(const std::string& path) {
  ASSIGN_OR_RETURN(const checkpoints::TensorMap tensors,
                   checkpoints::ReadSafetensors(path));
  std::vector<Edit> edits;
  // The map is ordered by name, which begins with the place.
  for (const auto& [name, operand] : tensors) {
    ASSIGN_OR_RETURN(Edit edit, ParseName(name));
    edit.operand = operand;
    edits.push_back(std::move(edit));
  }
  return edits;
}

}  // namespace quantd::transforms
