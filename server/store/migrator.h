// SPDX-License-Identifier: Apache-2.0
// Brings a database to the newest schema. Each migration is one transaction
// with its user_version; a newer or foreign database is left untouched.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/store/sqlite_db.h"

namespace quantd::store {

// "qntd" as a 32-bit integer: PRAGMA application_id of our databases.
inline constexpr int64_t kApplicationId = 0x716e7464;

struct Migration {
  int64_t version = 0;
  const char* sql = nullptr;
};
// The folder migrations/, in order, compiled in.
const std::vector<Migration>& Migrations();

// Checks the file before any write. FAILED_PRECONDITION: DATABASE_NEWER,
// DATABASE_FOREIGN. DATA_LOSS: STORE_CORRUPT. An absent file is fine.
absl::Status CheckDatabaseFile(const std::string& path,
                               const std::vector<Migration>& migrations);
// Backs an older database up to <path>.v<version>.backup, then migrates it.
absl::Status Migrate(Connection& db, const std::string& path,
                     const std::vector<Migration>& migrations);
// A consistent copy under a temporary name, checked, synced, then renamed.
absl::Status BackUp(Connection& db, const std::string& path);

}  // namespace quantd::store
