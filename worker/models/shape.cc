// SPDX-License-Identifier: Apache-2.0
#include "worker/models/shape.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/status_macros.h"

namespace quantd::models {
namespace {

constexpr Range kHiddenRange = {1, 131072};
constexpr Range kIntermediateRange = {1, 1048576};
constexpr Range kLayersRange = {1, 1024};
constexpr Range kVocabRange = {1, 4194304};
constexpr Range kHeadsRange = {1, 4096};
constexpr Range kHeadDimRange = {2, 4096};
constexpr Range kContextRange = {1, 1e9};

at::Tensor Silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor Gelu(const at::Tensor& x) { return at::gelu(x); }
at::Tensor GeluTanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }
at::Tensor Relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor Relu2(const at::Tensor& x) { return at::relu(x).square_(); }
at::Tensor QuickGelu(const at::Tensor& x) {
  return x.mul(at::sigmoid(x.mul(1.702)));
}

struct NamedActivation {
  const char* name;
  Activation apply;
};

constexpr NamedActivation kActivations[] = {
    {"silu", Silu},         {"swish", Silu},
    {"gelu", Gelu},         {"gelu_pytorch_tanh", GeluTanh},
    {"gelu_new", GeluTanh}, {"relu", Relu},
    {"relu2", Relu2},       {"quick_gelu", QuickGelu},
};

Activation ReadActivation(ConfigReader* config) {
  const std::string name = config->Text("hidden_act", "silu");
  for (const NamedActivation& activation : kActivations) {
    if (name == activation.name) return activation.apply;
  }
  config->Problem(absl::StrCat(
      "\"hidden_act\" is \"", name.substr(0, 40), "\" and none of ",
      absl::StrJoin(kActivations, ", ",
                    [](std::string* out, const NamedActivation& a) {
                      absl::StrAppend(out, a.name);
                    })));
  return Silu;
}

void ReadHeads(ConfigReader* config, Shape* shape) {
  shape->heads = config->Int("num_attention_heads", shape->heads, kHeadsRange);
  // A null, unlike an absent key, means one key-value head per query head.
  int64_t kv_heads = shape->kv_heads;
  if (kv_heads == 0 || config->IsNull("num_key_value_heads")) {
    kv_heads = shape->heads;
  }
  shape->kv_heads = config->Int("num_key_value_heads", kv_heads, kHeadsRange);
  int64_t head_dim = shape->head_dim;
  if (head_dim == 0 || config->IsNull("head_dim")) {
    head_dim = shape->hidden / shape->heads;
    if (!config->Has("head_dim") && shape->hidden % shape->heads != 0) {
      config->Problem(absl::StrCat("\"hidden_size\" ", shape->hidden,
                                   " is no multiple of the ", shape->heads,
                                   " attention heads"));
    }
  }
  shape->head_dim = config->Int("head_dim", head_dim, kHeadDimRange);
  if (shape->heads % shape->kv_heads != 0) {
    config->Problem(absl::StrCat("the ", shape->heads,
                                 " attention heads cannot share ",
                                 shape->kv_heads, " key-value heads"));
  }
  if (shape->head_dim < 2 || shape->head_dim % 2 != 0) {
    config->Problem(absl::StrCat("heads of ", shape->head_dim,
                                 " values cannot be rotated in pairs"));
  }
}

void ReadRopeOf(ConfigReader* config, Shape* shape) {
  shape->rope = ReadRope(config, shape->rope.theta);
  const int64_t needed =
      shape->rope.type == "divisors" ? shape->head_dim / 2 : 0;
  if (needed > static_cast<int64_t>(shape->rope.divisors.size())) {
    config->Problem(absl::StrCat("the rope needs ", needed, " divisors"));
  }
  // The exponent of dynamic scaling is dim / (dim - 2).
  if (shape->rope.type == "dynamic" && shape->head_dim <= 2) {
    config->Problem("dynamic rope scaling needs heads of more than 2 values");
  }
}

}  // namespace

absl::StatusOr<Shape> ReadShape(const nlohmann::json& json,
                                const FamilyTraits& family) {
  ConfigReader config(json);
  Shape shape = family.defaults;
  shape.vocab = config.Int("vocab_size", shape.vocab, kVocabRange);
  shape.hidden = config.Int("hidden_size", shape.hidden, kHiddenRange);
  shape.intermediate =
      config.Int("intermediate_size", shape.intermediate, kIntermediateRange);
  shape.layers = config.Int("num_hidden_layers", shape.layers, kLayersRange);
  shape.context =
      config.Int("max_position_embeddings", shape.context, kContextRange);
  shape.norm_eps = config.Number("rms_norm_eps", shape.norm_eps, {0.0, 1.0});
  shape.tied = config.Bool("tie_word_embeddings", shape.tied);
  shape.activation = ReadActivation(&config);
  ReadHeads(&config, &shape);
  ReadRopeOf(&config, &shape);
  shape.windows.assign(static_cast<size_t>(shape.layers), 0);
  family.read(&config, &shape);
  RETURN_IF_ERROR(config.status());
  return shape;
}

void ReadWindows(ConfigReader* config, Shape* shape, Slides slides) {
  if (!config->Bool("use_sliding_window", false)) return;
  const int64_t window = config->IsNull("sliding_window")
                             ? 0
                             : config->Int("sliding_window", 4096, {1, 1e9});
  const int64_t limit = config->Int("max_window_layers", 28, {0, 1e6});
  const nlohmann::json& types = config->Array("layer_types");
  if (!types.is_null() && types.size() != shape->windows.size()) {
    config->Problem("\"layer_types\" must name every layer");
    return;
  }
  for (size_t i = 0; i < shape->windows.size(); ++i) {
    const bool windowed = types.is_null()
                              ? slides(static_cast<int64_t>(i), limit)
                              : types[i] == "sliding_attention";
    if (windowed) shape->windows[i] = window;
  }
}

void ReadLateWindows(ConfigReader* config, Shape* shape) {
  ReadWindows(config, shape, [](int64_t layer, int64_t max_window_layers) {
    return layer >= max_window_layers;
  });
}

}  // namespace quantd::models
