// SPDX-License-Identifier: Apache-2.0
// Linears whose inputs are rotated while the model runs.
#include <utility>

#include "proto/base/status_macros.h"
#include "worker/models/linear.h"

namespace quantd::models {
namespace {

class RotatedLinear : public Linear {
 public:
  RotatedLinear(std::unique_ptr<Linear> linear, numerics::Rotation rotation)
      : linear_(std::move(linear)), rotation_(std::move(rotation)) {}

  at::Tensor Apply(const at::Tensor& input) const override {
    return linear_->Apply(rotation_.Apply(input));
  }
  at::Tensor DenseWeight() const override { return linear_->DenseWeight(); }
  int64_t out_features() const override { return linear_->out_features(); }
  int64_t in_features() const override { return linear_->in_features(); }
  const at::Tensor& bias() const override { return linear_->bias(); }
  const numerics::Rotation* input_rotation() const override {
    return &rotation_;
  }
  int64_t weight_bytes() const override { return linear_->weight_bytes(); }

 private:
  const std::unique_ptr<Linear> linear_;
  const numerics::Rotation rotation_;
};

class RotatingLoader : public LinearLoader {
 public:
  RotatingLoader(std::unique_ptr<LinearLoader> loader,
                 const numerics::InputRotations& rotations)
      : loader_(std::move(loader)), rotations_(rotations) {}

  formats::KvRounding KvRounding() const override {
    return loader_->KvRounding();
  }
  absl::StatusOr<std::unique_ptr<Linear>> Load(const std::string& name,
                                               int64_t out_features,
                                               int64_t in_features,
                                               bool has_bias) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Linear> linear,
                     loader_->Load(name, out_features, in_features, has_bias));
    const auto rotation = rotations_.find(name);
    if (rotation == rotations_.end()) return linear;
    return MakeRotatedLinear(
        MakeDenseLinear(
            rotation->second.ApplyToWeight(linear->DenseWeight(), at::kFloat),
            linear->bias()),
        &rotation->second);
  }

 private:
  const std::unique_ptr<LinearLoader> loader_;
  const numerics::InputRotations& rotations_;
};

}  // namespace

std::unique_ptr<Linear> MakeRotatedLinear(std::unique_ptr<Linear> linear,
                                          const numerics::Rotation* rotation) {
  if (rotation == nullptr) return linear;
  return std::make_unique<RotatedLinear>(std::move(linear), *rotation);
}

std::unique_ptr<LinearLoader> WithRotatedInputs(
    std::unique_ptr<LinearLoader> loader,
    const numerics::InputRotations& rotations) {
  return std::make_unique<RotatingLoader>(std::move(loader), rotations);
}

}  // namespace quantd::models
