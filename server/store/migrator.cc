// SPDX-License-Identifier: Apache-2.0
#include "server/store/migrator.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::store {
namespace {

absl::Status CheckIdentity(int64_t application_id, int64_t version,
                           int64_t tables, int64_t newest) {
  if (application_id != kApplicationId && (application_id != 0 || tables > 0)) {
    return base::MakeError(absl::StatusCode::kFailedPrecondition,
                           "DATABASE_FOREIGN",
                           "the database in the data directory was written by "
                           "another program; choose another --data-dir");
  }
  if (version > newest) {
    return base::MakeError(
        absl::StatusCode::kFailedPrecondition, "DATABASE_NEWER",
        absl::StrCat("the database has schema ", version,
                     ", this server knows ", newest,
                     "; run a newer server or restore the backup that was made "
                     "before the upgrade"),
        {{"database", absl::StrCat(version)},
         {"server", absl::StrCat(newest)}});
  }
  return absl::OkStatus();
}

absl::Status ApplyOne(Connection& db, const Migration& migration) {
  RETURN_IF_ERROR(db.Execute("BEGIN IMMEDIATE"));
  absl::Status status = db.Execute(migration.sql);
  if (status.ok()) {
    status = db.Execute(absl::StrCat(
        "PRAGMA application_id = ", kApplicationId,
        "; PRAGMA user_version = ", migration.version, "; COMMIT"));
  }
  if (!status.ok() && db.in_transaction()) {
    db.Execute("ROLLBACK").IgnoreError();
  }
  return base::AddContext(status,
                          absl::StrCat("migration ", migration.version));
}

absl::Status CopyDatabase(Connection& from, const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Connection> to,
                   Connection::Open(path, Connection::Mode::kReadWrite));
  // The copy is one file, whole without a log beside it.
  RETURN_IF_ERROR(to->Execute("PRAGMA journal_mode = DELETE"));
  sqlite3_backup* const backup =
      sqlite3_backup_init(to->handle(), "main", from.handle(), "main");
  if (backup == nullptr) {
    return SqliteStatus(to->handle(), sqlite3_errcode(to->handle()), "backup");
  }
  const int code = sqlite3_backup_step(backup, -1);
  sqlite3_backup_finish(backup);
  if (code != SQLITE_DONE) return SqliteStatus(to->handle(), code, "backup");
  RETURN_IF_ERROR(to->Execute("PRAGMA journal_mode = DELETE"));
  ASSIGN_OR_RETURN(Statement check, to->Prepare("PRAGMA quick_check(1)"));
  ASSIGN_OR_RETURN(const bool row, check.Step());
  if (!row || check.ColumnText(0) != "ok") {
    return SqliteStatus(nullptr, SQLITE_CORRUPT, "check the backup");
  }
  return absl::OkStatus();
}

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return base::ErrnoStatus(errno, "open the backup");
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  return result == 0 ? absl::OkStatus()
                     : base::ErrnoStatus(error, "sync the backup");
}

}  // namespace

absl::Status CheckDatabaseFile(const std::string& path,
                               const std::vector<Migration>& migrations) {
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READONLY, nullptr);
  const std::unique_ptr<sqlite3, decltype(&sqlite3_close)> closer(
      handle, &sqlite3_close);
  if (code != SQLITE_OK) return SqliteStatus(handle, code, "open");
  int64_t values[3] = {0, 0, 0};
  const char* const queries[3] = {"PRAGMA application_id",
                                  "PRAGMA user_version",
                                  "SELECT count(*) FROM sqlite_schema"};
  for (int i = 0; i < 3; ++i) {
    sqlite3_stmt* statement = nullptr;
    int step = sqlite3_prepare_v2(handle, queries[i], -1, &statement, nullptr);
    if (step == SQLITE_OK) step = sqlite3_step(statement);
    if (step == SQLITE_ROW) values[i] = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    if (step != SQLITE_ROW) return SqliteStatus(handle, step, "look at schema");
  }
  return CheckIdentity(values[0], values[1], values[2],
                       migrations.back().version);
}

absl::Status Migrate(Connection& db, const std::string& path,
                     const std::vector<Migration>& migrations) {
  ASSIGN_OR_RETURN(const int64_t version, db.QueryInt("PRAGMA user_version"));
  if (version > 0 && version < migrations.back().version) {
    RETURN_IF_ERROR(BackUp(db, absl::StrCat(path, ".v", version, ".backup")));
  }
  for (const Migration& migration : migrations) {
    if (migration.version > version) {
      RETURN_IF_ERROR(ApplyOne(db, migration));
    }
  }
  return absl::OkStatus();
}

absl::Status BackUp(Connection& db, const std::string& path) {
  const std::string temporary = path + ".tmp";
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  absl::Status status = CopyDatabase(db, temporary);
  if (status.ok()) status = SyncFile(temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = base::ErrnoStatus(errno, "name the backup");
  }
  if (!status.ok()) {
    std::filesystem::remove(temporary, ignored);
    return base::AddContext(status, "back up the database");
  }
  return base::SyncDirectory(std::filesystem::path(path).parent_path());
}

}  // namespace quantd::store
