// SPDX-License-Identifier: Apache-2.0
// SHA-256, the name of every blob and the ground of every fingerprint.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::base {

// Incremental SHA-256. One owner, one thread at a time.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(absl::string_view bytes);
  // Lower-case hexadecimal, 64 characters. Call once, last.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The digest of `bytes`.
std::string Sha256Hex(absl::string_view bytes);

struct FileDigest {
  std::string sha256;
  int64_t size_bytes = 0;
};

// The digest of a regular file. NOT_FOUND or DATA_LOSS.
absl::StatusOr<FileDigest> DigestFile(const std::string& path);

}  // namespace quantd::base
