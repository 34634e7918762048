// SPDX-License-Identifier: Apache-2.0
#include "worker/models/open_block.h"

#include <ATen/ops/mm.h>

#include <memory>
#include <optional>
#include <utility>

namespace quantd::models {

// A linear whose weight can be exchanged for the length of a forward pass, and
// through which autograd goes.
class OpenLinear : public Linear {
 public:
  explicit OpenLinear(const Linear& closed)
      : weight_(closed.DenseWeight()), bias_(closed.bias()), used_(weight_) {
    if (closed.input_rotation() != nullptr) {
      rotation_ = *closed.input_rotation();
    }
  }

  void Use(const at::Tensor& weight) { used_ = weight; }

  at::Tensor Apply(const at::Tensor& input) const override {
    const at::Tensor output = at::mm(
        rotation_.has_value() ? rotation_->Apply(input) : input, used_.t());
    return bias_.defined() ? output.add(bias_) : output;
  }
  at::Tensor DenseWeight() const override { return weight_; }
  int64_t out_features() const override { return weight_.size(0); }
  int64_t in_features() const override { return weight_.size(1); }
  const at::Tensor& bias() const override { return bias_; }
  const numerics::Rotation* input_rotation() const override {
    return rotation_.has_value() ? &*rotation_ : nullptr;
  }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(weight_.nbytes());
  }

 private:
  const at::Tensor weight_;
  const at::Tensor bias_;
  std::optional<numerics::Rotation> rotation_;
  at::Tensor used_;
};

OpenBlock::OpenBlock(Block& block, const std::set<std::string>& given)
    : block_(block) {
  for (const Stage& stage : block.stages()) {
    for (const std::string& name : stage.linears) {
      auto open = std::make_unique<OpenLinear>(block.linear(name));
      if (given.contains(name)) {
        given_.push_back(name);
        open_.push_back(open.get());
      } else {
        kept_.push_back(name);
      }
      block.Replace(name, std::move(open));
    }
  }
}

// The tiles of a dense linear sum in another order than one product does, and a
// resumed job runs the dense ones.
OpenBlock::~OpenBlock() {
  for (const std::string& name : kept_) {
    const Linear& linear = block_.linear(name);
    block_.Replace(name, MakeRotatedLinear(MakeDenseLinear(linear.DenseWeight(),
                                                           linear.bias()),
                                           linear.input_rotation()));
  }
}

at::Tensor OpenBlock::Forward(const at::Tensor& input,
                              const std::vector<at::Tensor>& weights) const {
  for (size_t i = 0; i < open_.size(); ++i) open_[i]->Use(weights[i]);
  SequenceState state;
  state.residual = input;
  block_.Forward(&state);
  return state.residual;
}

}  // namespace quantd::models
