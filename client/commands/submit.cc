// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/job_flags.h"
#include "client/commands/paths.h"
#include "client/commands/recipe_flags.h"
#include "proto/base/status_macros.h"
#include "proto/spec/catalog_rules.h"

namespace quantd::commands {
namespace {

struct SubmitFlags {
  std::string model;
  RecipeFlags recipe;
  JobFlags job;
};

absl::StatusOr<int> Submit(Session& session, const SubmitFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Catalog catalog,
                   client->AwaitCatalog(kWorkerStart));
  v1::JobSpec spec;
  spec.mutable_quantize()->set_model(ModelForServer(flags.model));
  ASSIGN_OR_RETURN(*spec.mutable_quantize()->mutable_recipe(),
                   BuildRecipe(flags.recipe, catalog));
  // The server checks the same; here it costs no round trip.
  RETURN_IF_ERROR(spec::ValidateJob(spec, catalog));
  return SubmitSpec(session, flags.job, std::move(spec));
}

}  // namespace

void AddSubmit(CLI::App& app, Session& session) {
  auto flags = std::make_shared<SubmitFlags>();
  CLI::App* command =
      app.add_subcommand("submit", "Quantize a model, and score it");
  command
      ->add_option("--model", flags->model,
                   "A model directory, a .gguf file or a known name")
      ->type_name("M")
      ->required();
  AddRecipeFlags(*command, &flags->recipe);
  AddJobFlags(*command, &flags->job);
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Submit(session, *flags); });
  });
}

}  // namespace quantd::commands
