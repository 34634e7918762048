// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/cuda_driver.h"

#include <dlfcn.h>

#include <array>

#include "absl/memory/memory.h"

namespace quantd::agent {
namespace {

constexpr int kSuccess = 0;

// Declared here as the driver API (CUDA 12 and 13) and NVML document them:
// neither header is needed to build.
struct NvmlMemory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
using InitFn = int (*)(unsigned);
using CountFn = int (*)(int*);
using GetFn = int (*)(int*, int);
using NameFn = int (*)(char*, int, int);
using MemoryFn = int (*)(size_t*, int);
using BusFn = int (*)(char*, int, int);
using NvmlInitFn = int (*)();
using NvmlHandleFn = int (*)(const char*, void**);
using NvmlMemoryFn = int (*)(void*, NvmlMemory*);

template <typename Function>
Function Find(void* library, const char* name) {
  return library == nullptr ? nullptr
                            : reinterpret_cast<Function>(dlsym(library, name));
}

class LoadedDriver : public CudaDriver {
 public:
  LoadedDriver(void* cuda, int num_devices)
      : get_(Find<GetFn>(cuda, "cuDeviceGet")),
        name_(Find<NameFn>(cuda, "cuDeviceGetName")),
        memory_(Find<MemoryFn>(cuda, "cuDeviceTotalMem_v2")),
        bus_(Find<BusFn>(cuda, "cuDeviceGetPCIBusId")),
        num_devices_(num_devices) {
    void* nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto init = Find<NvmlInitFn>(nvml, "nvmlInit_v2");
    if (init == nullptr || init() != kSuccess) return;
    nvml_handle_ = Find<NvmlHandleFn>(nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    nvml_memory_ = Find<NvmlMemoryFn>(nvml, "nvmlDeviceGetMemoryInfo");
  }

  int num_devices() const override { return num_devices_; }

  Device Read(int index) const override {
    Device device;
    int handle = 0;
    if (get_ == nullptr || get_(&handle, index) != kSuccess) return device;
    std::array<char, 256> name = {};
    if (name_ != nullptr && name_(name.data(), name.size(), handle) == kSuccess)
      device.name = name.data();
    size_t total = 0;
    if (memory_ != nullptr && memory_(&total, handle) == kSuccess) {
      device.total_memory_bytes = static_cast<int64_t>(total);
    }
    device.free_memory_bytes = FreeMemory(handle, device.total_memory_bytes);
    return device;
  }

 private:
  // The two libraries number devices differently; the bus address is common.
  int64_t FreeMemory(int handle, int64_t otherwise) const {
    std::array<char, 64> bus = {};
    void* device = nullptr;
    NvmlMemory memory = {};
    if (bus_ == nullptr || nvml_handle_ == nullptr || nvml_memory_ == nullptr ||
        bus_(bus.data(), bus.size(), handle) != kSuccess ||
        nvml_handle_(bus.data(), &device) != kSuccess ||
        nvml_memory_(device, &memory) != kSuccess) {
      return otherwise;
    }
    return static_cast<int64_t>(memory.free);
  }

  const GetFn get_;
  const NameFn name_;
  const MemoryFn memory_;
  const BusFn bus_;
  const int num_devices_;
  NvmlHandleFn nvml_handle_ = nullptr;
  NvmlMemoryFn nvml_memory_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDriver>> CudaDriver::Open() {
  // Never closed: the driver keeps threads of its own.
  void* cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  const auto init = Find<InitFn>(cuda, "cuInit");
  const auto count = Find<CountFn>(cuda, "cuDeviceGetCount");
  int num_devices = 0;
  if (init == nullptr || count == nullptr || init(0) != kSuccess ||
      count(&num_devices) != kSuccess || num_devices == 0) {
    return absl::NotFoundError("no CUDA device");
  }
  return absl::WrapUnique(new LoadedDriver(cuda, num_devices));
}

}  // namespace quantd::agent
