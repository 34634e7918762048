// SPDX-License-Identifier: Apache-2.0
// SQLite with statuses instead of codes. One Connection belongs to one thread
// at a time; nothing outside server/store includes this.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd::store {

// DISK_FULL, STORE_CORRUPT, STORE_CONSTRAINT or STORE_UNAVAILABLE.
absl::Status SqliteStatus(sqlite3* db, int code, absl::string_view what);

class Connection;

// A prepared statement on loan from its connection; goes back when destroyed.
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  // Bind the next parameter. A failure shows at the next Step.
  Statement& Int(int64_t value);
  Statement& Text(absl::string_view value);
  Statement& Blob(absl::string_view value);
  Statement& Time(absl::Time value);
  Statement& Null();

  // True where a row is there to be read.
  absl::StatusOr<bool> Step();
  // Runs a statement that gives no rows.
  absl::Status Run();

  int64_t ColumnInt(int column) const;
  std::string ColumnText(int column) const;
  std::string ColumnBlob(int column) const;
  absl::Time ColumnTime(int column) const;
  bool IsNull(int column) const;

 private:
  friend class Connection;
  Statement(Connection* owner, std::string sql, sqlite3_stmt* handle)
      : owner_(owner), sql_(std::move(sql)), handle_(handle) {}

  Connection* owner_;
  std::string sql_;
  sqlite3_stmt* handle_;
  int next_parameter_ = 1;
  int bind_code_ = SQLITE_OK;
};

class Connection {
 public:
  enum class Mode { kReadWrite, kReadOnly };
  // Sets every pragma that the mode asks for.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(
      const std::string& path, Mode mode);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // `sql` is one statement; parsed once per connection.
  absl::StatusOr<Statement> Prepare(absl::string_view sql);
  // Runs any number of statements without parameters.
  absl::Status Execute(absl::string_view sql);
  // The first column of the first row of `sql`; 0 without a row.
  absl::StatusOr<int64_t> QueryInt(absl::string_view sql);
  // Rows that the last statement changed.
  int64_t changes() const;
  int64_t last_insert_rowid() const;
  // SQLite may end a transaction by itself where an error leaves no way on.
  bool in_transaction() const;
  sqlite3* handle() { return handle_; }

 private:
  friend class Statement;
  explicit Connection(sqlite3* handle) : handle_(handle) {}
  void GiveBack(const std::string& sql, sqlite3_stmt* statement);

  sqlite3* const handle_;
  std::multimap<std::string, sqlite3_stmt*> idle_statements_;
};

// Microseconds since 1970, as times are stored.
int64_t ToMicros(absl::Time time);

}  // namespace quantd::store
