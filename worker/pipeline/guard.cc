// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/guard.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "proto/base/error.h"
#include "proto/base/log.h"

namespace quantd::pipeline {
namespace {

// LibTorch's CPU allocator has no exception type of its own.
constexpr char kCpuAllocator[] = "DefaultCPUAllocator: can't allocate memory";

absl::Status HostOutOfMemory() {
  return base::MakeError(
      absl::StatusCode::kResourceExhausted, "HOST_OUT_OF_MEMORY",
      "the machine has no more memory; fewer calibration samples need less");
}

absl::Status LibraryError(absl::string_view what) {
  return base::MakeError(absl::StatusCode::kInternal, "TENSOR_LIBRARY_ERROR",
                         what);
}

}  // namespace

absl::Status RunGuarded(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const c10::OutOfMemoryError& error) {
    spdlog::error("{}", error.what());
    return base::MakeError(
        absl::StatusCode::kResourceExhausted, "DEVICE_OUT_OF_MEMORY",
        "the device has no more memory; a smaller batch or group needs less");
  } catch (const std::bad_alloc&) {
    return HostOutOfMemory();
  } catch (const c10::Error& error) {
    // With its backtrace, which is for the log alone.
    spdlog::error("{}", error.what());
    const absl::string_view what = error.what_without_backtrace();
    if (absl::StrContains(what, kCpuAllocator)) return HostOutOfMemory();
    return LibraryError(what);
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
    return LibraryError("a library reported an error; the log has its words");
  }
}

}  // namespace quantd::pipeline
