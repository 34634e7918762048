// SPDX-License-Identifier: Apache-2.0
// The seam of model families: config to blocks, names, shapes and the forward
// pass. Knows nothing of quantization beyond replacing a linear by another.
//
// A decoder block runs as an ordered list of stages. The linears of a stage
// read its input, each expert's only the rows that were routed to it; applying
// the stage takes that input to the next stage's input. So one pass over the
// tokens can gather statistics of a stage's input, replace its linears, and go
// on with the replaced ones: "true sequential" order at the price of a single
// forward.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quantd/v1/catalog.pb.h"
#include "worker/checkpoints/reader.h"
#include "worker/models/folds.h"
#include "worker/models/linear.h"

namespace quantd::models {

// One sequence on its way through a block. Float32, on the model's device.
struct SequenceState {
  // [tokens, hidden]: the residual stream.
  at::Tensor residual;
  // [tokens, values per token]: what the current stage reads, contiguous;
  // undefined after the last stage. Where linears read different rows of it,
  // its layout is the block's own; Block::Inputs has the rows of each.
  at::Tensor input;
};

// The linears between which nothing has to be applied.
struct Stage {
  // Full module names, for example "model.layers.0.self_attn.q_proj".
  std::vector<std::string> linears;
  // Which of Block::Inputs each of them reads, counted from 0 without gaps;
  // linears of one input follow one another.
  std::vector<int64_t> input_of;
};

// A decoder block with its weights in memory. Used by one thread at a time.
class Block {
 public:
  virtual ~Block() = default;
  virtual const std::vector<Stage>& stages() const = 0;
  virtual const Linear& linear(const std::string& name) const = 0;
  virtual void Replace(const std::string& name,
                       std::unique_ptr<Linear> linear) = 0;
  // Rounds attention's keys, as they are compared, and values from now on: the
  // rows are heads of tokens. Empty: no more. A block begins with what its
  // LinearLoader says.
  virtual void RoundKeysAndValues(formats::KvRounding rounding) = 0;
  // Makes state->input the input of stage 0 from state->residual.
  virtual void Begin(SequenceState* state) const = 0;
  // What the weights of `stage`, before which `state` stands, are multiplied
  // with: one float32 [rows, in_features] per input, rotated where its linears
  // rotate it. No row is possible where tokens are routed.
  virtual std::vector<at::Tensor> Inputs(int64_t stage,
                                         const SequenceState& state) const = 0;
  // Applies the linears of `stage` and whatever follows up to the next stage's
  // input, or, after the last stage, up to the block's output in residual.
  virtual void Apply(int64_t stage, SequenceState* state) const = 0;

  // All stages: residual in, residual out.
  void Forward(SequenceState* state) const;
};

// The shape of one quantizable linear.
struct LinearShape {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
};

// A model over an open checkpoint. Weights are read when asked for. Used by one
// thread at a time. The reader and the loader outlive it.
class Model {
 public:
  virtual ~Model() = default;
  virtual const std::string& family() const = 0;
  virtual int64_t num_blocks() const = 0;
  virtual int64_t hidden_size() const = 0;
  virtual int64_t vocabulary_size() const = 0;
  // The longest sequence the model was made for.
  virtual int64_t context_length() const = 0;
  // Quantizable linears of a block in forward order; no weights are read.
  virtual std::vector<LinearShape> BlockLinears(int64_t block) const = 0;
  // Linears of a block that stay in floating point whatever a recipe says; a
  // pattern may name them all the same.
  virtual std::vector<std::string> RouterLinears(int64_t block) const = 0;
  // The most values per token that SequenceState::input has anywhere.
  virtual int64_t widest_input() const = 0;
  // The head; its name is "lm_head". `tied`: it is the embedding matrix.
  virtual LinearShape HeadShape() const = 0;
  virtual bool head_is_tied() const = 0;

  // Weights and buffers of block `index`, for sequences of at most
  // `sequence_length` tokens (some rope scalings depend on it).
  virtual absl::StatusOr<std::unique_ptr<Block>> LoadBlock(
      int64_t index, int64_t sequence_length) = 0;
  // Token ids int64 [tokens] -> float32 [tokens, hidden].
  virtual absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids) = 0;
  // float32 [tokens, hidden] -> the head's input (the final norm).
  virtual absl::StatusOr<at::Tensor> FinalNorm(const at::Tensor& hidden) = 0;
  virtual absl::StatusOr<std::unique_ptr<Linear>> LoadHead() = 0;
  // Bytes of float weights the model has, in the dtype they are stored in.
  virtual int64_t stored_bytes() const = 0;

  // Where scales can move within a block; nowhere, unless the family says so.
  virtual BlockFolds Folds(int64_t /*block*/) const { return {}; }
  // How a rotation moves through the model. INVALID_ARGUMENT,
  // ROTATION_UNSUPPORTED, with the reason, where it would change the function.
  virtual absl::StatusOr<RotationPlan> Rotation() const;
};

// A family: which configs it takes and how it makes a model of one.
struct FamilyEntry {
  v1::ComponentEntry description;
  // True for the model_type values of config.json that this family runs.
  std::function<bool(const std::string& model_type)> matches;
  std::function<absl::StatusOr<std::unique_ptr<Model>>(
      checkpoints::CheckpointReader& reader, LinearLoader& loader,
      at::Device device)>
      make;
};

const std::vector<FamilyEntry>& Registry();

// The model of a checkpoint, by its config's model_type. INVALID_ARGUMENT,
// MODEL_FAMILY_UNKNOWN, naming the families there are. Weights and results are
// on `device`, for which `loader` was made too.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(
    checkpoints::CheckpointReader& reader, LinearLoader& loader,
    at::Device device = at::kCPU);

// Reads dense weights from `reader`, which outlives the loader, to `device`.
std::unique_ptr<LinearLoader> MakeDenseLoader(
    checkpoints::CheckpointReader& reader, at::Device device = at::kCPU);

}  // namespace quantd::models
