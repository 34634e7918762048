// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/job_flags.h"
#include "client/commands/paths.h"
#include "client/commands/recipe_flags.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"

namespace quantd::commands {
namespace {

struct EvaluateFlags {
  std::string model;
  std::vector<std::string> tasks;
  JobFlags job;
};

// A reference by a prefix becomes one by the full id.
absl::StatusOr<std::string> FullReference(Session& session,
                                          const std::string& model) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  if (absl::StartsWith(model, "jobs/")) {
    ASSIGN_OR_RETURN(const std::string id, session.FullJobId(model.substr(5)));
    return absl::StrCat("jobs/", id);
  }
  if (absl::StartsWith(model, "artifacts/")) {
    ASSIGN_OR_RETURN(const v1::Artifact artifact,
                     client->GetArtifact(model.substr(10)));
    return absl::StrCat("artifacts/", artifact.artifact_id());
  }
  return ModelForServer(model);
}

absl::StatusOr<int> Evaluate(Session& session, const EvaluateFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Catalog catalog,
                   client->AwaitCatalog(kWorkerStart));
  v1::JobSpec spec;
  ASSIGN_OR_RETURN(*spec.mutable_evaluate()->mutable_model(),
                   FullReference(session, flags.model));
  for (const std::string& list : flags.tasks) {
    ASSIGN_OR_RETURN(const std::vector<v1::Component> tasks,
                     ParseComponents(list));
    for (const v1::Component& task : tasks) {
      v1::Component& added = *spec.mutable_evaluate()->add_evals();
      added = task;
      FitToCatalog(catalog, v1::SEAM_EVAL, &added);
    }
  }
  RETURN_IF_ERROR(spec::ValidateJob(spec, catalog));
  return SubmitSpec(session, flags.job, std::move(spec));
}

}  // namespace

void AddEvaluate(CLI::App& app, Session& session) {
  auto flags = std::make_shared<EvaluateFlags>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Score a model or an artifact");
  command
      ->add_option("--model", flags->model,
                   "A model directory, a .gguf file, a known name, "
                   "artifacts/ID or jobs/ID")
      ->type_name("M")
      ->required();
  command->add_option("--tasks,--eval", flags->tasks, "What to score it on")
      ->type_name("TASK[:NAME=VALUE,...],...")
      ->allow_extra_args(false)
      ->required();
  AddJobFlags(*command, &flags->job);
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Evaluate(session, *flags); });
  });
}

}  // namespace quantd::commands
