// SPDX-License-Identifier: Apache-2.0
// The durable core of a server, put together: store, blobs, logs, hub, jobs and
// scheduler over one data directory. Owned by main and by tests.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/base/blob_directory.h"
#include "proto/base/clock.h"
#include "proto/base/ids.h"
#include "server/events/hub.h"
#include "server/jobs/jobs.h"
#include "server/jobs/log_files.h"
#include "server/scheduler/scheduler.h"
#include "server/store/store.h"

namespace quantd::scheduler {

class Core {
 public:
  struct Options {
    std::string data_dir;
    absl::Duration lease_ttl = absl::Seconds(30);
    base::Clock* clock = &base::Clock::Real();
    base::IdGenerator* ids = &base::IdGenerator::Real();
    // Of retry jitter.
    uint64_t seed = 0;
    // Where blobs lie; empty means <data_dir>/blobs.
    std::string blob_dir;
    absl::Duration blob_grace = absl::Hours(24);
    // May be null.
    metrics::Metrics* metrics = nullptr;
    // Called with every committed event, in order, from the store's writer
    // thread: quick, no call back. May be empty.
    std::function<void(const std::vector<v1::Event>&)> observer;
  };
  // Takes the data directory for itself, migrates the database, recovers the
  // leases. The loop starts with scheduler().Start(). FAILED_PRECONDITION:
  // DATA_DIR_LOCKED, DATA_DIR_NETWORK, DATABASE_NEWER, DATABASE_FOREIGN.
  static absl::StatusOr<std::unique_ptr<Core>> Open(Options options);
  ~Core();

  store::Store& store() { return *store_; }
  events::Hub& hub() { return hub_; }
  base::BlobDirectory& blobs() { return *blobs_; }
  jobs::Jobs& jobs() { return *jobs_; }
  Scheduler& scheduler() { return *scheduler_; }
  const std::string& boot_id() const { return boot_id_; }

 private:
  Core() = default;

  std::string boot_id_;
  events::Hub hub_;
  std::unique_ptr<base::BlobDirectory> blobs_;
  std::unique_ptr<jobs::LogFiles> logs_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<jobs::Jobs> jobs_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace quantd::scheduler
