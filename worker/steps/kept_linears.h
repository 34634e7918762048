// SPDX-License-Identifier: Apache-2.0
// Layers of a step that take long: what linears have become is kept with the
// step's state, beside that of the linear in work. A restarted runner works out
// the statistics again, which takes a forward pass, and not the solutions.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantd/v1/report.pb.h"
#include "worker/formats/quantized_linear.h"
#include "worker/methods/loop_store.h"
#include "worker/steps/block_file.h"

namespace quantd::steps {

// What one linear has become.
struct SolvedLinear {
  v1::LayerReport layer;
  formats::QuantizedLinear linear;
};

// All that is done of a step.
struct DoneLinears {
  const QuantizedModules& modules;
  const std::vector<v1::LayerReport>& layers;
};

// One thread.
class KeptLinears {
 public:
  // Loads what an earlier process kept of the step in `store`, which outlives
  // this. Null: nothing is kept.
  explicit KeptLinears(methods::LoopStore* store);

  // What a linear has become already; nothing where that was not kept or is not
  // of the name, block, format and shape that `wanted` has.
  std::optional<SolvedLinear> Take(const v1::LayerReport& wanted);
  // Keeps all of `done`, where it is due. To be called behind a linear that
  // this process solved: by then none is left to be taken.
  void Keep(const DoneLinears& done);
  // Where the optimisation of `module` keeps its state, always beside `done`;
  // null where nothing is kept. What `done` refers to and the store outlive it.
  std::unique_ptr<methods::LoopStore> StoreOf(const std::string& module,
                                              const DoneLinears& done);

 private:
  methods::LoopStore* const store_;
  methods::LoopState loaded_;
};

}  // namespace quantd::steps
