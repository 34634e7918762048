// SPDX-License-Identifier: Apache-2.0
// The steps of a job, those done and those to do. A step is done once its files
// were handed to the sink; a later process is given it back as committed.
// docs/journal.md says what each step holds.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quantd/v1/runner.pb.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {

// The kinds of step, as the contract names them.
inline constexpr char kLoadStep[] = "load";
inline constexpr char kMeasureStep[] = "measure";
inline constexpr char kWeighStep[] = "weigh";
inline constexpr char kBlockStep[] = "block";
inline constexpr char kHeadStep[] = "head";
inline constexpr char kExportStep[] = "export";
inline constexpr char kVerifyStep[] = "verify";
inline constexpr char kEvaluateStep[] = "evaluate";
// Holds what is left of a layer whose numbers went wrong; never continued from.
inline constexpr char kFailureStep[] = "failure";

// The roles of their files.
inline constexpr char kTokensRole[] = "tokens";
inline constexpr char kWeightsRole[] = "weights";
inline constexpr char kActivationsRole[] = "activations";
// How much errors of the elements of a block's output count.
inline constexpr char kOutputWeightsRole[] = "output_weights";
// What transforms changed in a block.
inline constexpr char kTransformRole[] = "transform";
inline constexpr char kManifestRole[] = "manifest";
inline constexpr char kProbeRole[] = "probe";
// Followed by the file's path in the artifact.
inline constexpr char kFileRole[] = "file:";
// Followed by the module's name.
inline constexpr char kGramRole[] = "gram:";

struct PlannedStep {
  std::string kind;
  std::string name;
};

// One thread.
class Journal {
 public:
  // Takes over the longest run of `start.committed` from step 0 that has this
  // fingerprint, is what `plan` says, and whose files are there. `start` and
  // `sink` outlive the journal.
  Journal(const v1::StartJob& start, Sink& sink, std::string fingerprint,
          std::vector<PlannedStep> plan);

  const std::vector<PlannedStep>& plan() const { return plan_; }
  int64_t num_steps() const { return static_cast<int64_t>(plan_.size()); }
  // The first step to do; num_steps() where none is left.
  int64_t next() const { return static_cast<int64_t>(done_.size()); }
  const std::vector<v1::Step>& done() const { return done_; }
  // Steps of `kind` in the plan, in order.
  std::vector<int64_t> StepsOf(const std::string& kind) const;

  // The step of decoder block `block`; the head's is the one after the last.
  int64_t StepOfBlock(int64_t block) const {
    return StepsOf(kBlockStep).front() + block;
  }

  bool HasFile(int64_t step, const std::string& role) const;
  // The local file of a role of a step that is done. NOT_FOUND where it is not
  // at hand.
  absl::StatusOr<std::string> FileOf(int64_t step,
                                     const std::string& role) const;

  // Hands the next step over. Sets its number, kind, name and fingerprint. The
  // files belong to the sink afterwards; a second link is kept of those that
  // later steps of this process read.
  absl::Status Commit(v1::Step step,
                      const std::map<std::string, std::string>& files);
  // The same for what is left of a failed layer; the step stays to be done.
  absl::Status CommitFailure(const std::string& module, v1::Step step,
                             const std::map<std::string, std::string>& files);

  // A path for a new file of the attempt.
  std::string NewFile(const std::string& name) const;

 private:
  bool Continues(const v1::Step& step) const;
  absl::Status Keep(int64_t step,
                    const std::map<std::string, std::string>& files);

  const v1::StartJob& start_;
  Sink& sink_;
  const std::string fingerprint_;
  const std::vector<PlannedStep> plan_;
  std::vector<v1::Step> done_;
  // (step, role) to the file of a step that this process did.
  std::map<std::pair<int64_t, std::string>, std::string> kept_;
};

}  // namespace quantd::pipeline
