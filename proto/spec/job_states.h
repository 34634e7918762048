// SPDX-License-Identifier: Apache-2.0
// Which state changes of a job are legal, and who may cause them. The one
// place where this is written down; the store refuses everything else. Pure
// functions, any thread.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantd/v1/job.pb.h"

namespace quantd::spec {

enum class Actor {
  // A person or a program with a job id.
  kClient,
  // A worker whose (epoch, incarnation) is the job's current lease.
  kWorker,
  // A worker whose lease was lost. It may change nothing, ever.
  kStaleWorker,
  // The scheduler: grants, expiries, ends of waits.
  kServer,
};

inline constexpr Actor kAllActors[] = {Actor::kClient, Actor::kWorker,
                                       Actor::kStaleWorker, Actor::kServer};

// The eight states, in the order of the enum.
const std::vector<v1::JobState>& AllJobStates();

// SUCCEEDED, FAILED or CANCELLED.
bool IsTerminal(v1::JobState state);
// LEASED, RUNNING or CANCELLING: a worker holds the job.
bool HoldsLease(v1::JobState state);

bool MayTransition(v1::JobState from, v1::JobState to, Actor actor);
// FAILED_PRECONDITION, JOB_STATE_CONFLICT where the change is not legal.
absl::Status CheckTransition(v1::JobState from, v1::JobState to, Actor actor);

// "RUNNING" for JOB_STATE_RUNNING.
std::string JobStateName(v1::JobState state);
// INVALID_ARGUMENT, JOB_STATE_UNKNOWN for a word that names no state.
absl::StatusOr<v1::JobState> ParseJobState(absl::string_view name);

}  // namespace quantd::spec
