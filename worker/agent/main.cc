// SPDX-License-Identifier: Apache-2.0
// quant-worker: offers this machine, or one device of it, to a server.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "proto/base/log.h"
#include "worker/agent/agent.h"
#include "worker/agent/stop_signals.h"

namespace {

using quantd::agent::Agent;
using quantd::agent::AgentOptions;

std::string DefaultStateDir() {
  const char* state_home = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  const std::filesystem::path root =
      state_home != nullptr && *state_home != '\0'
          ? std::filesystem::path(state_home)
          : std::filesystem::path(home != nullptr ? home : ".") / ".local" /
                "state";
  return (root / "quantd" / "worker").string();
}

std::string DefaultName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "worker";
}

std::string RunnerBesideMe() {
  std::error_code ignored;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return (self.parent_path() / "quant-runner").string();
}

void AddSeconds(CLI::App& app, const std::string& name, absl::Duration& target,
                const std::string& text) {
  app.add_option_function<double>(
         name,
         [&target](const double& value) { target = absl::Seconds(value); },
         text)
      ->check(CLI::PositiveNumber);
}

}  // namespace

int main(int argc, char** argv) {
  AgentOptions options;
  options.server = "127.0.0.1:7433";
  options.name = DefaultName();
  options.state_dir = DefaultStateDir();
  options.runner = RunnerBesideMe();
  std::string log_level = "info";
  CLI::App app("Works for a quantd server.", "quant-worker");
  app.add_option("--server", options.server, "HOST:PORT of the server");
  app.add_option("--name", options.name, "name, unique per server");
  app.add_option("--state-dir", options.state_dir, "folder of this worker");
  app.add_option("--blobs", options.blobs, "blob folder of the server");
  app.add_option("--device", options.device, "auto, cpu or cuda:N");
  app.add_option("--threads", options.threads, "0 means one per core");
  app.add_option("--runner", options.runner, "the quant-runner program");
  app.add_option("--log-level", log_level, "trace ... error, off");
  AddSeconds(app, "--stall-timeout", options.session.stall_timeout,
             "seconds without a word after which a runner hangs");
  AddSeconds(app, "--drain-timeout", options.session.drain_timeout,
             "seconds for the current step when the worker is asked to stop");
  AddSeconds(app, "--cancel-grace", options.session.cancel_grace,
             "seconds from the request to stop to SIGTERM");
  AddSeconds(app, "--kill-grace", options.session.kill_grace,
             "seconds from SIGTERM to SIGKILL");
  CLI11_PARSE(app, argc, argv);
  quantd::base::SetUpLog("quant-worker", log_level);
  absl::Mutex mu;  // A signal may come before the agent exists: it waits.
  std::unique_ptr<Agent> agent;
  quantd::agent::OnStopSignals([&] {
    absl::MutexLock lock(&mu);
    mu.Await(absl::Condition(
        +[](std::unique_ptr<Agent>* made) { return *made != nullptr; },
        &agent));
    agent->Drain();
  });
  auto created = Agent::Create(options, quantd::base::Clock::Real());
  if (!created.ok()) {
    spdlog::error("{}", std::string(created.status().message()));
    return 1;
  }
  {
    absl::MutexLock lock(&mu);
    agent = *std::move(created);
  }
  agent->Run();
  // The signal thread may still hold on to the agent: no destructors.
  std::quick_exit(0);
}
