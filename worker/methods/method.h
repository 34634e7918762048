// SPDX-License-Identifier: Apache-2.0
// The seam of rounding methods: the weights of one linear layer, what is known
// of its inputs, and a number format in; codes and a numeric verdict out. A
// method sees no file, no model and no RPC.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/cancel.h"
#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "quantd/v1/report.pb.h"
#include "worker/calibration/gram.h"
#include "worker/formats/format.h"
#include "worker/methods/loop_store.h"
#include "worker/methods/loss_curve.h"
#include "worker/methods/shared_work.h"

namespace quantd::methods {

// What statistics a method needs of a layer's input; each has what those
// before it have.
enum class Needs { kNothing, kSquares, kGram, kGramAndDrift };

// The way that calibration tokens take through the model.
struct CalibrationFlow {
  // The layers of a stage see what the block's stages before it make of the
  // tokens once they are quantized. False: all layers of a block see what its
  // float layers make of what the block reads.
  bool stage_by_stage = true;
  // A block reads what the quantized blocks before it make of the tokens.
  // False: what the float blocks make of them.
  bool through_quantized = true;

  bool operator==(const CalibrationFlow&) const = default;
};

// Told of every step of an optimisation that is `steps` long; `loss` is that of
// plain rounding times a factor.
using LossObserver =
    std::function<void(int64_t step, int64_t steps, double loss)>;

struct LinearProblem {
  // float32 [out, in], contiguous. Not changed.
  const at::Tensor& weight;
  // What Needs asked for; null for kNothing.
  const calibration::Statistics* statistics = nullptr;
  formats::WeightSpec spec;
  // Lives and dies with `statistics`; null where nothing is kept.
  SharedWork* shared = nullptr;
  // May be empty.
  LossObserver observe = {};
  // Null where nothing is kept. Only methods that take long over one layer look
  // at it; what others make of whole layers is kept by the caller.
  LoopStore* store = nullptr;
};

struct LinearSolution {
  formats::QuantizedLinear linear;
  // OK, DAMPED or RTN_FALLBACK; with the reason where it is not OK. The caller
  // knows of UNWEIGHTED.
  v1::Verdict verdict = v1::VERDICT_OK;
  std::string reason;
  // The damping fraction that the factorization succeeded with; 0 if unused.
  double damp = 0;
  // Of an optimisation, as LossObserver has them: from the first step's loss to
  // the result's. Empty if there was none.
  std::vector<LossPoint> loss_curve = {};
  // Its ends; 0 if there was none.
  double first_loss = 0;
  double last_loss = 0;
};

class BlockMethod;  // block_method.h

// Immutable after it is made; used by one thread at a time.
class Method {
 public:
  virtual ~Method() = default;
  virtual Needs needs() const = 0;
  // The same for all modules of a job.
  virtual CalibrationFlow flow() const { return {}; }
  // The fraction of the calibration tokens that must reach a layer for the
  // method to be asked; with fewer, and always without any, the caller rounds
  // it to nearest (token_count.h).
  virtual double min_tokens() const { return 0; }
  // Polls `cancel` at least once a second. The same inputs give the same bits.
  // Errors are for inputs that no policy can mend (non-finite weights);
  // statistics that cannot be used end in the verdict RTN_FALLBACK.
  virtual absl::StatusOr<LinearSolution> QuantizeLinear(
      const LinearProblem& problem, const base::CancelToken& cancel) const = 0;
  // Null unless the linears of a decoder block are rounded together;
  // QuantizeLinear is then for those that stand outside of blocks. Valid as
  // long as this.
  virtual const BlockMethod* block_method() const { return nullptr; }
};

struct MethodEntry {
  v1::ComponentEntry description;
  // What `--method <id>` stands for besides the method itself, laid over the
  // defaults of every recipe; for example published settings.
  v1::Recipe preset;
  std::unique_ptr<Method> (*make)(const spec::Params& params);
};

const std::vector<MethodEntry>& Registry();

// NOT_FOUND naming the nearest ids; INVALID_ARGUMENT for its parameters.
absl::StatusOr<std::unique_ptr<Method>> MakeMethod(
    const v1::Component& component);

// tr(A G A^T) for rows A of a weight, float32 [out, in], products in float32
// and their sum in float64. Without a Gram matrix: the sum of squares, times
// those of the inputs where they are known. CANCELLED.
absl::StatusOr<double> OutputEnergy(const at::Tensor& rows,
                                    const calibration::Statistics* statistics,
                                    const base::CancelToken& cancel);

// tr(D G D^T) / tr(W G W^T) with D = W - dequantized, the layer's relative
// output error on the calibration tokens. `energy` is OutputEnergy of the
// weight. CANCELLED.
absl::StatusOr<double> RelativeError(const at::Tensor& weight,
                                     const formats::QuantizedLinear& linear,
                                     const calibration::Statistics* statistics,
                                     double energy,
                                     const base::CancelToken& cancel);
// The same all at once.
double RelativeError(const at::Tensor& weight,
                     const formats::QuantizedLinear& linear,
                     const calibration::Statistics* statistics);

}  // namespace quantd::methods
