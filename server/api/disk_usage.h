// SPDX-License-Identifier: Apache-2.0
// How full the blob store is.
#pragma once

#include <cstdint>
#include <string>

namespace quantd::api {

// Kept free so that the job store can still commit.
inline constexpr int64_t kReserveBytes = int64_t{64} << 20;

struct DiskUsage {
  // Bytes of all files below the directory.
  int64_t used_bytes = 0;
  int64_t free_bytes = 0;
};

// Walks the directory; what vanishes meanwhile is not counted.
DiskUsage MeasureDisk(const std::string& directory);

}  // namespace quantd::api
