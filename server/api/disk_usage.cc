// SPDX-License-Identifier: Apache-2.0
#include "server/api/disk_usage.h"

#include <filesystem>
#include <system_error>

namespace quantd::api {

DiskUsage MeasureDisk(const std::string& directory) {
  namespace fs = std::filesystem;
  DiskUsage usage;
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (!error) usage.free_bytes = static_cast<int64_t>(space.available);
  fs::recursive_directory_iterator at(directory, error);
  for (; !error && at != fs::recursive_directory_iterator();
       at.increment(error)) {
    std::error_code vanished;
    if (!at->is_regular_file(vanished)) continue;
    const uintmax_t size = at->file_size(vanished);
    if (!vanished) usage.used_bytes += static_cast<int64_t>(size);
  }
  return usage;
}

}  // namespace quantd::api
