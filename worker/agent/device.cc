// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/device.h"

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/agent/cuda_driver.h"

namespace quantd::agent {
namespace {

// The value behind "`name` : value" in a file of such lines; empty: none.
std::string FieldOf(const char* path, absl::string_view name) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::StripAsciiWhitespace(parts.first) == name) {
      return std::string(absl::StripAsciiWhitespace(parts.second));
    }
  }
  return "";
}

int64_t MemoryField(absl::string_view name) {
  const std::string text = FieldOf("/proc/meminfo", name);
  int64_t kilobytes = 0;
  if (!absl::SimpleAtoi(absl::StripSuffix(text, " kB"), &kilobytes)) return 0;
  return kilobytes * 1024;
}

class CpuProbe : public DeviceProbe {
 public:
  CpuProbe() {
    fixed_.set_id("cpu");
    const std::string name = FieldOf("/proc/cpuinfo", "model name");
    fixed_.set_name(name.empty() ? "CPU" : name);
    fixed_.set_total_memory_bytes(HostMemoryBytes());
  }
  v1::Device Read() const override {
    v1::Device device = fixed_;
    device.set_free_memory_bytes(MemoryField("MemAvailable"));
    return device;
  }

 private:
  v1::Device fixed_;
};

class CudaProbe : public DeviceProbe {
 public:
  CudaProbe(std::unique_ptr<CudaDriver> driver, int index)
      : driver_(std::move(driver)), index_(index) {}
  v1::Device Read() const override {
    const CudaDriver::Device found = driver_->Read(index_);
    v1::Device device;
    device.set_id(absl::StrCat("cuda:", index_));
    device.set_name(found.name);
    device.set_total_memory_bytes(found.total_memory_bytes);
    device.set_free_memory_bytes(found.free_memory_bytes);
    return device;
  }

 private:
  const std::unique_ptr<CudaDriver> driver_;
  const int index_;
};

}  // namespace

int64_t HostMemoryBytes() { return MemoryField("MemTotal"); }

absl::StatusOr<std::unique_ptr<DeviceProbe>> OpenDevice(
    const std::string& choice) {
  if (choice == "cpu") return std::make_unique<CpuProbe>();
  int index = 0;
  const bool any = choice == "auto";
  absl::string_view number = choice;
  if (!any && (!absl::ConsumePrefix(&number, "cuda:") ||
               !absl::SimpleAtoi(number, &index) || index < 0)) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, "DEVICE_UNKNOWN",
                           "a device is auto, cpu or cuda:N");
  }
  absl::StatusOr<std::unique_ptr<CudaDriver>> driver = CudaDriver::Open();
  if (driver.ok() && index < (*driver)->num_devices()) {
    return std::make_unique<CudaProbe>(*std::move(driver), index);
  }
  if (any) {
    spdlog::info("no CUDA device was found; this worker computes on the CPU");
    return std::make_unique<CpuProbe>();
  }
  return base::MakeError(absl::StatusCode::kFailedPrecondition,
                         "DEVICE_NOT_FOUND",
                         absl::StrCat("there is no device ", choice,
                                      "; cpu works on every machine"));
}

}  // namespace quantd::agent
