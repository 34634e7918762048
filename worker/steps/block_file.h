// SPDX-License-Identifier: Apache-2.0
// The quantized linears of one block in one file: the "weights" of a step.
// Codes are packed to their width. docs/journal.md has the tensors.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/checkpoints/safetensors_writer.h"
#include "worker/formats/quantized_linear.h"

namespace quantd::steps {

// Module names to their quantized linears.
using QuantizedModules = std::map<std::string, formats::QuantizedLinear>;

// The same modules give the same bytes.
absl::Status WriteBlockFile(const std::string& path,
                            const QuantizedModules& modules);

// DATA_LOSS, STEP_FILE_DAMAGED, where the file is not one of ours.
absl::StatusOr<QuantizedModules> ReadBlockFile(const std::string& path);

// The tensors of such a file, and the modules among tensors of any kind.
absl::StatusOr<checkpoints::TensorMap> ModuleTensors(
    const QuantizedModules& modules);
absl::StatusOr<QuantizedModules> ModulesOf(
    const checkpoints::TensorMap& tensors);

}  // namespace quantd::steps
