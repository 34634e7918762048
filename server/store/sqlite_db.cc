// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite_db.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace quantd::store {
namespace {

// FULL syncs the WAL at every commit: what was acknowledged survives a power
// loss. mmap stays off: it turned WAL races into damage elsewhere.
constexpr char kWriterPragmas[] = R"sql(
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
PRAGMA temp_store = MEMORY;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = 1000;
)sql";

// Readers never checkpoint: below 3.51.3 two connections that do can corrupt
// the WAL.
constexpr char kReaderPragmas[] = R"sql(
PRAGMA query_only = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
PRAGMA temp_store = MEMORY;
PRAGMA wal_autocheckpoint = 0;
)sql";

constexpr int kBusyTimeoutMillis = 2000;

}  // namespace

absl::Status SqliteStatus(sqlite3* db, int code, absl::string_view what) {
  const int primary = code & 0xff;
  const int system_error = db == nullptr ? 0 : sqlite3_system_errno(db);
  spdlog::warn("sqlite: {}: {} ({}), errno {}", std::string(what),
               db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db), code,
               system_error);
  // The wal-index and temporary files report a full disk as an I/O error.
  if (primary == SQLITE_FULL ||
      ((primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN) &&
       (system_error == ENOSPC || system_error == EDQUOT))) {
    return base::MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL",
                           "the disk of the data directory is full; free some "
                           "space, the server goes on by itself");
  }
  switch (primary) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return base::MakeError(absl::StatusCode::kDataLoss, "STORE_CORRUPT",
                             "the database is damaged; restore a backup");
    case SQLITE_CONSTRAINT:
      return base::MakeError(absl::StatusCode::kInternal, "STORE_CONSTRAINT",
                             "the database refused a row that breaks a rule");
    default:
      return base::MakeError(absl::StatusCode::kUnavailable,
                             "STORE_UNAVAILABLE",
                             absl::StrCat("the database cannot be used now (",
                                          what, "); try again"),
                             {{"action", std::string(what)}});
  }
}

Statement::Statement(Statement&& other) noexcept
    : owner_(other.owner_),
      sql_(std::move(other.sql_)),
      handle_(std::exchange(other.handle_, nullptr)),
      next_parameter_(other.next_parameter_),
      bind_code_(other.bind_code_) {}

Statement::~Statement() {
  if (handle_ != nullptr) owner_->GiveBack(sql_, handle_);
}

Statement& Statement::Int(int64_t value) {
  bind_code_ |= sqlite3_bind_int64(handle_, next_parameter_++, value);
  return *this;
}

Statement& Statement::Text(absl::string_view value) {
  bind_code_ |=
      sqlite3_bind_text64(handle_, next_parameter_++, value.data(),
                          value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::Blob(absl::string_view value) {
  // A null pointer would bind NULL, which an empty message is not.
  const char* const bytes = value.empty() ? "" : value.data();
  bind_code_ |= sqlite3_bind_blob64(handle_, next_parameter_++, bytes,
                                    value.size(), SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::Time(absl::Time value) { return Int(ToMicros(value)); }

Statement& Statement::Null() {
  bind_code_ |= sqlite3_bind_null(handle_, next_parameter_++);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (bind_code_ != SQLITE_OK) {
    return SqliteStatus(owner_->handle_, bind_code_, "bind");
  }
  const int code = sqlite3_step(handle_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return SqliteStatus(owner_->handle_, code, "statement");
}

absl::Status Statement::Run() {
  ASSIGN_OR_RETURN(bool more, Step());
  while (more) {
    ASSIGN_OR_RETURN(more, Step());
  }
  return absl::OkStatus();
}

int64_t Statement::ColumnInt(int column) const {
  return sqlite3_column_int64(handle_, column);
}

std::string Statement::ColumnText(int column) const {
  return ColumnBlob(column);
}

std::string Statement::ColumnBlob(int column) const {
  const void* const bytes = sqlite3_column_blob(handle_, column);
  const int length = sqlite3_column_bytes(handle_, column);
  if (bytes == nullptr || length <= 0) return "";
  return std::string(static_cast<const char*>(bytes), length);
}

absl::Time Statement::ColumnTime(int column) const {
  return absl::FromUnixMicros(ColumnInt(column));
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(handle_, column) == SQLITE_NULL;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(
    const std::string& path, Mode mode) {
  const bool writes = mode == Mode::kReadWrite;
  const int flags =
      SQLITE_OPEN_NOMUTEX | (writes ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
                                    : SQLITE_OPEN_READONLY);
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  std::unique_ptr<Connection> connection(new Connection(handle));
  if (code != SQLITE_OK) return SqliteStatus(handle, code, "open");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyTimeoutMillis);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  RETURN_IF_ERROR(
      connection->Execute(writes ? kWriterPragmas : kReaderPragmas));
  return connection;
}

Connection::~Connection() {
  for (auto& [sql, statement] : idle_statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::StatusOr<Statement> Connection::Prepare(absl::string_view sql) {
  std::string text(sql);
  auto idle = idle_statements_.find(text);
  if (idle != idle_statements_.end()) {
    sqlite3_stmt* const statement = idle->second;
    idle_statements_.erase(idle);
    return Statement(this, std::move(text), statement);
  }
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v3(handle_, text.data(), text.size(),
                         SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return SqliteStatus(handle_, code, "prepare");
  return Statement(this, std::move(text), statement);
}

absl::Status Connection::Execute(absl::string_view sql) {
  const int code = sqlite3_exec(handle_, std::string(sql).c_str(), nullptr,
                                nullptr, nullptr);
  if (code == SQLITE_OK) return absl::OkStatus();
  return SqliteStatus(handle_, code, "execute");
}

absl::StatusOr<int64_t> Connection::QueryInt(absl::string_view sql) {
  ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.ColumnInt(0) : 0;
}

int64_t Connection::changes() const { return sqlite3_changes64(handle_); }

int64_t Connection::last_insert_rowid() const {
  return sqlite3_last_insert_rowid(handle_);
}

bool Connection::in_transaction() const {
  return sqlite3_get_autocommit(handle_) == 0;
}

void Connection::GiveBack(const std::string& sql, sqlite3_stmt* statement) {
  sqlite3_reset(statement);
  sqlite3_clear_bindings(statement);
  idle_statements_.emplace(sql, statement);
}

int64_t ToMicros(absl::Time time) { return absl::ToUnixMicros(time); }

}  // namespace quantd::store
