// SPDX-License-Identifier: Apache-2.0
// The seam of transforms: rewrites of the float model that keep what it
// computes and make its weights easier to round. A transform only makes edits
// (edit.h); it writes no file and knows no family.
//
// A transform of the whole model looks at no data and edits everything before
// the first block. A fitted transform is asked block by block, just before a
// block is quantized, with statistics of the float block's inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/calibration/input_statistics.h"
#include "worker/formats/format.h"
#include "worker/models/model.h"
#include "worker/transforms/edit.h"
#include "worker/transforms/edited_reader.h"

namespace quantd::transforms {

// What of a linear's input a transform looks at.
enum class Needs {
  // Nothing: it edits the whole model.
  kNoData,
  // Nothing but a block's weights.
  kWeights,
  // InputStatistics without the Gram matrix.
  kMagnitudes,
  kGram,
};

using InputsByLinear =
    std::map<std::string, std::shared_ptr<calibration::InputStatistics>>;

// A block about to be quantized. The references outlive the call.
struct BlockProblem {
  // Its linears have the weights that earlier transforms made of them.
  const models::Block& block;
  const models::BlockFolds& folds;
  // The layout of each linear that is going to be quantized.
  const std::map<std::string, formats::WeightSpec>& specs;
  // Of what each linear reads; those of one input share them. A linear that no
  // token reached, or whose input is not finite, is not there.
  const InputsByLinear& inputs;
  // A tensor of the model as it is now, in the type it is stored in.
  std::function<absl::StatusOr<at::Tensor>(const std::string& tensor)> read;
};

// What a transform did to a block.
struct BlockEdits {
  std::vector<Edit> edits;
  // What the input of a linear is divided by, float32 [in features].
  std::map<std::string, at::Tensor> divisors;
};

// Immutable after it is made; used by one thread at a time. The same inputs
// give the same bits.
class Transform {
 public:
  virtual ~Transform() = default;
  virtual Needs needs() const = 0;
  // Whole-model transforms: edits `reader`, whose model is `model`. `seed` is
  // the recipe's. INVALID_ARGUMENT, ROTATION_UNSUPPORTED, where the family's
  // function would change.
  virtual absl::Status EditModel(const models::Model& model, uint64_t seed,
                                 EditedReader* reader) const;
  // Fitted transforms: the edits of one block. Polls `cancel` at least once per
  // candidate. Inputs without statistics or fold are left alone.
  virtual absl::StatusOr<BlockEdits> FitBlock(
      const BlockProblem& problem, const base::CancelToken& cancel) const;
};

struct TransformEntry {
  v1::ComponentEntry description;
  // What `--method ID` stands for; without a method, nothing does.
  v1::Recipe preset = {};
  std::unique_ptr<Transform> (*make)(const spec::Params& params);
};

// Alphabetical.
const std::vector<TransformEntry>& Registry();

// NOT_FOUND naming the nearest ids; INVALID_ARGUMENT for its parameters.
absl::StatusOr<std::unique_ptr<Transform>> MakeTransform(
    const v1::Component& component);

}  // namespace quantd::transforms
