// SPDX-License-Identifier: Apache-2.0
#include "worker/models/weights.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/models/linear.h"
#include "worker/models/model.h"

namespace quantd::models {
namespace {

constexpr absl::string_view kBasePrefix = "model.";

class DenseLoader : public LinearLoader {
 public:
  DenseLoader(checkpoints::CheckpointReader& reader, at::Device device)
      : reader_(reader), device_(device) {}

  absl::StatusOr<std::unique_ptr<Linear>> Load(const std::string& name,
                                               int64_t out_features,
                                               int64_t in_features,
                                               bool has_bias) override {
    at::Tensor bias;
    if (has_bias) {
      ASSIGN_OR_RETURN(
          bias, ReadWeight(reader_, name + ".bias", {out_features}, device_));
    }
    ASSIGN_OR_RETURN(at::Tensor weight,
                     ReadWeight(reader_, name + ".weight",
                                {out_features, in_features}, device_));
    return MakeDenseLinear(std::move(weight), std::move(bias));
  }

 private:
  checkpoints::CheckpointReader& reader_;
  const at::Device device_;
};

}  // namespace

std::string StoredName(const checkpoints::CheckpointReader& reader,
                       const std::string& name) {
  const auto& tensors = reader.tensors();
  if (tensors.contains(name)) return name;
  if (absl::StartsWith(name, kBasePrefix)) {
    const std::string bare = name.substr(kBasePrefix.size());
    if (tensors.contains(bare)) return bare;
  }
  const std::string prefixed = absl::StrCat(kBasePrefix, name);
  return tensors.contains(prefixed) ? prefixed : "";
}

absl::Status CheckWeightShape(const checkpoints::CheckpointReader& reader,
                              const std::string& name,
                              const std::vector<int64_t>& shape) {
  const std::string stored = StoredName(reader, name);
  if (stored.empty()) {
    return base::MakeError(
        absl::StatusCode::kNotFound, "TENSOR_MISSING",
        absl::StrCat("the checkpoint has no tensor \"", name, "\""),
        {{"tensor", name}});
  }
  const std::vector<int64_t>& found = reader.tensors().at(stored).shape;
  if (found == shape) return absl::OkStatus();
  return base::MakeError(absl::StatusCode::kInvalidArgument, "TENSOR_SHAPE",
                         absl::StrCat("tensor \"", name, "\" has the shape [",
                                      absl::StrJoin(found, ", "), "] and not [",
                                      absl::StrJoin(shape, ", "),
                                      "], which the configuration asks for"),
                         {{"tensor", name}});
}

absl::StatusOr<at::Tensor> ReadWeight(checkpoints::CheckpointReader& reader,
                                      const std::string& name,
                                      const std::vector<int64_t>& shape,
                                      at::Device device) {
  RETURN_IF_ERROR(CheckWeightShape(reader, name, shape));
  ASSIGN_OR_RETURN(const at::Tensor weight,
                   reader.ReadFloat(StoredName(reader, name)));
  return weight.to(device);
}

std::unique_ptr<LinearLoader> MakeDenseLoader(
    checkpoints::CheckpointReader& reader, at::Device device) {
  return std::make_unique<DenseLoader>(reader, device);
}

}  // namespace quantd::models
