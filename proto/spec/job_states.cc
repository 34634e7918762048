// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/job_states.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

constexpr char kPrefix[] = "JOB_STATE_";

struct Transition {
  v1::JobState from;
  v1::JobState to;
  Actor actor;
};

// A worker that ends an attempt may thereby send the job anywhere the retry
// rule says. While CANCELLING only two ends are left: the cancel is confirmed,
// or the work was finished already and the result stands.
constexpr Transition kTransitions[] = {
    {v1::JOB_STATE_PENDING, v1::JOB_STATE_CANCELLED, Actor::kClient},
    {v1::JOB_STATE_QUEUED, v1::JOB_STATE_CANCELLED, Actor::kClient},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_CANCELLING, Actor::kClient},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING, Actor::kClient},
    {v1::JOB_STATE_FAILED, v1::JOB_STATE_QUEUED, Actor::kClient},
    {v1::JOB_STATE_CANCELLED, v1::JOB_STATE_QUEUED, Actor::kClient},

    {v1::JOB_STATE_LEASED, v1::JOB_STATE_RUNNING, Actor::kWorker},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_PENDING, Actor::kWorker},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_QUEUED, Actor::kWorker},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_SUCCEEDED, Actor::kWorker},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_FAILED, Actor::kWorker},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_PENDING, Actor::kWorker},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_QUEUED, Actor::kWorker},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_SUCCEEDED, Actor::kWorker},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_FAILED, Actor::kWorker},
    {v1::JOB_STATE_CANCELLING, v1::JOB_STATE_CANCELLED, Actor::kWorker},
    {v1::JOB_STATE_CANCELLING, v1::JOB_STATE_SUCCEEDED, Actor::kWorker},

    {v1::JOB_STATE_PENDING, v1::JOB_STATE_QUEUED, Actor::kServer},
    {v1::JOB_STATE_QUEUED, v1::JOB_STATE_LEASED, Actor::kServer},
    {v1::JOB_STATE_QUEUED, v1::JOB_STATE_FAILED, Actor::kServer},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_QUEUED, Actor::kServer},
    {v1::JOB_STATE_LEASED, v1::JOB_STATE_FAILED, Actor::kServer},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_QUEUED, Actor::kServer},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_FAILED, Actor::kServer},
    {v1::JOB_STATE_CANCELLING, v1::JOB_STATE_CANCELLED, Actor::kServer},
};

}  // namespace

const std::vector<v1::JobState>& AllJobStates() {
  static const auto* const kStates = new std::vector<v1::JobState>{
      v1::JOB_STATE_PENDING, v1::JOB_STATE_QUEUED,     v1::JOB_STATE_LEASED,
      v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING, v1::JOB_STATE_SUCCEEDED,
      v1::JOB_STATE_FAILED,  v1::JOB_STATE_CANCELLED};
  return *kStates;
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

bool HoldsLease(v1::JobState state) {
  return state == v1::JOB_STATE_LEASED || state == v1::JOB_STATE_RUNNING ||
         state == v1::JOB_STATE_CANCELLING;
}

bool MayTransition(v1::JobState from, v1::JobState to, Actor actor) {
  return std::any_of(std::begin(kTransitions), std::end(kTransitions),
                     [&](const Transition& row) {
                       return row.from == from && row.to == to &&
                              row.actor == actor;
                     });
}

absl::Status CheckTransition(v1::JobState from, v1::JobState to, Actor actor) {
  if (MayTransition(from, to, actor)) return absl::OkStatus();
  const std::string from_name = JobStateName(from);
  const std::string to_name = JobStateName(to);
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "JOB_STATE_CONFLICT",
      absl::StrCat("a job that is ", from_name, " cannot become ", to_name),
      {{"state", from_name}, {"wanted", to_name}});
}

std::string JobStateName(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), kPrefix));
}

absl::StatusOr<v1::JobState> ParseJobState(absl::string_view name) {
  for (v1::JobState state : AllJobStates()) {
    if (JobStateName(state) == name) return state;
  }
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "JOB_STATE_UNKNOWN",
      absl::StrCat("no job state is called \"", name,
                   "\"; there are PENDING, QUEUED, LEASED, RUNNING, "
                   "CANCELLING, SUCCEEDED, FAILED and CANCELLED"),
      {{"state", std::string(name)}});
}

}  // namespace quantd::spec
