// SPDX-License-Identifier: Apache-2.0
#include "client/commands/follow.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/exit_codes.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"
#include "client/render/report.h"
#include "client/render/watch_display.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

using render::OutputFormat;

std::unique_ptr<render::WatchDisplay> MakeDisplay(
    Session& session, const FollowOptions& options) {
  if (!options.show_events) return render::MakeQuietDisplay(session.err());
  switch (session.settings().format) {
    case OutputFormat::kTable:
      if (session.terminal().interactive) {
        return render::MakeLiveDisplay(options.job, session.terminal(),
                                       session.surroundings().clock,
                                       session.out());
      }
      return render::MakePlainDisplay(session.out(), session.err());
    case OutputFormat::kJsonLines:
      return render::MakeJsonLinesDisplay(session.out(), session.err());
    default:
      // Standard output is for the result alone.
      return render::MakePlainDisplay(session.err(), session.err());
  }
}

void PrintEnd(Session& session, const FollowOptions& options,
              const v1::Job& job) {
  Answer answer;
  answer.json = render::ToJson(job);
  answer.names = {job.job_id()};
  answer.table = [&](std::ostream& out) {
    render::PrintResult(job, session.terminal(), out);
  };
  // The events were the answer.
  const bool said = session.settings().format == OutputFormat::kJsonLines &&
                    options.show_events;
  if (!said) session.Print(answer);
  const std::string id = render::ShortId(job.job_id());
  if (job.state() == v1::JOB_STATE_FAILED) {
    session.Say(absl::StrCat("next: `qctl logs ", id,
                             "` shows its log; `qctl "
                             "retry ",
                             id, "` goes on from its last step"));
  } else if (job.state() == v1::JOB_STATE_CANCELLED) {
    session.Say(
        absl::StrCat("next: `qctl retry ", id, "` goes on from its last step"));
  }
}

}  // namespace

absl::StatusOr<int> Follow(Session& session, const FollowOptions& options) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  const auto display = MakeDisplay(session, options);
  const std::string id = render::ShortId(options.job.job_id());
  Interrupt::Scope scope(session.surroundings().interrupt, [&] {
    display->Close();
    session.Say(session.flags().local
                    ? absl::StrCat("interrupted; `qctl --local retry ", id,
                                   " --watch` goes on from its last step")
                    : absl::StrCat("the job goes on; watch it again with `qctl "
                                   "watch ",
                                   id, "`, stop it with `qctl cancel ", id,
                                   "`"));
  });
  session.SetRetryListener(
      [&](const std::string& words) { display->OnTrouble(words); });
  rpc::WatchOptions watch;
  watch.job_id = options.job.job_id();
  watch.from_seq = options.from_seq;
  watch.deadline = session.Deadline();
  const absl::Status watched = client->WatchJob(
      watch, [&](const v1::Event& event) { display->OnEvent(event); });
  display->Close();
  session.SetRetryListener(nullptr);
  RETURN_IF_ERROR(watched);
  ASSIGN_OR_RETURN(const v1::Job job, client->GetJob(watch.job_id));
  PrintEnd(session, options, job);
  return ExitCodeOf(job.state());
}

}  // namespace quantd::commands
