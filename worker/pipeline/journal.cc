// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/journal.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"

namespace quantd::pipeline {
namespace {

// Roles that a job can go on without: activations are computed again where they
// are gone, a kept matrix is for people.
bool IsDispensable(const std::string& role) {
  return role == kActivationsRole || absl::StartsWith(role, kGramRole);
}

const v1::Step* FindStep(const v1::StartJob& start, int64_t number) {
  for (const v1::Step& step : start.committed()) {
    if (step.step() == number) return &step;
  }
  return nullptr;
}

}  // namespace

Journal::Journal(const v1::StartJob& start, Sink& sink, std::string fingerprint,
                 std::vector<PlannedStep> plan)
    : start_(start),
      sink_(sink),
      fingerprint_(std::move(fingerprint)),
      plan_(std::move(plan)) {
  while (next() < num_steps()) {
    const v1::Step* step = FindStep(start_, next());
    if (step == nullptr || !Continues(*step)) break;
    done_.push_back(*step);
  }
  if (start_.committed_size() > next()) {
    spdlog::info("{} of {} committed steps are continued from", next(),
                 start_.committed_size());
  }
}

bool Journal::Continues(const v1::Step& step) const {
  const PlannedStep& planned = plan_[next()];
  if (step.fingerprint() != fingerprint_ || step.kind() != planned.kind ||
      step.name() != planned.name) {
    return false;
  }
  for (const auto& [role, blob] : step.blobs()) {
    if (!IsDispensable(role) && start_.blob_files().count(blob.sha256()) == 0) {
      return false;
    }
  }
  return true;
}

std::vector<int64_t> Journal::StepsOf(const std::string& kind) const {
  std::vector<int64_t> steps;
  for (int64_t i = 0; i < num_steps(); ++i) {
    if (plan_[i].kind == kind) steps.push_back(i);
  }
  return steps;
}

bool Journal::HasFile(int64_t step, const std::string& role) const {
  return FileOf(step, role).ok();
}

absl::StatusOr<std::string> Journal::FileOf(int64_t step,
                                            const std::string& role) const {
  const auto kept = kept_.find({step, role});
  if (kept != kept_.end()) return kept->second;
  if (step < next()) {
    const auto blob = done_[step].blobs().find(role);
    if (blob != done_[step].blobs().end()) {
      const auto file = start_.blob_files().find(blob->second.sha256());
      if (file != start_.blob_files().end()) return file->second;
    }
  }
  return base::MakeError(
      absl::StatusCode::kNotFound, "STEP_FILE_MISSING",
      absl::StrCat("the ", role, " of step ", step, " are not at hand"),
      {{"step", absl::StrCat(step)}, {"role", role}});
}

std::string Journal::NewFile(const std::string& name) const {
  return absl::StrCat(start_.work_directory(), "/", name);
}

absl::Status Journal::Keep(int64_t step,
                           const std::map<std::string, std::string>& files) {
  for (const char* role :
       {kTokensRole, kWeightsRole, kTransformRole, kOutputWeightsRole}) {
    const auto file = files.find(role);
    if (file == files.end()) continue;
    const std::string link = absl::StrCat(file->second, ".kept");
    if (::link(file->second.c_str(), link.c_str()) != 0) {
      return base::ErrnoStatus(errno, "keeping the files of a step");
    }
    kept_[{step, role}] = link;
  }
  return absl::OkStatus();
}

absl::Status Journal::Commit(v1::Step step,
                             const std::map<std::string, std::string>& files) {
  const int64_t number = next();
  step.set_step(number);
  step.set_num_steps(num_steps());
  step.set_kind(plan_[number].kind);
  step.set_name(plan_[number].name);
  step.set_fingerprint(fingerprint_);
  RETURN_IF_ERROR(Keep(number, files));
  done_.push_back(step);
  return sink_.StepDone(step, files);
}

absl::Status Journal::CommitFailure(
    const std::string& module, v1::Step step,
    const std::map<std::string, std::string>& files) {
  step.set_step(next());
  step.set_num_steps(num_steps());
  step.set_kind(kFailureStep);
  step.set_name(module);
  step.set_fingerprint(fingerprint_);
  return sink_.StepDone(step, files);
}

}  // namespace quantd::pipeline
