// SPDX-License-Identifier: Apache-2.0
// The one thread that writes. Callers queue operations; the thread takes what
// is queued (at most 256), runs each in its own savepoint, commits once with a
// synced log, hands the events on and only then lets the callers go.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quantd/v1/event.pb.h"
#include "server/store/records.h"
#include "server/store/sqlite_db.h"

namespace quantd::store {

// What one operation sees. Lives on the writer thread.
class Transaction {
 public:
  explicit Transaction(Connection* db) : db_(db) {}
  Connection& db() { return *db_; }
  // Handed to the event sink once the commit is durable.
  void Announce(v1::Event event) { events_.push_back(std::move(event)); }

 private:
  friend class Writer;
  Connection* db_;
  std::vector<v1::Event> events_;
};

class Writer {
 public:
  using Operation = std::function<absl::Status(Transaction&)>;
  using Sink = std::function<void(const std::vector<v1::Event>&)>;

  explicit Writer(std::unique_ptr<Connection> db);
  // Finishes what is queued; later operations fail with STORE_CLOSED.
  ~Writer();

  // Blocks until the operation is durable or was undone. An error of the
  // operation undoes it alone; an error of the commit undoes the whole batch
  // and is the answer to each operation in it.
  absl::Status Run(Operation operation);
  void SetSink(Sink sink);
  // `wal_bytes` and `schema_version` are left to the caller.
  StoreStats Stats() const;

 private:
  struct Pending {
    Operation operation;
    absl::Status status;
    std::vector<v1::Event> events;
    bool done = false;
  };

  void Loop();
  std::vector<Pending*> Take();
  void RunBatch(const std::vector<Pending*>& batch);
  absl::Status RunInTransaction(const std::vector<Pending*>& batch);
  absl::Status RunInSavepoint(Pending& pending);
  void NoteCommit(const absl::Status& status, size_t operations);
  void Idle();

  // Only touched by the writer thread.
  const std::unique_ptr<Connection> db_;
  bool wal_is_long_ = false;
  // Guarded by mu_.
  mutable absl::Mutex mu_;
  std::deque<Pending*> queue_ ABSL_GUARDED_BY(mu_);
  Sink sink_ ABSL_GUARDED_BY(mu_);
  StoreStats stats_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace quantd::store
