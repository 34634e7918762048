// SPDX-License-Identifier: Apache-2.0
// The data directory belongs to one server at a time: an flock that the kernel
// releases with the process, however that ends.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace quantd::store {

class DataLock {
 public:
  // Creates the directory where it is missing. FAILED_PRECONDITION:
  // DATA_DIR_LOCKED where another process holds it, DATA_DIR_NETWORK on a file
  // system that SQLite's WAL cannot work on. Never waits.
  static absl::StatusOr<DataLock> Acquire(const std::string& directory);
  DataLock(DataLock&& other) noexcept;
  DataLock& operator=(DataLock&&) = delete;
  ~DataLock();

 private:
  explicit DataLock(int fd) : fd_(fd) {}
  int fd_;
};

// True for the statfs magic numbers of NFS, SMB, Ceph, Lustre, AFS and 9P.
bool IsNetworkFileSystem(int64_t magic);

}  // namespace quantd::store
