// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/follow.h"
#include "client/commands/session.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

struct WatchFlags {
  std::string job;
  int64_t from_seq = 1;
};

absl::StatusOr<int> Watch(Session& session, const WatchFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(v1::Job job, client->GetJob(flags.job));
  return Follow(session, {.job = std::move(job), .from_seq = flags.from_seq});
}

}  // namespace

void AddWatch(CLI::App& app, Session& session) {
  auto flags = std::make_shared<WatchFlags>();
  CLI::App* command = app.add_subcommand("watch", "Show a job until it ends");
  command->add_option("job", flags->job, "The job's id or its first characters")
      ->required();
  command
      ->add_option("--from-seq", flags->from_seq,
                   "The first event wanted; 1 is the first of the job")
      ->type_name("N");
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Watch(session, *flags); });
  });
}

}  // namespace quantd::commands
