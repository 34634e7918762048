// SPDX-License-Identifier: Apache-2.0
// Tensor types of GGUF whose blocks hold 256 values in parts with scales of
// their own, and those of a table of 16 values. Reading only.
#pragma once

#include "absl/types/span.h"
#include "worker/checkpoints/gguf_header.h"

namespace quantd::checkpoints {

absl::Span<const GgufType> SuperblockTypes();

}  // namespace quantd::checkpoints
