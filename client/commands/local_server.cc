// SPDX-License-Identifier: Apache-2.0
#include "client/commands/local_server.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(30);
constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr size_t kLogTailBytes = 400;

std::string StateDirectory(const Environment& environment) {
  std::string root = environment("XDG_STATE_HOME");
  if (root.empty()) root = environment("HOME") + "/.local/state";
  return root + "/quantd/local";
}

// The grpc= line of a port file; empty where it has none yet.
std::string GrpcAddress(const std::string& port_file) {
  const auto text = base::ReadFile(port_file);
  if (!text.ok()) return "";
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (line.substr(0, 5) == "grpc=") return std::string(line.substr(5));
  }
  return "";
}

}  // namespace

LocalServer::LocalServer(const Options& options, std::string directory)
    : directory_(std::move(directory)),
      stop_on_interrupt_(options.interrupt, [this] { Stop(); }) {}

LocalServer::~LocalServer() { Stop(); }

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(
    const Options& options) {
  const std::string directory = StateDirectory(options.environment);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return base::ErrnoStatus(error.value(), "making the data folder");
  std::filesystem::remove(directory + "/ports", error);
  std::unique_ptr<LocalServer> server(new LocalServer(options, directory));
  RETURN_IF_ERROR(server->Spawn(options.program_directory + "/quantd"));
  RETURN_IF_ERROR(server->WaitForPort());
  return server;
}

absl::Status LocalServer::Spawn(const std::string& program) {
  std::vector<std::string> words = {
      program,       "--embedded",         "--data-dir",    directory_,
      "--listen",    "127.0.0.1:0",        "--http-listen", "127.0.0.1:0",
      "--port-file", directory_ + "/ports"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const std::string log = directory_ + "/quantd.log";
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  // A process group of its own, so that Ctrl-C reaches qctl alone, and a clean
  // signal mask, so that SIGTERM reaches the server.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  const int error = posix_spawn(&pid_, program.c_str(), &files, &attributes,
                                arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (error == 0) return absl::OkStatus();
  pid_ = -1;
  return Failed(absl::StrCat("quantd could not be started (", strerror(error),
                             "); it is expected beside qctl"));
}

absl::Status LocalServer::WaitForPort() {
  const absl::Time limit = absl::Now() + kStartLimit;
  while (absl::Now() < limit) {
    address_ = GrpcAddress(directory_ + "/ports");
    if (!address_.empty()) return absl::OkStatus();
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return Failed("the local server ended while it started");
    }
    absl::SleepFor(kPoll);
  }
  return Failed("the local server does not serve yet");
}

absl::Status LocalServer::WaitForWorker(rpc::Client& client) const {
  const absl::Status status = client.AwaitCatalog(kStartLimit).status();
  if (absl::IsNotFound(status)) {
    return Failed("the local worker does not register");
  }
  return status;
}

absl::Status LocalServer::Failed(const std::string& what) const {
  std::string log = base::ReadFile(directory_ + "/quantd.log").value_or("");
  if (log.size() > kLogTailBytes) log = log.substr(log.size() - kLogTailBytes);
  return base::MakeError(
      absl::StatusCode::kUnavailable, "LOCAL_SERVER_FAILED",
      absl::StrCat(what, log.empty() ? "" : "; the end of its log: ", log));
}

void LocalServer::Stop() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace quantd::commands
