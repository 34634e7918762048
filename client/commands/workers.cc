// SPDX-License-Identifier: Apache-2.0
#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

std::string MemoryWords(const v1::Device& device) {
  if (device.total_memory_bytes() == 0) return "-";
  return absl::StrCat(render::Bytes(device.free_memory_bytes()), " free of ",
                      render::Bytes(device.total_memory_bytes()));
}

absl::StatusOr<int> Workers(Session& session) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers,
                   client->ListWorkers());
  Answer answer;
  answer.json = render::ToJson(workers);
  answer.items = "workers";
  render::Table table(
      {"WORKER", "STATE", "JOB", "SEEN", "DEVICE", "MEMORY", "CODE"});
  for (const v1::WorkerStatus& worker : workers.workers()) {
    answer.names.push_back(worker.worker_name());
    const std::string job = render::ShortId(render::Printable(worker.job_id()));
    const std::string seen = render::Age(worker.last_heartbeat_time(),
                                         session.surroundings().clock.Now());
    table.AddRow({render::Printable(worker.worker_name()),
                  render::Printable(worker.state()), job.empty() ? "-" : job,
                  seen == "-" ? seen : seen + " ago",
                  render::Printable(worker.device().id()),
                  MemoryWords(worker.device()),
                  render::ShortId(render::Printable(worker.code_version()))});
  }
  answer.table = [&](std::ostream& out) {
    if (table.empty()) {
      session.Say("no workers; start one with `quant-worker`");
    } else {
      table.Print(session.terminal(), out);
    }
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddWorkers(CLI::App& app, Session& session) {
  CLI::App* command =
      app.add_subcommand("workers", "List workers and what they do");
  command->callback([&session] {
    session.SetCommand([&session] { return Workers(session); });
  });
}

}  // namespace quantd::commands
