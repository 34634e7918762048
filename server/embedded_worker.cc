// SPDX-License-Identifier: Apache-2.0
#include "server/embedded_worker.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/base/error.h"
#include "spdlog/spdlog.h"

namespace quantd::server {
namespace {

constexpr absl::Duration kLongestWait = absl::Seconds(30);
// A worker that lived this long was healthy: the next wait is short again.
constexpr absl::Duration kHealthyLife = absl::Seconds(60);

// In the child, between fork and exec: only what is safe there.
[[noreturn]] void RunChild(char* const* arguments, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // The parent may have died before the death signal was asked for.
  if (getppid() == parent) execv(arguments[0], arguments);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::string> ProgramBeside(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string path = (self.parent_path() / name).string();
  if (!error && access(path.c_str(), X_OK) == 0) return path;
  return base::MakeError(
      absl::StatusCode::kNotFound, "WORKER_PROGRAM_MISSING",
      absl::StrCat(name,
                   " is not in the folder of quantd; build it, or start "
                   "without --embedded and run workers by hand"),
      {{"program", name}});
}

absl::Duration NextWait(absl::Duration previous, absl::Duration lived,
                        absl::Duration first) {
  if (previous == absl::ZeroDuration() || lived > kHealthyLife) return first;
  return std::min(previous * 2, kLongestWait);
}

EmbeddedWorker::EmbeddedWorker(std::vector<std::string> arguments,
                               absl::Duration first_wait)
    : arguments_(std::move(arguments)),
      first_wait_(first_wait),
      thread_([this] { Loop(); }) {}

EmbeddedWorker::~EmbeddedWorker() { Stop(absl::ZeroDuration()); }

pid_t EmbeddedWorker::Spawn() {
  std::vector<char*> arguments;
  for (const std::string& argument : arguments_) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  const pid_t self = getpid();
  const pid_t child = fork();
  if (child == 0) RunChild(arguments.data(), self);
  return child;
}

// The thread that forks is the one whose death sends the death signal, so it
// lives as long as the worker does.
void EmbeddedWorker::Loop() {
  absl::Duration wait;
  while (true) {
    pid_t child;
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) break;
      child = child_ = Spawn();
    }
    const absl::Time started = absl::Now();
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    // What the worker left behind in its group goes with it.
    if (child > 0) kill(-child, SIGKILL);
    absl::MutexLock lock(&mu_);
    child_ = -1;
    if (stopping_) break;
    wait = NextWait(wait, absl::Now() - started, first_wait_);
    spdlog::warn("the embedded worker ended (status {}); next start in {} ms",
                 status, absl::ToInt64Milliseconds(wait));
    mu_.AwaitWithTimeout(absl::Condition(&stopping_), wait);
  }
  absl::MutexLock lock(&mu_);
  ended_ = true;
}

void EmbeddedWorker::Stop(absl::Duration grace) {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (child_ > 0) kill(child_, SIGTERM);
    if (!mu_.AwaitWithTimeout(absl::Condition(&ended_), grace) && child_ > 0) {
      kill(-child_, SIGKILL);
    }
  }
  thread_.join();
}

}  // namespace quantd::server
