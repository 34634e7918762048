// SPDX-License-Identifier: Apache-2.0
// The families of the registry, each made in its own file. The id is the
// model_type of config.json.
#pragma once

#include "worker/models/shape.h"

namespace quantd::models {

FamilyTraits Llama();
FamilyTraits Mistral();
FamilyTraits Mixtral();
FamilyTraits Olmoe();
FamilyTraits Qwen2();
FamilyTraits Qwen2Moe();
FamilyTraits Qwen3();
FamilyTraits Qwen3Moe();

}  // namespace quantd::models
