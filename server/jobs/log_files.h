// SPDX-License-Identifier: Apache-2.0
// Runner logs: one file per grant, <root>/<job_id>/<epoch>.log, appended by
// offset so that a repeated message adds nothing. Logs are never in SQLite and
// outlive cancelled and failed jobs. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace quantd::jobs {

class LogFiles {
 public:
  // Creates the folder where it is missing.
  static absl::StatusOr<std::unique_ptr<LogFiles>> Open(
      const std::string& root);

  // Writes the part of `text` that lies past the file's end; bytes that would
  // leave a hole are ignored. Returns the file's size: send from there.
  // RESOURCE_EXHAUSTED (LOG_TOO_LARGE) past 64 MiB.
  absl::StatusOr<int64_t> Append(const std::string& job_id, int64_t epoch,
                                 int64_t offset, absl::string_view text);
  // At most `max_bytes` from `offset` of the files of `epochs`, taken as one
  // text. An absent file is empty.
  absl::StatusOr<std::string> Read(const std::string& job_id,
                                   const std::vector<int64_t>& epochs,
                                   int64_t offset, int64_t max_bytes) const;

 private:
  explicit LogFiles(std::string root);
  absl::StatusOr<int64_t> AppendLocked(const std::string& job_id, int64_t epoch,
                                       int64_t offset, absl::string_view text)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(append_mu_);
  std::string PathOf(const std::string& job_id, int64_t epoch) const;

  const std::string root_;
  // One append at a time: the size check and the write belong together.
  absl::Mutex append_mu_;
};

}  // namespace quantd::jobs
