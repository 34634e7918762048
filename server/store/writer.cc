// SPDX-License-Identifier: Apache-2.0
#include "server/store/writer.h"

#include <algorithm>
#include <utility>

#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::store {
namespace {

constexpr size_t kMaxBatch = 256;
// While the disk takes no writes: how often it is asked again.
constexpr absl::Duration kProbeInterval = absl::Seconds(1);
// Quiet time after which the log is cut back to nothing.
constexpr absl::Duration kQuietTime = absl::Seconds(10);

}  // namespace

Writer::Writer(std::unique_ptr<Connection> db)
    : db_(std::move(db)), thread_([this] { Loop(); }) {}

Writer::~Writer() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

absl::Status Writer::Run(Operation operation) {
  Pending pending;
  pending.operation = std::move(operation);
  absl::MutexLock lock(&mu_);
  if (stopping_) {
    return base::MakeError(absl::StatusCode::kUnavailable, "STORE_CLOSED",
                           "the server is stopping; try again in a moment");
  }
  queue_.push_back(&pending);
  stats_.queued_operations = queue_.size();
  mu_.Await(absl::Condition(&pending.done));
  return pending.status;
}

void Writer::SetSink(Sink sink) {
  absl::MutexLock lock(&mu_);
  sink_ = std::move(sink);
}

StoreStats Writer::Stats() const {
  absl::MutexLock lock(&mu_);
  return stats_;
}

void Writer::Loop() {
  while (true) {
    const std::vector<Pending*> batch = Take();
    if (!batch.empty()) {
      RunBatch(batch);
      continue;
    }
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) return;
    }
    Idle();
  }
}

std::vector<Writer::Pending*> Writer::Take() {
  absl::MutexLock lock(&mu_);
  auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || !queue_.empty();
  };
  mu_.AwaitWithTimeout(absl::Condition(&has_work),
                       stats_.ready ? kQuietTime : kProbeInterval);
  const size_t count = std::min(queue_.size(), kMaxBatch);
  std::vector<Pending*> batch(queue_.begin(), queue_.begin() + count);
  queue_.erase(queue_.begin(), queue_.begin() + count);
  stats_.queued_operations = queue_.size();
  return batch;
}

void Writer::RunBatch(const std::vector<Pending*>& batch) {
  const absl::Status committed = RunInTransaction(batch);
  if (!committed.ok() && db_->in_transaction()) {
    db_->Execute("ROLLBACK").IgnoreError();
  }
  NoteCommit(committed, batch.size());
  if (committed.ok()) {
    wal_is_long_ = true;
    std::vector<v1::Event> events;
    for (Pending* pending : batch) {
      std::move(pending->events.begin(), pending->events.end(),
                std::back_inserter(events));
    }
    Sink sink;
    {
      absl::MutexLock lock(&mu_);
      sink = sink_;
    }
    if (sink && !events.empty()) sink(events);
  }
  absl::MutexLock lock(&mu_);
  for (Pending* pending : batch) {
    // Even a refusal may rest on another operation of the lost batch.
    if (!committed.ok()) pending->status = committed;
    pending->done = true;
  }
}

absl::Status Writer::RunInTransaction(const std::vector<Pending*>& batch) {
  RETURN_IF_ERROR(db_->Execute("BEGIN IMMEDIATE"));
  for (Pending* pending : batch) {
    RETURN_IF_ERROR(RunInSavepoint(*pending));
  }
  return db_->Execute("COMMIT");
}

// An error here is one of the database; the operation's own is in `pending`.
absl::Status Writer::RunInSavepoint(Pending& pending) {
  RETURN_IF_ERROR(db_->Execute("SAVEPOINT operation"));
  Transaction transaction(db_.get());
  pending.status = pending.operation(transaction);
  // A full disk may have ended the transaction, and with it the whole batch.
  if (!db_->in_transaction()) return pending.status;
  if (pending.status.ok()) {
    pending.events = std::move(transaction.events_);
  } else {
    RETURN_IF_ERROR(db_->Execute("ROLLBACK TO operation"));
  }
  return db_->Execute("RELEASE operation");
}

void Writer::NoteCommit(const absl::Status& status, size_t operations) {
  absl::MutexLock lock(&mu_);
  stats_.ready = status.ok();
  if (status.ok()) {
    ++stats_.commits;
    stats_.operations += operations;
  } else {
    ++stats_.failed_commits;
  }
}

void Writer::Idle() {
  if (!Stats().ready) {
    Pending probe;
    probe.operation = [](Transaction& transaction) {
      return transaction.db().Execute("UPDATE probe SET count = count + 1");
    };
    const absl::Status committed = RunInTransaction({&probe});
    if (!committed.ok() && db_->in_transaction()) {
      db_->Execute("ROLLBACK").IgnoreError();
    }
    NoteCommit(committed.ok() ? probe.status : committed, 0);
    return;
  }
  if (wal_is_long_) {
    // Gives way to readers: then the next quiet time does it.
    wal_is_long_ = !db_->Execute("PRAGMA wal_checkpoint(TRUNCATE)").ok();
  }
}

}  // namespace quantd::store
