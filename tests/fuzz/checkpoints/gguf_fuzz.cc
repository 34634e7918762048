// SPDX-License-Identifier: Apache-2.0
// A whole GGUF file: header, translation and every tensor.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "worker/checkpoints/containers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int fd = memfd_create("gguf", MFD_CLOEXEC);
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  static const auto& container =
      *new auto(quantd::checkpoints::GgufContainer());
  const auto reader = container.open(absl::StrCat("/proc/self/fd/", fd));
  if (!reader.ok()) return 0;
  for (const auto& [name, info] : (*reader)->tensors()) {
    const auto tensor = (*reader)->Read(name);
    if (!tensor.ok() || tensor->sizes() != info.shape) std::abort();
  }
  return 0;
}
