// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/follow.h"
#include "client/commands/session.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

// The exit code of the first job that did not succeed.
absl::StatusOr<int> Wait(Session& session,
                         const std::vector<std::string>& jobs) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  int result = kExitSucceeded;
  for (const std::string& id : jobs) {
    ASSIGN_OR_RETURN(v1::Job job, client->GetJob(id));
    ASSIGN_OR_RETURN(const int code, Follow(session, {.job = std::move(job),
                                                      .show_events = false}));
    if (result == kExitSucceeded) result = code;
  }
  return result;
}

}  // namespace

void AddWait(CLI::App& app, Session& session) {
  auto jobs = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand(
      "wait", "Wait until jobs end; the exit code is theirs");
  command->add_option("jobs", *jobs, "Ids or their first characters")
      ->required();
  command->callback([jobs, &session] {
    session.SetCommand([jobs, &session] { return Wait(session, *jobs); });
  });
}

}  // namespace quantd::commands
