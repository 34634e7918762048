// SPDX-License-Identifier: Apache-2.0
// The content-addressed store: <root>/sha256/<first two digits>/<hex>. A blob
// is written to <root>/tmp, synced, checked and renamed, so that a name is
// either absent or has the right bytes. Used by the server and by workers that
// reach the same directory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd::base {

struct Blob {
  std::string sha256;
  int64_t size_bytes = 0;
};

// Thread-safe, and safe against other processes on the same directory.
class BlobDirectory {
 public:
  // Creates the folders where they are missing.
  static absl::StatusOr<std::unique_ptr<BlobDirectory>> Open(
      const std::string& root);

  // A fresh path in <root>/tmp to write a blob's bytes to.
  std::string NewTemporaryPath() const;
  // Syncs the file, takes its digest and moves it to its name. `expected` may
  // be empty; where it is not and differs: DATA_LOSS, BLOB_DIGEST_MISMATCH.
  absl::StatusOr<Blob> Adopt(const std::string& temporary_path,
                             absl::string_view expected_sha256 = "");
  // Copies a file of this machine in; hard-links where it can.
  absl::StatusOr<Blob> AddFile(const std::string& path);
  absl::StatusOr<Blob> AddBytes(absl::string_view bytes);

  bool Has(absl::string_view sha256) const;
  // The path of a blob; it need not exist. INVALID_ARGUMENT where `sha256` is
  // not 64 lower-case hexadecimal digits, so that no path can be smuggled in.
  absl::StatusOr<std::string> PathOf(absl::string_view sha256) const;
  // Removes a blob; OK where it is absent.
  absl::Status Remove(absl::string_view sha256);

  // --- Clearing up. Age counts from when a file came to its name ------------
  static constexpr int kNumShards = 256;
  // The digests of shard 0 to 255 (their first two digits) that are there since
  // before `cutoff`.
  std::vector<std::string> OlderThan(int shard, absl::Time cutoff) const;
  // Removes a blob unless it came (again) at `cutoff` or later. True where it
  // went.
  bool RemoveOlderThan(absl::string_view sha256, absl::Time cutoff);
  // Removes what writers that died left in <root>/tmp, untouched since before
  // `cutoff`. Returns the number of files.
  int64_t RemoveTemporaries(absl::Time cutoff);

 private:
  explicit BlobDirectory(std::string root);
  absl::Status Publish(const std::string& temporary_path, const Blob& blob);

  const std::string root_;
};

}  // namespace quantd::base
