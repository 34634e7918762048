// SPDX-License-Identifier: Apache-2.0
// Between rows and structs: the only place that knows the columns of `jobs`
// and `attempts`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/records.h"
#include "server/store/sqlite_db.h"

namespace quantd::store {

// "SELECT <every column JobFrom reads> FROM jobs ", to be followed by WHERE.
std::string SelectJobs();
JobRecord JobFrom(const Statement& row);
// Every row of a SelectJobs statement.
absl::StatusOr<std::vector<JobRecord>> AllJobs(Statement statement);

// The job with exactly this id. NOT_FOUND, JOB_NOT_FOUND.
absl::StatusOr<JobRecord> LoadJob(Connection& db, absl::string_view job_id);

// Inserts the row; sets `ordinal` and `queue_rank`.
absl::Status InsertJob(Connection& db, JobRecord& job,
                       const std::string& request_digest);
// Writes every changeable column where the row still has the state, epoch and
// incarnation of `before`. False where it has not: nothing was changed.
absl::StatusOr<bool> UpdateJob(Connection& db, const JobRecord& before,
                               const JobRecord& after);

absl::Status InsertAttempt(Connection& db, const JobRecord& job,
                           absl::Time now);

absl::Status JobNotFound(absl::string_view job_id);

// "quantize" or "evaluate".
std::string KindOf(const v1::JobSpec& spec);

}  // namespace quantd::store
