// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

void PrintStatus(Session& session, const v1::GetServerStatusResponse& status,
                 std::ostream& out) {
  const std::map<std::string, int64_t> jobs(status.jobs().begin(),
                                            status.jobs().end());
  std::vector<std::string> counts;
  for (const auto& [state, count] : jobs) {
    if (count > 0) {
      counts.push_back(absl::StrCat(count, " ", render::Printable(state)));
    }
  }
  render::Table table({});
  table.AddRow({"server", session.flags().local
                              ? std::string("local")
                              : session.settings().server.value});
  table.AddRow(
      {"ready",
       status.ready()
           ? render::Paint(session.terminal(), render::Color::kGreen, "yes")
           : render::Paint(session.terminal(), render::Color::kRed, "no")});
  table.AddRow({"version", render::Printable(status.version())});
  table.AddRow({"running since",
                absl::StrCat(render::Instant(status.start_time()), " (for ",
                             render::Age(status.start_time(),
                                         session.surroundings().clock.Now()),
                             ")")});
  table.AddRow({"jobs", counts.empty() ? "none" : absl::StrJoin(counts, ", ")});
  table.AddRow({"workers", absl::StrCat(status.workers())});
  table.AddRow({"blobs", render::Bytes(status.blob_bytes())});
  table.AddRow({"disk free", render::Bytes(status.free_bytes())});
  table.AddRow({"schema", absl::StrCat(status.schema_version())});
  table.Print(session.terminal(), out);
}

absl::StatusOr<int> Status(Session& session) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::GetServerStatusResponse status,
                   client->GetServerStatus());
  Answer answer;
  answer.json = render::ToJson(status);
  answer.names = {session.settings().server.value};
  answer.table = [&](std::ostream& out) { PrintStatus(session, status, out); };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddServer(CLI::App& app, Session& session) {
  CLI::App* server = app.add_subcommand("server", "The server itself");
  server->require_subcommand(1);
  CLI::App* status = server->add_subcommand(
      "status", "Show whether it is ready, and its load");
  status->callback([&session] {
    session.SetCommand([&session] { return Status(session); });
  });
}

}  // namespace quantd::commands
