// SPDX-License-Identifier: Apache-2.0
#include "worker/kernels/cuda_plugin.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::kernels {
namespace {

absl::Status Unavailable(absl::string_view why) {
  return base::MakeError(absl::StatusCode::kFailedPrecondition,
                         "CUDA_UNAVAILABLE",
                         absl::StrCat("no GPU can be used: ", why,
                                      "; run the worker with --device cpu"));
}

absl::Status Load(const std::string& library, absl::string_view what) {
  // Never closed: operators stay registered for the life of the program.
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return Unavailable(absl::StrCat(what, " cannot be loaded"));
  }
  return absl::OkStatus();
}

absl::Status LoadCuda() {
  RETURN_IF_ERROR(Load("libtorch_cuda.so", "LibTorch's CUDA library"));
  std::error_code ignored;
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe", ignored);
  RETURN_IF_ERROR(Load(program.parent_path() / "libquantd_cuda.so",
                       "libquantd_cuda.so, built with QUANTD_CUDA=ON,"));
  if (!at::hasCUDA()) return Unavailable("the driver reports no device");
  at::globalContext().setAllowTF32CuBLAS(false);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<c10::Device> OpenDevice(const std::string& name) {
  if (name == "cpu" || name.empty()) return c10::Device(c10::kCPU);
  int index = 0;
  if (!absl::StartsWith(name, "cuda:") ||
      !absl::SimpleAtoi(name.substr(5), &index) || index < 0 || index > 127) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, "DEVICE_INVALID",
                           "a device is called cpu or cuda:N");
  }
  static const absl::Status* loaded = new absl::Status(LoadCuda());
  if (!loaded->ok()) return *loaded;
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace quantd::kernels
