// SPDX-License-Identifier: Apache-2.0
// The families of the registry, each made in its own file. The id is the
// model_type of config.json.
#pragma once

#include "worker/models/shape.h"

namespace quantd::models {

FamilyTraits Llama();
FamilyTraits Mistral();
FamilyTraits Qwen2();
FamilyTraits Qwen3();

}  // namespace quantd::models
