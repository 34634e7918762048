// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/fingerprint.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"

namespace quantd::pipeline {

std::string Fingerprint(const FingerprintParts& parts, at::Device device) {
  return base::Sha256Hex(absl::StrCat("quantd-step-1\n", parts.weights_digest,
                                      "\n", parts.tokens_digest, "\n",
                                      parts.recipe_digest, "\n", CodeVersion(),
                                      "\n", DeviceClass(device), "\n"));
}

const std::string& CodeVersion() {
  static const std::string& version = *new std::string([] {
    const auto digest = base::DigestFile("/proc/self/exe");
    return digest.ok() ? digest->sha256 : std::string("unknown");
  }());
  return version;
}

absl::StatusOr<at::Device> ParseDevice(const std::string& name) {
  if (name.empty() || name == "cpu") return at::Device(at::kCPU);
  absl::string_view index = name;
  int number = 0;
  if (absl::ConsumePrefix(&index, "cuda:") &&
      absl::SimpleAtoi(index, &number) && number >= 0 && number < 128) {
    return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(number));
  }
  return base::MakeError(absl::StatusCode::kInvalidArgument, "DEVICE_UNKNOWN",
                         "the device is neither cpu nor cuda:N");
}

std::string DeviceClass(at::Device device) {
  if (device.is_cuda()) return "cuda";
  return absl::StrCat("cpu/", at::get_cpu_capability(), "/",
                      at::get_num_threads());
}

}  // namespace quantd::pipeline
