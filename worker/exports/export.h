// SPDX-License-Identifier: Apache-2.0
// The seam of checkpoint layouts that other programs load. An export writes a
// directory from quantized layers and the float source, and can open what it
// wrote, so that verification and evaluation read it from disk by fresh code.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/spec/params.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "quantd/v1/report.pb.h"
#include "worker/checkpoints/reader.h"
#include "worker/formats/format.h"
#include "worker/formats/quantized_linear.h"
#include "worker/models/linear.h"
#include "worker/models/model.h"
#include "worker/numerics/rotation.h"

namespace quantd::exports {

// What is written. All references outlive the call.
struct ExportSource {
  // The float checkpoint: everything that was not quantized comes from it.
  checkpoints::CheckpointReader& reader;
  models::Model& model;
  // The modules that were quantized, in forward order.
  const std::vector<std::string>& quantized_modules;
  // The quantized layer of a module; read when asked for.
  std::function<absl::StatusOr<formats::QuantizedLinear>(const std::string&)>
      quantized;
  // The resolved recipe, for the layout's own config.
  const v1::Recipe& recipe;
  // Text of tokenizer.json; empty where the source has none.
  std::string tokenizer_json;
  // Of quantized modules whose activations have static ranges.
  std::map<std::string, v1::InputRange> input_ranges = {};
  // Of quantized modules whose inputs are rotated while the model runs: their
  // layers are those behind the rotation.
  numerics::InputRotations input_rotations = {};
};

// A module that is going to be quantized, known before any weight is read.
struct PlannedModule {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  formats::WeightSpec spec;
  // The head, where it is the embedding matrix as well.
  bool tied_head = false;
};

// Immutable after it is made.
class Export {
 public:
  virtual ~Export() = default;
  // INVALID_ARGUMENT, EXPORT_CANNOT_STORE, naming the module and what would
  // work, where this layout has no place for it. Costs no time: asked for every
  // module before a job starts.
  virtual absl::Status CheckModule(const PlannedModule& module) const = 0;
  // The float32 [out, in] weight that a reader of this layout computes from
  // what is stored: the dequantized weight, unless the layout rounds it again.
  // `rotation`: that of the input, or null. A layout that provides
  // "rotated_inputs" turns the weight back, W Q^T, so that inputs as they are
  // can be multiplied with it; no other is asked.
  virtual at::Tensor StoredWeight(const formats::QuantizedLinear& linear,
                                  const numerics::Rotation* rotation) const;
  // Writes every file of the checkpoint below `directory`, which exists and is
  // empty; the relative paths, sorted. The same source gives the same bytes.
  virtual absl::StatusOr<std::vector<std::string>> Write(
      const ExportSource& source, const std::string& directory) const = 0;
};

struct ExportEntry {
  v1::ComponentEntry description;
  std::unique_ptr<Export> (*make)(const spec::Params& params);
  // True where this layout's loader reads the checkpoint (by its config).
  bool (*reads)(const nlohmann::json& config);
  // Loads linears of a checkpoint in this layout to `device`; `reader` outlives
  // the loader.
  absl::StatusOr<std::unique_ptr<models::LinearLoader>> (*open)(
      checkpoints::CheckpointReader& reader, at::Device device);
};

const std::vector<ExportEntry>& Registry();

absl::StatusOr<std::unique_ptr<Export>> MakeExport(
    const v1::Component& component);

// The loader for any checkpoint, quantized or not, with weights on `device`.
// INVALID_ARGUMENT, QUANTIZATION_UNKNOWN, for a quantization_config nobody here
// reads.
absl::StatusOr<std::unique_ptr<models::LinearLoader>> MakeLoader(
    checkpoints::CheckpointReader& reader, at::Device device = at::kCPU);

}  // namespace quantd::exports
