// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "server/config.h"
#include "server/server.h"

namespace {

constexpr int kUsage = 2;

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "quantd: %s (%s)\n",
               std::string(status.message()).c_str(),
               quantd::base::ErrorReason(status).c_str());
  return code;
}

// SIGTERM and SIGINT are taken by sigwait alone: blocked in every thread.
sigset_t BlockStopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return set;
}

}  // namespace

int main(int argc, char** argv) {
  const auto config = quantd::server::LoadConfig(
      argc, argv,
      [](const std::string& name) { return std::getenv(name.c_str()); });
  if (!config.ok()) return Fail(config.status(), kUsage);
  if (!config->has_value()) return 0;
  quantd::base::SetUpLog("quantd", (*config)->log_level);
  const sigset_t stop = BlockStopSignals();
  quantd::server::Server::Options options;
  options.config = **config;
  auto server = quantd::server::Server::Start(std::move(options));
  if (!server.ok()) return Fail(server.status(), 1);
  int received = 0;
  sigwait(&stop, &received);
  spdlog::info("stopping");
  // A second signal does not wait.
  std::thread([stop] {
    int again = 0;
    sigwait(&stop, &again);
    _exit(128 + again);
  }).detach();
  server->reset();
  spdlog::info("stopped");
  // The detached thread still waits: leave without tearing it down.
  std::fflush(nullptr);
  _exit(0);
}
