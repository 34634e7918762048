// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/job_details.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

absl::StatusOr<int> Get(Session& session, const std::string& id) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Job job, client->GetJob(id));
  Answer answer;
  answer.json = render::ToJson(job);
  answer.names = {job.job_id()};
  answer.table = [&](std::ostream& out) {
    render::PrintJobDetails(job, session.terminal(),
                            session.surroundings().clock.Now(), out);
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddGet(CLI::App& app, Session& session) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("get", "Show everything about a job");
  command->add_option("job", *id, "The job's id or its first characters")
      ->required();
  command->callback([id, &session] {
    session.SetCommand([id, &session] { return Get(session, *id); });
  });
}

}  // namespace quantd::commands
