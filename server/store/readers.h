// SPDX-License-Identifier: Apache-2.0
// Read-only connections, lent to one caller at a time. A read is one short
// transaction, so that it holds back no checkpoint. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/store/sqlite_db.h"

namespace quantd::store {

class Readers {
 public:
  static absl::StatusOr<std::unique_ptr<Readers>> Open(const std::string& path,
                                                       int count);

  // Runs `read` on a snapshot; waits while all connections are lent.
  template <typename T>
  absl::StatusOr<T> Read(
      const std::function<absl::StatusOr<T>(Connection&)>& read) {
    std::unique_ptr<Connection> db = Borrow();
    const absl::Status begun = db->Execute("BEGIN");
    if (!begun.ok()) {
      Return(std::move(db));
      return begun;
    }
    absl::StatusOr<T> result = read(*db);
    db->Execute("COMMIT").IgnoreError();
    Return(std::move(db));
    return result;
  }

 private:
  Readers() = default;
  std::unique_ptr<Connection> Borrow();
  void Return(std::unique_ptr<Connection> db);

  absl::Mutex mu_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::store
