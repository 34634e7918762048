// SPDX-License-Identifier: Apache-2.0
#include "worker/models/mixture.h"

#include "absl/strings/str_cat.h"
#include "worker/models/config.h"
#include "worker/models/shape.h"

namespace quantd::models {
namespace {

constexpr Range kExpertsRange = {0, 65536};
constexpr Range kWidthRange = {1, 1048576};

}  // namespace

void ReadMixture(ConfigReader* config, Shape* shape) {
  Mixture& mixture = shape->mixture;
  // The same number under the names of older and newer configs.
  for (const char* key : {"num_experts", "num_local_experts"}) {
    mixture.experts = config->Int(key, mixture.experts, kExpertsRange);
  }
  mixture.chosen =
      config->Int("num_experts_per_tok", mixture.chosen, kExpertsRange);
  if (mixture.experts > 0 &&
      (mixture.chosen < 1 || mixture.chosen > mixture.experts)) {
    config->Problem(absl::StrCat("a token cannot go to ", mixture.chosen,
                                 " of ", mixture.experts, " experts"));
  }
  if (mixture.intermediate == 0) mixture.intermediate = shape->intermediate;
  mixture.sparse.assign(static_cast<size_t>(shape->layers),
                        mixture.experts > 0);
}

void ReadSparseLayers(ConfigReader* config, Shape* shape) {
  Mixture& mixture = shape->mixture;
  mixture.intermediate =
      config->Int("moe_intermediate_size", mixture.intermediate, kWidthRange);
  mixture.renormalize = config->Bool("norm_topk_prob", mixture.renormalize);
  const int64_t step = config->Int("decoder_sparse_step", 1, {1, 1e6});
  for (int64_t i = 0; i < shape->layers; ++i) {
    if ((i + 1) % step != 0) mixture.sparse[static_cast<size_t>(i)] = false;
  }
  for (const nlohmann::json& layer : config->Array("mlp_only_layers")) {
    if (!layer.is_number_integer()) {
      config->Problem("\"mlp_only_layers\" must be a list of integers");
      return;
    }
    const double index = layer.get<double>();
    if (index >= 0 && index < static_cast<double>(shape->layers)) {
      mixture.sparse[static_cast<size_t>(index)] = false;
    }
  }
}

}  // namespace quantd::models
