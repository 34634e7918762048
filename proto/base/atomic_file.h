// SPDX-License-Identifier: Apache-2.0
// Files that exist whole or not at all.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::base {

// Writes `bytes` to a temporary file beside `path`, syncs it, renames it to
// `path` and syncs the directory. RESOURCE_EXHAUSTED when the disk is full.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view bytes);

// Syncs `directory` itself, which makes renames in it durable.
absl::Status SyncDirectory(const std::string& directory);

// The whole of a regular file of at most `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes = int64_t{1} << 30);

// Maps errno to a status: ENOSPC and EDQUOT are RESOURCE_EXHAUSTED (DISK_FULL),
// ENOENT NOT_FOUND, the rest UNAVAILABLE (FILE_ERROR). `what` names the action
// without naming a path.
absl::Status ErrnoStatus(int error, absl::string_view what);

}  // namespace quantd::base
