// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

absl::StatusOr<int> Explain(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const std::string id, session.FullJobId(job));
  ASSIGN_OR_RETURN(const v1::ExplainJobResponse response,
                   client->ExplainJob(id));
  Answer answer;
  answer.json = {{"job_id", id}};
  answer.json.update(render::ToJson(response));
  answer.names = {id};
  answer.table = [&](std::ostream& out) {
    for (const std::string& sentence : response.sentences()) {
      out << render::Printable(sentence) << "\n";
    }
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddExplain(CLI::App& app, Session& session) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "explain", "Say why a job is where it is, and what would move it");
  command->add_option("job", *id, "The job's id or its first characters")
      ->required();
  command->callback([id, &session] {
    session.SetCommand([id, &session] { return Explain(session, *id); });
  });
}

}  // namespace quantd::commands
