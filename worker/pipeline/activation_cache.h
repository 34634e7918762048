// SPDX-License-Identifier: Apache-2.0
// The residual stream of every calibration sequence and the input of the stage
// it stands before, float32, in two buffers that are allocated once. Above the
// memory budget the buffers are files that the kernel pages out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/models/model.h"
#include "worker/pipeline/progress.h"

namespace quantd::pipeline {

// One thread.
class ActivationCache {
 public:
  struct Options {
    int64_t sequences = 0;
    int64_t tokens = 0;
    int64_t hidden = 0;
    // The most input features of any stage; 0 keeps no inputs.
    int64_t widest_input = 0;
    int64_t budget_bytes = 0;
    // Where the files lie above the budget; they have no name there.
    std::string spill_directory;
    // Where sequences are handed out; the buffers are in host memory.
    at::Device device = at::kCPU;
  };
  // RESOURCE_EXHAUSTED where there is neither memory nor disk.
  static absl::StatusOr<std::unique_ptr<ActivationCache>> Create(
      const Options& options);

  // A quarter of the machine's memory, as blocks, statistics and the page cache
  // need the rest; nothing after an attempt that ended for want of memory.
  static int64_t BudgetBytes(int32_t memory_reduction);

  int64_t sequences() const { return options_.sequences; }
  // Per sequence.
  int64_t tokens() const { return options_.tokens; }
  at::Device device() const { return options_.device; }
  bool spilled() const { return spilled_; }

  // Views of sequence `i`, or copies on another device; the input is undefined
  // before the first Store of one.
  models::SequenceState Load(int64_t i) const;
  // Copies what `state` holds; an undefined input is forgotten.
  void Store(int64_t i, const models::SequenceState& state);

  // [sequences * tokens, hidden], a view.
  const at::Tensor& residual() const { return residual_; }
  // Writes the residual stream and, where there is one, the float model's
  // beside it; the same streams give the same bytes.
  absl::Status WriteResidual(const std::string& path,
                             const ActivationCache* reference = nullptr) const;
  // DATA_LOSS, STEP_FILE_DAMAGED, where the file does not fit.
  absl::Status ReadResidual(const std::string& path,
                            ActivationCache* reference = nullptr);
  // Exchanges residual streams with a cache of the same shape; inputs of this
  // one are forgotten.
  void SwapResidual(ActivationCache* other);

 private:
  explicit ActivationCache(const Options& options)
      : options_(options), input_widths_(options.sequences, 0) {}
  absl::StatusOr<at::Tensor> Allocate(int64_t floats);
  // Copies the tensor `name`, if it is there and fits.
  absl::Status TakeResidual(const checkpoints::TensorMap& tensors,
                            const std::string& name);

  const Options options_;
  bool spilled_ = false;
  at::Tensor residual_;
  // [sequences * tokens * widest_input]; undefined where no inputs are kept.
  at::Tensor input_;
  // Per sequence, the features of the input that is kept; 0 where none is.
  std::vector<int64_t> input_widths_;
};

// What `block` makes of every sequence of `from`, to `to`, which may be the
// same. CANCELLED.
absl::Status ForwardAll(const models::Block& block, const ActivationCache& from,
                        const base::CancelToken& cancel,
                        ProgressReporter* progress, ActivationCache* to);

}  // namespace quantd::pipeline
