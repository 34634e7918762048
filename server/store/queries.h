// SPDX-License-Identifier: Apache-2.0
// The bodies of the reads. Each runs on a reader's connection in one short
// transaction.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/records.h"
#include "server/store/sqlite_db.h"

namespace quantd::store {

// --- Jobs (job_queries.cc) ---------------------------------------------------
absl::StatusOr<JobRecord> GetJob(Connection& db, const std::string& id);
absl::StatusOr<JobPage> ListJobs(Connection& db, const JobFilter& filter,
                                 int64_t before, int32_t page_size);
absl::StatusOr<std::vector<JobRecord>> QueueHead(Connection& db, int32_t limit);
absl::StatusOr<int64_t> JobsAhead(Connection& db, const std::string& job_id);
absl::StatusOr<std::vector<JobRecord>> JobsInStates(
    Connection& db, const std::vector<v1::JobState>& states);
absl::StatusOr<std::map<v1::JobState, int64_t>> CountJobs(Connection& db);
absl::StatusOr<WaitingJobs> Waiting(Connection& db);

// --- What belongs to jobs (detail_queries.cc) --------------------------------
absl::StatusOr<std::vector<v1::Event>> ReadEvents(Connection& db,
                                                  const std::string& job_id,
                                                  int64_t from_seq,
                                                  int32_t limit);
absl::StatusOr<std::vector<v1::Step>> CommittedSteps(Connection& db,
                                                     const std::string& job_id);
absl::StatusOr<std::vector<std::string>> JobsWithPassingBlobs(Connection& db);
absl::StatusOr<std::vector<AttemptRecord>> Attempts(Connection& db,
                                                    const std::string& job_id);
absl::StatusOr<v1::Artifact> GetArtifact(Connection& db,
                                         const std::string& name);
absl::StatusOr<ArtifactPage> ListArtifacts(Connection& db,
                                           const std::string& job_id,
                                           int64_t before, int32_t page_size);
absl::StatusOr<v1::Catalog> GetCatalog(Connection& db);
absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(Connection& db);

// The smallest text greater than every text that starts with `prefix`.
std::string PrefixEnd(std::string prefix);

}  // namespace quantd::store
