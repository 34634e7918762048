// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/step_checkpoint.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/atomic_file.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::steps {
namespace {

namespace fs = std::filesystem;

constexpr char kUnfinished[] = "unfinished";

// Written, synced, and then named by its digest.
absl::StatusOr<std::string> WriteState(const std::string& directory,
                                       const std::string& step,
                                       const methods::LoopState& state) {
  checkpoints::TensorMap tensors;
  for (const auto& [name, tensor] : state) {
    tensors[name] = tensor.cpu().contiguous();
  }
  const std::string path = absl::StrCat(directory, "/", kUnfinished);
  RETURN_IF_ERROR(checkpoints::WriteSafetensors(path, tensors));
  ASSIGN_OR_RETURN(const base::FileDigest digest, base::DigestFile(path));
  const std::string name = absl::StrCat(step, "-", digest.sha256);
  if (rename(path.c_str(), absl::StrCat(directory, "/", name).c_str()) != 0) {
    return base::ErrnoStatus(errno, "naming the state of a step");
  }
  RETURN_IF_ERROR(base::SyncDirectory(directory));
  return name;
}

}  // namespace

StepCheckpoint::StepCheckpoint(std::string directory, absl::Duration interval,
                               base::Clock& clock)
    : directory_(std::move(directory)),
      interval_(interval),
      clock_(clock),
      last_(clock.Monotonic()) {}

void StepCheckpoint::Begin(const std::string& step) {
  step_ = step;
  last_ = clock_.Monotonic();
  if (directory_.empty()) return;
  std::error_code error;
  fs::create_directories(directory_, error);
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, absl::StrCat(step_, "-"))) {
      return RemoveAllBut(name);
    }
  }
  RemoveAllBut("");
}

void StepCheckpoint::End() { RemoveAllBut(""); }

void StepCheckpoint::RemoveAllBut(const std::string& kept) {
  if (directory_.empty()) return;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory_, ignored)) {
    if (entry.path().filename() != kept) fs::remove(entry.path(), ignored);
  }
}

methods::LoopState StepCheckpoint::Load() {
  if (directory_.empty()) return {};
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory_, ignored)) {
    const std::string name = entry.path().filename().string();
    absl::string_view sha256 = name;
    if (!absl::ConsumePrefix(&sha256, absl::StrCat(step_, "-"))) continue;
    const auto digest = base::DigestFile(entry.path().string());
    if (!digest.ok() || digest->sha256 != sha256) continue;
    auto state = checkpoints::ReadSafetensors(entry.path().string());
    if (!state.ok()) continue;
    spdlog::info("the step goes on from what an earlier process kept of it");
    return *std::move(state);
  }
  return {};
}

bool StepCheckpoint::IsDue() {
  return !directory_.empty() && clock_.Monotonic() - last_ >= interval_;
}

void StepCheckpoint::Keep(const methods::LoopState& state) {
  const absl::StatusOr<std::string> name = WriteState(directory_, step_, state);
  // A full disk must not end a job that needs none of this.
  if (name.ok()) {
    RemoveAllBut(*name);
  } else {
    spdlog::warn("the state of the step cannot be kept: {}",
                 std::string(name.status().message()));
  }
  // Writing takes time, too.
  last_ = clock_.Monotonic();
}

}  // namespace quantd::steps
