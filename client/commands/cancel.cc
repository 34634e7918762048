// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

absl::StatusOr<int> Cancel(Session& session,
                           const std::vector<std::string>& ids) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  v1::ListJobsResponse jobs;
  Answer answer;
  for (const std::string& id : ids) {
    ASSIGN_OR_RETURN(const std::string full, session.FullJobId(id));
    ASSIGN_OR_RETURN(*jobs.add_jobs(), client->CancelJob(full));
    answer.names.push_back(full);
  }
  answer.json = {{"jobs", render::ToJson(jobs)["jobs"]}};
  answer.items = "jobs";
  answer.table = [&](std::ostream& out) {
    render::Table table({"JOB", "STATE"});
    for (const v1::Job& job : jobs.jobs()) {
      table.AddRow({render::ShortId(render::Printable(job.job_id())),
                    render::StateName(job.state())});
    }
    table.Print(session.terminal(), out);
  };
  session.Print(answer);
  for (const v1::Job& job : jobs.jobs()) {
    if (job.state() != v1::JOB_STATE_CANCELLING) continue;
    session.Say(absl::StrCat("job ", render::ShortId(job.job_id()),
                             " ends once its worker has stopped it; `qctl "
                             "retry` would go on from its last step"));
  }
  return kExitSucceeded;
}

}  // namespace

void AddCancel(CLI::App& app, Session& session) {
  auto ids = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand(
      "cancel", "Stop jobs; what they finished is kept for a retry");
  command->add_option("jobs", *ids, "Ids or their first characters")
      ->required();
  command->callback([ids, &session] {
    session.SetCommand([ids, &session] { return Cancel(session, *ids); });
  });
}

}  // namespace quantd::commands
