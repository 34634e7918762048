// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/fingerprint.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include "absl/strings/str_cat.h"
#include "proto/base/digest.h"

namespace quantd::pipeline {

std::string Fingerprint(const FingerprintParts& parts) {
  return base::Sha256Hex(absl::StrCat(
      "quantd-step-1\n", parts.weights_digest, "\n", parts.tokens_digest, "\n",
      parts.recipe_digest, "\n", CodeVersion(), "\n", DeviceClass(), "\n"));
}

const std::string& CodeVersion() {
  static const std::string& version = *new std::string([] {
    const auto digest = base::DigestFile("/proc/self/exe");
    return digest.ok() ? digest->sha256 : std::string("unknown");
  }());
  return version;
}

std::string DeviceClass() {
  return absl::StrCat("cpu/", at::get_cpu_capability(), "/",
                      at::get_num_threads());
}

}  // namespace quantd::pipeline
