// SPDX-License-Identifier: Apache-2.0
#include "server/store/data_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"

namespace quantd::store {

bool IsNetworkFileSystem(int64_t magic) {
  switch (static_cast<uint32_t>(magic)) {
    case 0x6969:      // NFS
    case 0x517b:      // SMB
    case 0xff534d42:  // CIFS
    case 0xfe534d42:  // SMB2
    case 0x00c36400:  // Ceph
    case 0x0bd00bd0:  // Lustre
    case 0x5346414f:  // AFS
    case 0x6b414653:  // kAFS
    case 0x01021997:  // 9P
      return true;
    default:
      return false;
  }
}

absl::StatusOr<DataLock> DataLock::Acquire(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return base::ErrnoStatus(error.value(), "create data directory");
  struct statfs info = {};
  if (statfs(directory.c_str(), &info) != 0) {
    return base::ErrnoStatus(errno, "look at data directory");
  }
  if (IsNetworkFileSystem(info.f_type)) {
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "DATA_DIR_NETWORK",
                           "the data directory is on a network file system; "
                           "the database needs a local disk");
  }
  const int fd = open((directory + "/lock").c_str(),
                      O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return base::ErrnoStatus(errno, "open the lock file");
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int lock_error = errno;
    close(fd);
    if (lock_error != EWOULDBLOCK) {
      return base::ErrnoStatus(lock_error, "lock the data directory");
    }
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "DATA_DIR_LOCKED",
                           "another server is using this data directory; stop "
                           "it or choose another --data-dir");
  }
  return DataLock(fd);
}

DataLock::DataLock(DataLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

DataLock::~DataLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace quantd::store
