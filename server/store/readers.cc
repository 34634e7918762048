// SPDX-License-Identifier: Apache-2.0
#include "server/store/readers.h"

#include <utility>

#include "proto/base/status_macros.h"

namespace quantd::store {

absl::StatusOr<std::unique_ptr<Readers>> Readers::Open(const std::string& path,
                                                       int count) {
  std::unique_ptr<Readers> readers(new Readers());
  for (int i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<Connection> db,
                     Connection::Open(path, Connection::Mode::kReadOnly));
    readers->Return(std::move(db));
  }
  return readers;
}

std::unique_ptr<Connection> Readers::Borrow() {
  absl::MutexLock lock(&mu_);
  auto available = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !idle_.empty();
  };
  mu_.Await(absl::Condition(&available));
  std::unique_ptr<Connection> db = std::move(idle_.back());
  idle_.pop_back();
  return db;
}

void Readers::Return(std::unique_ptr<Connection> db) {
  absl::MutexLock lock(&mu_);
  idle_.push_back(std::move(db));
}

}  // namespace quantd::store
