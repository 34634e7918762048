// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/activation_cache.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::pipeline {
namespace {

constexpr char kHiddenTensor[] = "hidden";
constexpr char kReferenceTensor[] = "reference";

// A mapping of an unnamed file, gone with its last view.
absl::StatusOr<at::Tensor> MapUnnamedFile(const std::string& directory,
                                          int64_t floats) {
  const int file =
      open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return base::ErrnoStatus(errno, "making the activation file");
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  // Reserved at once: a full disk must be an error here, not a SIGBUS later.
  const int error = posix_fallocate(file, 0, bytes);
  if (error != 0) {
    close(file);
    return base::ErrnoStatus(error, "reserving the activation file");
  }
  void* address =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (address == MAP_FAILED) {
    return base::ErrnoStatus(errno, "mapping the activation file");
  }
  return at::from_blob(
      address, {floats}, [bytes](void* mapped) { munmap(mapped, bytes); },
      at::kFloat);
}

}  // namespace

int64_t ActivationCache::BudgetBytes(int32_t memory_reduction) {
  if (memory_reduction > 0) return 0;
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) /
         4;
}

absl::StatusOr<std::unique_ptr<ActivationCache>> ActivationCache::Create(
    const Options& options) {
  std::unique_ptr<ActivationCache> cache(new ActivationCache(options));
  const int64_t rows = options.sequences * options.tokens;
  const int64_t floats = rows * (options.hidden + options.widest_input);
  cache->spilled_ =
      floats * static_cast<int64_t>(sizeof(float)) > options.budget_bytes;
  ASSIGN_OR_RETURN(const at::Tensor residual,
                   cache->Allocate(rows * options.hidden));
  cache->residual_ = residual.view({rows, options.hidden});
  if (options.widest_input > 0) {
    ASSIGN_OR_RETURN(cache->input_,
                     cache->Allocate(rows * options.widest_input));
  }
  return cache;
}

absl::StatusOr<at::Tensor> ActivationCache::Allocate(int64_t floats) {
  if (spilled_) return MapUnnamedFile(options_.spill_directory, floats);
  return at::empty({floats}, at::kFloat);
}

models::SequenceState ActivationCache::Load(int64_t i) const {
  models::SequenceState state;
  const int64_t tokens = options_.tokens;
  state.residual = residual_.narrow(0, i * tokens, tokens);
  const int64_t width = input_widths_[i];
  if (width > 0) {
    // Sequences keep their places whatever the width, so that one can be
    // replaced while others still have the width before.
    const int64_t begin = i * tokens * options_.widest_input;
    state.input = input_.narrow(0, begin, tokens * width).view({tokens, width});
  }
  state.residual = state.residual.to(options_.device);
  if (state.input.defined()) state.input = state.input.to(options_.device);
  return state;
}

void ActivationCache::Store(int64_t i, const models::SequenceState& state) {
  const at::Tensor residual =
      residual_.narrow(0, i * options_.tokens, options_.tokens);
  if (residual.const_data_ptr() != state.residual.const_data_ptr()) {
    residual.copy_(state.residual);
  }
  input_widths_[i] = 0;
  if (!state.input.defined() || !input_.defined()) return;
  const int64_t width = state.input.size(1);
  input_widths_[i] = width;
  const int64_t begin = i * options_.tokens * options_.widest_input;
  input_.narrow(0, begin, options_.tokens * width)
      .view({options_.tokens, width})
      .copy_(state.input);
}

absl::Status ActivationCache::WriteResidual(
    const std::string& path, const ActivationCache* reference) const {
  checkpoints::TensorMap tensors = {{kHiddenTensor, residual_}};
  if (reference != nullptr) tensors[kReferenceTensor] = reference->residual_;
  return checkpoints::WriteSafetensors(path, tensors);
}

absl::Status ActivationCache::ReadResidual(const std::string& path,
                                           ActivationCache* reference) {
  ASSIGN_OR_RETURN(const checkpoints::TensorMap tensors,
                   checkpoints::ReadSafetensors(path));
  RETURN_IF_ERROR(TakeResidual(tensors, kHiddenTensor));
  if (reference == nullptr) return absl::OkStatus();
  return reference->TakeResidual(tensors, kReferenceTensor);
}

absl::Status ActivationCache::TakeResidual(
    const checkpoints::TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end() || found->second.scalar_type() != at::kFloat ||
      found->second.sizes() != residual_.sizes()) {
    return base::MakeError(absl::StatusCode::kDataLoss, "STEP_FILE_DAMAGED",
                           "the committed activations do not fit the job");
  }
  residual_.copy_(found->second);
  return absl::OkStatus();
}

void ActivationCache::SwapResidual(ActivationCache* other) {
  std::swap(residual_, other->residual_);
  std::fill(input_widths_.begin(), input_widths_.end(), 0);
}

absl::Status ForwardAll(const models::Block& block, const ActivationCache& from,
                        const base::CancelToken& cancel,
                        ProgressReporter* progress, ActivationCache* to) {
  for (int64_t i = 0; i < from.sequences(); ++i) {
    RETURN_IF_ERROR(cancel.Check());
    models::SequenceState state;
    state.residual = from.Load(i).residual;
    block.Begin(&state);
    for (int64_t stage = 0; stage < std::ssize(block.stages()); ++stage) {
      RETURN_IF_ERROR(cancel.Check());
      block.Apply(stage, &state);
    }
    state.input = at::Tensor();
    to->Store(i, state);
    progress->AddTokens(from.tokens());
  }
  return absl::OkStatus();
}

}  // namespace quantd::pipeline
