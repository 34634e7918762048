// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/core.h"

#include <utility>
#include <vector>

#include "proto/base/status_macros.h"
#include "server/scheduler/retry_policy.h"
#include "server/store/sqlite_store.h"

namespace quantd::scheduler {

absl::StatusOr<std::unique_ptr<Core>> Core::Open(Options options) {
  std::unique_ptr<Core> core(new Core());
  core->boot_id_ = options.ids->NewUuid();
  if (options.blob_dir.empty()) options.blob_dir = options.data_dir + "/blobs";
  store::SqliteStore::Options store_options;
  store_options.data_dir = options.data_dir;
  Core* const self = core.get();
  store_options.has_blob = [self](const std::string& sha256) {
    return self->blobs_->Has(sha256);
  };
  ASSIGN_OR_RETURN(core->store_,
                   store::SqliteStore::Open(std::move(store_options)));
  ASSIGN_OR_RETURN(core->blobs_, base::BlobDirectory::Open(options.blob_dir));
  ASSIGN_OR_RETURN(core->logs_,
                   jobs::LogFiles::Open(options.data_dir + "/logs"));
  // Owned by the rule, which jobs keep for their whole life.
  auto policy = std::make_shared<RetryPolicy>(options.seed);
  jobs::Jobs::Options jobs_options;
  jobs_options.store = core->store_.get();
  jobs_options.hub = &core->hub_;
  jobs_options.logs = core->logs_.get();
  jobs_options.blobs = core->blobs_.get();
  jobs_options.clock = options.clock;
  jobs_options.ids = options.ids;
  jobs_options.blob_grace = options.blob_grace;
  jobs_options.retry_rule = [policy](const store::JobRecord& job,
                                     const v1::Failure& failure) {
    return policy->Decide(job, failure);
  };
  core->jobs_ = std::make_unique<jobs::Jobs>(std::move(jobs_options));
  Scheduler::Options scheduler_options;
  scheduler_options.store = core->store_.get();
  scheduler_options.jobs = core->jobs_.get();
  scheduler_options.clock = options.clock;
  scheduler_options.boot_id = core->boot_id_;
  scheduler_options.lease_ttl = options.lease_ttl;
  scheduler_options.metrics = options.metrics;
  core->scheduler_ = std::make_unique<Scheduler>(std::move(scheduler_options));
  core->store_->SetEventSink([self, observer = std::move(options.observer)](
                                 const std::vector<v1::Event>& events) {
    self->hub_.Publish(events);
    self->scheduler_->OnEvents(events);
    if (observer) observer(events);
  });
  RETURN_IF_ERROR(core->scheduler_->Recover());
  return core;
}

Core::~Core() {
  if (scheduler_) scheduler_->Stop();
  // The writer's last events still go to the hub and the scheduler.
  if (store_) store_->SetEventSink(nullptr);
}

}  // namespace quantd::scheduler
