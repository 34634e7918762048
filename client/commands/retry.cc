// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/follow.h"
#include "client/commands/session.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

struct RetryFlags {
  std::string job;
  bool watch = false;
  bool wait = false;
};

absl::StatusOr<int> Retry(Session& session, const RetryFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const std::string id, session.FullJobId(flags.job));
  ASSIGN_OR_RETURN(const v1::Job job, client->RetryJob(id));
  const bool show = flags.watch || (session.flags().local && !flags.wait);
  if (show || flags.wait) {
    return Follow(session, {.job = job,
                            .from_seq = job.last_event_seq() + 1,
                            .show_events = show});
  }
  Answer answer;
  answer.json = render::ToJson(job);
  answer.names = {job.job_id()};
  answer.table = [&](std::ostream& out) {
    render::Table table({"JOB", "STATE", "STEPS DONE"});
    table.AddRow({render::ShortId(render::Printable(job.job_id())),
                  render::StateName(job.state()),
                  absl::StrCat(job.committed_steps())});
    table.Print(session.terminal(), out);
  };
  session.Print(answer);
  session.Say(
      absl::StrCat("next: `qctl watch ", render::ShortId(job.job_id()), "`"));
  return kExitSucceeded;
}

}  // namespace

void AddRetry(CLI::App& app, Session& session) {
  auto flags = std::make_shared<RetryFlags>();
  CLI::App* command = app.add_subcommand(
      "retry", "Queue a failed or cancelled job again, from its last step");
  command->add_option("job", flags->job, "The job's id or its first characters")
      ->required();
  auto* watch =
      command->add_flag("--watch", flags->watch, "Show the job until it ends");
  command->add_flag("--wait", flags->wait, "Wait for the end")->excludes(watch);
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Retry(session, *flags); });
  });
}

}  // namespace quantd::commands
