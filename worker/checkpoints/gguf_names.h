// SPDX-License-Identifier: Apache-2.0
// What the architectures of GGUF are called and look like as Hugging Face
// checkpoints.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/checkpoints/gguf_header.h"

namespace quantd::checkpoints {

// The Hugging Face name of a tensor; the name itself where there is none.
std::string HuggingFaceName(const std::string& gguf_name);

// Number of heads whose rows the converter interleaved for its own rope:
// non-zero for the query and key projections of llama.
int64_t InterleavedHeads(const nlohmann::json& config,
                         const std::string& architecture,
                         const std::string& gguf_name);

// config.json of the model. `rope_divisors` are the values of
// rope_freqs.weight, empty where the file has none. INVALID_ARGUMENT,
// GGUF_ARCHITECTURE or GGUF_METADATA.
absl::StatusOr<nlohmann::json> MakeGgufConfig(
    const GgufHeader& header, const std::vector<float>& rope_divisors);

}  // namespace quantd::checkpoints
