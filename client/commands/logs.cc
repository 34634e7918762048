// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/quantities.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(500);

struct LogFlags {
  std::string job;
  int attempt = 0;
  bool follow = false;
};

// A log is a stranger's text: on a terminal it must not move the cursor.
std::string ForTerminal(const render::Terminal& terminal,
                        const std::string& text) {
  if (!terminal.interactive) return text;
  std::string safe = text;
  for (char& c : safe) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (control && c != '\n' && c != '\t') c = '?';
  }
  return safe;
}

absl::StatusOr<int> Logs(Session& session, const LogFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  v1::ReadJobLogRequest request;
  ASSIGN_OR_RETURN(*request.mutable_job_id(), session.FullJobId(flags.job));
  request.set_attempt(flags.attempt);
  Interrupt::Scope scope(session.surroundings().interrupt, [&] {
    session.Say(
        absl::StrCat("the job goes on; its log again with `qctl logs "
                     "-f ",
                     render::ShortId(request.job_id()), "`"));
  });
  const absl::Time deadline = session.Deadline();
  for (;;) {
    ASSIGN_OR_RETURN(const v1::ReadJobLogResponse part,
                     client->ReadJobLog(request));
    session.out() << ForTerminal(session.terminal(), part.text()) << std::flush;
    request.set_offset(part.next_offset());
    if (!part.text().empty()) continue;
    if (part.complete() || !flags.follow) {
      if (request.offset() == 0) {
        session.Say(absl::StrCat(
            "this attempt has written no log; `qctl watch ",
            render::ShortId(request.job_id()), "` shows what happened"));
      }
      return kExitSucceeded;
    }
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError("the time given by --timeout is over");
    }
    absl::SleepFor(kPoll);
  }
}

}  // namespace

void AddLogs(CLI::App& app, Session& session) {
  auto flags = std::make_shared<LogFlags>();
  CLI::App* command = app.add_subcommand("logs", "Print a job's log");
  command->add_option("job", flags->job, "The job's id or its first characters")
      ->required();
  command->add_flag("-f,--follow", flags->follow,
                    "Go on until the attempt ends");
  command
      ->add_option("--attempt", flags->attempt,
                   "Which attempt; the newest unless given")
      ->type_name("N");
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Logs(session, *flags); });
  });
}

}  // namespace quantd::commands
