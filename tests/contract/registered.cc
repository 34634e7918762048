// SPDX-License-Identifier: Apache-2.0
#include "tests/contract/registered.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/catalog_rules.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::contract {
namespace {

const v1::Catalog& Catalog() {
  static const auto& catalog = *new v1::Catalog(pipeline::DescribeBuild());
  return catalog;
}

v1::Recipe Make(const std::string& method, const formats::WeightSpec& spec,
                const std::string& layout) {
  v1::Recipe recipe;
  recipe.mutable_method()->set_id(method);
  recipe.mutable_weights()->set_format(spec.format);
  recipe.mutable_weights()->set_group_size(spec.group_size);
  recipe.mutable_weights()->set_symmetric(spec.symmetric);
  recipe.mutable_weights()->set_scale_dtype(spec.scale_dtype);
  recipe.mutable_weights()->mutable_params()->insert(spec.params.begin(),
                                                     spec.params.end());
  recipe.add_exports()->set_id(layout);
  return recipe;
}

// 0 where the format takes any.
int64_t FixedGroupSize(const std::string& format) {
  return (*formats::FindFormat(format))->fixed_group_size();
}

// What may share a grid besides the usual group.
std::vector<std::string> OtherScopes(const std::string& format) {
  std::vector<std::string> scopes;
  for (const v1::Parameter& parameter :
       Describe(v1::SEAM_FORMAT, format).params()) {
    if (parameter.name() != "scope") continue;
    for (const std::string& choice : parameter.choices()) {
      if (choice != parameter.default_value().string_value()) {
        scopes.push_back(choice);
      }
    }
  }
  return scopes;
}

}  // namespace

std::vector<std::string> Ids(v1::Seam seam) {
  std::vector<std::string> ids;
  for (const v1::ComponentEntry& entry : Catalog().entries()) {
    if (entry.seam() == seam) ids.push_back(entry.id());
  }
  return ids;
}

const v1::ComponentEntry& Describe(v1::Seam seam, const std::string& id) {
  const v1::ComponentEntry* entry = spec::FindEntry(Catalog(), seam, id);
  EXPECT_NE(entry, nullptr) << id;
  return *entry;
}

std::string TestName(const std::string& id) {
  std::string name;
  for (const char c : id) name.push_back(absl::ascii_isalnum(c) ? c : '_');
  return name;
}

std::string LayoutName(const formats::WeightSpec& spec) {
  std::string name =
      absl::StrCat(spec.format, " g", spec.group_size,
                   spec.symmetric ? " sym " : " asym ", spec.scale_dtype);
  for (const auto& [parameter, value] : spec.params) {
    absl::StrAppend(&name, " ", parameter, "=", value.string_value());
  }
  return name;
}

std::vector<formats::WeightSpec> Layouts(const std::string& format) {
  std::vector<formats::WeightSpec> layouts;
  std::set<int64_t> groups = {-1, 16, 24, 32, 64};
  if (const int64_t fixed = FixedGroupSize(format); fixed != 0) {
    groups.insert(fixed);
  }
  for (const int64_t group : groups) {
    for (const bool symmetric : {true, false}) {
      for (const char* scale : {"float16", "bfloat16", "float32"}) {
        formats::WeightSpec spec;
        spec.format = format;
        spec.group_size = group;
        spec.symmetric = symmetric;
        spec.scale_dtype = scale;
        layouts.push_back(spec);
      }
    }
  }
  for (const std::string& scope : OtherScopes(format)) {
    formats::WeightSpec spec;
    spec.format = format;
    spec.group_size = 32;
    spec.params["scope"].set_string_value(scope);
    layouts.push_back(spec);
  }
  return layouts;
}

at::Tensor RandomWeight(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.002f, 0.05f);
  at::Tensor weight = at::empty({rows, columns});
  float* values = weight.data_ptr<float>();
  for (int64_t i = 0; i < weight.numel(); ++i) values[i] = normal(bits);
  return weight;
}

std::optional<v1::Recipe> LegalRecipe(const std::string& method,
                                      const formats::WeightSpec& spec,
                                      const std::string& layout) {
  const auto any = [](v1::Seam seam, const std::string& id) {
    return id.empty() ? Ids(seam) : std::vector<std::string>{id};
  };
  for (const std::string& method_id : any(v1::SEAM_METHOD, method)) {
    for (const std::string& layout_id : any(v1::SEAM_EXPORT, layout)) {
      const v1::Recipe recipe = Make(method_id, spec, layout_id);
      if (spec::CheckRecipe(recipe, Catalog()).empty()) return recipe;
    }
  }
  return std::nullopt;
}

std::vector<formats::WeightSpec> LegalSpecs(const std::string& method) {
  std::vector<formats::WeightSpec> specs;
  for (const std::string& format : Ids(v1::SEAM_FORMAT)) {
    for (const formats::WeightSpec& spec : Layouts(format)) {
      const bool usual = spec.scale_dtype == "float16" &&
                         (spec.group_size == -1 || spec.group_size == 32 ||
                          spec.group_size == FixedGroupSize(format));
      if (!usual || !LegalRecipe(method, spec).has_value()) continue;
      if (formats::RoundToNearest(RandomWeight(4, 96, 1), spec).ok()) {
        specs.push_back(spec);
      }
    }
  }
  return specs;
}

}  // namespace quantd::contract
