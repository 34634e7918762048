// SPDX-License-Identifier: Apache-2.0
// Names of artifacts and jobs:
//
//   <model>_<METHOD>_w<bits>[_mixed][_a<bits>][_kv<bits>]_g<group>[_asym]
//       [_headfp16|_headq]
//
// for example Qwen3-0.6B_GPTQ_w4_g64_headfp16. METHOD is upper case, transforms
// before it joined by `+`; `_` inside an id is written `-`. w<bits> is intN,
// another number format is written w<id>; mixed stands where modules have other
// formats as well, a<bits> and kv<bits> where activations and the KV cache are
// rounded too; g-1 is one group per row. A model's name may hold `_`: tags are
// read from the right.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/job.pb.h"

namespace quantd::spec {

struct Tag {
  // Letters, digits, `.`, `-` and `_` only.
  std::string model;
  std::vector<std::string> transforms;
  std::string method;
  std::string format;
  // Some modules have, or may be given, another one.
  bool mixed = false;
  // Empty where they are left alone.
  std::string activations = {};
  std::string kv_cache = {};
  int64_t group_size = -1;
  bool symmetric = true;
  enum class Head { kUnstated, kFloat, kQuantized };
  Head head = Head::kUnstated;
};

std::string TagText(const Tag& tag);
// INVALID_ARGUMENT, TAG_INVALID. Inverse of TagText.
absl::StatusOr<Tag> ParseTag(absl::string_view text);

// The tag of what a quantize job makes.
Tag TagOf(const v1::QuantizeSpec& spec);
// The last component of a model's name, without .gguf, other bytes as `-`.
std::string ModelWord(absl::string_view model);

// What a job is called in lists: the tag, or <model>_eval.
std::string DisplayName(const v1::JobSpec& spec);

}  // namespace quantd::spec
