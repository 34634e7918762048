// SPDX-License-Identifier: Apache-2.0
// The part of Jobs that clears up after processes that died.
#include <algorithm>
#include <string>
#include <vector>

#include "proto/base/blob_directory.h"
#include "server/jobs/jobs.h"
#include "spdlog/spdlog.h"

namespace quantd::jobs {
namespace {

constexpr int kShardsPerCall = 16;
// So many are looked up in one write transaction.
constexpr size_t kBatch = 256;

}  // namespace

void Jobs::CollectOrphans() {
  if (!collected_before_) {
    // What an earlier process had noted for removal went with it.
    const auto jobs = options_.store->JobsWithPassingBlobs();
    if (jobs.ok()) {
      absl::MutexLock lock(&mu_);
      grown_.insert(jobs->begin(), jobs->end());
      collected_before_ = true;
    }
  }
  const absl::Time cutoff = options_.clock->Now() - options_.blob_grace;
  int64_t removed = options_.blobs->RemoveTemporaries(cutoff);
  const auto remove = [&](const std::string& sha256) {
    // It may have been written again since it was looked at.
    if (options_.blobs->RemoveOlderThan(sha256, cutoff)) ++removed;
  };
  for (int i = 0; i < kShardsPerCall; ++i) {
    const std::vector<std::string> old =
        options_.blobs->OlderThan(next_shard_, cutoff);
    next_shard_ = (next_shard_ + 1) % base::BlobDirectory::kNumShards;
    for (size_t at = 0; at < old.size(); at += kBatch) {
      const std::vector<std::string> batch(
          old.begin() + at, old.begin() + std::min(at + kBatch, old.size()));
      // A store that takes no writes: the next round comes to them again.
      options_.store->DropOrphans(batch, remove).IgnoreError();
    }
  }
  if (removed > 0) spdlog::info("removed {} orphaned files", removed);
}

}  // namespace quantd::jobs
