// SPDX-License-Identifier: Apache-2.0
// What the contract suites share: they run over registries and name no
// component, so that a new one is tested by being registered.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/recipe.pb.h"
#include "worker/formats/format.h"

namespace quantd::contract {

// The ids of a seam in this build's catalog.
std::vector<std::string> Ids(v1::Seam seam);
const v1::ComponentEntry& Describe(v1::Seam seam, const std::string& id);

// A test parameter's name: letters and digits of an id.
std::string TestName(const std::string& id);

// "int4 g32 sym float16", for messages.
std::string LayoutName(const formats::WeightSpec& spec);

// Weight layouts worth trying for a format: group sizes, with and without zero
// points, all scale types, and everything that may share a grid. A format may
// refuse some.
std::vector<formats::WeightSpec> Layouts(const std::string& format);

// float32 [rows, columns], normal with the spread of trained weights; the same
// bits for the same seed.
at::Tensor RandomWeight(int64_t rows, int64_t columns, uint32_t seed);

// A recipe of these components that the catalog allows, whatever else it needs
// for that (an export, for one); nothing where there is none. Empty ids stand
// for any.
std::optional<v1::Recipe> LegalRecipe(const std::string& method,
                                      const formats::WeightSpec& spec,
                                      const std::string& layout = "");

// The usual layout of each format that goes with a method: groups of 32, or of
// the one size that the format has, and whole rows, float16 scales, with and
// without zero points; and one of each thing that may share a grid.
std::vector<formats::WeightSpec> LegalSpecs(const std::string& method);

}  // namespace quantd::contract
