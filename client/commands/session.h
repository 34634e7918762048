// SPDX-License-Identifier: Apache-2.0
// What a command works with: where it prints, its settings, the server.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/commands/interrupt.h"
#include "client/commands/local_server.h"
#include "client/commands/settings.h"
#include "client/render/json.h"
#include "client/render/terminal.h"
#include "client/rpc/client.h"
#include "proto/base/clock.h"
#include "proto/base/ids.h"

namespace quantd::commands {

// How long a submit waits for the first worker of a server that has just been
// started with --embedded: the runner describes itself in a second or two.
inline constexpr absl::Duration kWorkerStart = absl::Seconds(15);

// What a program is given by the machine; tests give their own. Everything
// outlives the session.
struct Surroundings {
  std::ostream& out;
  std::ostream& err;
  render::Terminal terminal;
  Environment environment;
  // Where quantd lies, for --local.
  std::string program_directory;
  base::Clock& clock;
  base::IdGenerator& ids;
  Interrupt& interrupt;
  rpc::BackoffOptions backoff;
};

// One answer in every form it can be printed in.
struct Answer {
  render::Json json;
  // The array of `json` whose elements are lines of jsonl; empty: one line.
  std::string items;
  std::vector<std::string> names;
  std::function<void(std::ostream& out)> table;
};

// One thread.
class Session {
 public:
  explicit Session(const Surroundings& surroundings)
      : surroundings_(surroundings), terminal_(surroundings.terminal) {}

  // The command that the arguments chose; run after the settings are known.
  using Command = std::function<absl::StatusOr<int>()>;
  void SetCommand(Command command) { command_ = std::move(command); }
  const Command& command() const { return command_; }

  GlobalFlags& flags() { return flags_; }
  absl::Status ReadSettings();
  const Settings& settings() const { return settings_; }

  // The server, connected on first use; with --local one is started first.
  absl::StatusOr<rpc::Client*> Connect();
  // A job by id or by a prefix of one.
  absl::StatusOr<std::string> FullJobId(const std::string& job);
  // When watch and wait give up.
  absl::Time Deadline();

  void Print(const Answer& answer);
  // A message for people, on standard error.
  void Say(const std::string& message);

  // Told of retries; the display of a watch takes it over while it lives.
  void SetRetryListener(std::function<void(const std::string&)> listener);

  const Surroundings& surroundings() const { return surroundings_; }
  const render::Terminal& terminal() const { return terminal_; }
  std::ostream& out() { return surroundings_.out; }
  std::ostream& err() { return surroundings_.err; }

 private:
  void OnRetry(const absl::Status& error, absl::Duration delay);

  const Surroundings surroundings_;
  render::Terminal terminal_;
  GlobalFlags flags_;
  Settings settings_;
  Command command_;
  std::function<void(const std::string&)> retry_listener_;
  std::unique_ptr<LocalServer> local_server_;
  std::unique_ptr<rpc::Client> client_;
};

}  // namespace quantd::commands
