// SPDX-License-Identifier: Apache-2.0
// The manifest of an artifact: canonical JSON that binds its files and says
// where they come from. It holds no time and no place, so that the same inputs
// give the same bytes; its digest names the result. docs/artifact.md has the
// fields.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/digest.h"
#include "quantd/v1/recipe.pb.h"
#include "quantd/v1/report.pb.h"

namespace quantd::pipeline {

// By the file's path in the artifact.
using FileDigests = std::map<std::string, base::FileDigest>;

struct ManifestSource {
  std::string name;
  std::string export_id;
  const v1::Recipe& recipe;
  std::string device_class;
  std::string weights_digest;
  // SHA-256 of the sampled token ids; empty where none were read.
  std::string tokens_digest;
  const std::vector<v1::LayerReport>& layers;
  double bits_per_weight = 0;
  FileDigests files;
};

std::string ManifestText(const ManifestSource& source);

// The files that a manifest names. DATA_LOSS, MANIFEST_INVALID.
absl::StatusOr<FileDigests> ParseManifestFiles(const std::string& text);

}  // namespace quantd::pipeline
