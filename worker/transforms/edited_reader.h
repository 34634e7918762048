// SPDX-License-Identifier: Apache-2.0
// A checkpoint whose float tensors are changed as they are read. Models,
// exports and verification read through it and know nothing of transforms.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "worker/checkpoints/reader.h"
#include "worker/numerics/rotation.h"
#include "worker/transforms/edit.h"

namespace quantd::transforms {

// Edits of a tensor are applied in float64 in the order in which they were
// added; the result is rounded once, to the type the tensor is stored in.
// Reading and Add are thread-safe; the other changes come before anybody reads.
class EditedReader : public checkpoints::CheckpointReader {
 public:
  explicit EditedReader(std::unique_ptr<checkpoints::CheckpointReader> source);

  // Takes all edits or none. Tensors may be named with or without "model."
  // before them, like those of models/weights.h. NOT_FOUND, TENSOR_MISSING;
  // INTERNAL, EDIT_SHAPE.
  absl::Status Add(const std::vector<Edit>& edits);
  // Adds a tensor `name` that begins as a copy of `source`, and is changed by
  // itself from here on.
  absl::Status Copy(const std::string& name, const std::string& source);
  void SetConfig(const std::string& key, nlohmann::json value);
  // Weights that nobody stores as floats: Read gives them unrounded, as
  // float32, where they are edited, whatever tensors() says.
  void KeepPrecision(const std::set<std::string>& names);
  // Has the input of a module rotated while the model runs. Nothing that is
  // read here changes: whoever makes linears of it rotates weights and inputs
  // (models::WithRotatedInputs), and the function is the same.
  void RotateInput(const std::string& module,
                   const numerics::Rotation& rotation);
  // Forgets the rotations of all other modules.
  void KeepRotationsOf(const std::set<std::string>& modules);
  const numerics::InputRotations& input_rotations() const {
    return input_rotations_;
  }

  const std::map<std::string, checkpoints::TensorInfo>& tensors()
      const override {
    return tensors_;
  }
  // Besides the source's errors INVALID_ARGUMENT, TRANSFORM_OVERFLOW, where an
  // edited value is beyond the type it is stored in.
  absl::StatusOr<at::Tensor> Read(const std::string& name) override;
  const nlohmann::json& config() const override { return config_; }
  const nlohmann::json& metadata() const override {
    return source_->metadata();
  }
  const std::map<std::string, std::string>& companions() const override {
    return source_->companions();
  }
  // The source's: what was done to it is in the recipe.
  absl::StatusOr<std::string> Digest() override { return source_->Digest(); }

 private:
  std::vector<Edit> EditsOf(const std::string& name) const;

  const std::unique_ptr<checkpoints::CheckpointReader> source_;
  std::map<std::string, checkpoints::TensorInfo> tensors_;
  nlohmann::json config_;
  // Copies to the tensors they are of.
  std::map<std::string, std::string> copies_;
  std::set<std::string> unrounded_;
  numerics::InputRotations input_rotations_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<Edit>> edits_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd::transforms
