// SPDX-License-Identifier: Apache-2.0
// An agent in the process of the test, a stub for its runner and a server that
// does what the test says.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/fakes/fake_worker_service.h"
#include "tests/support/test_data.h"
#include "worker/agent/agent.h"

namespace quantd::agent {

// A program of the build, "bin/quant-worker" or "tests/stub-runner".
inline std::string BuiltProgram(const std::string& name) {
  const char* bin = std::getenv("QUANTD_BIN");
  const std::filesystem::path root =
      bin != nullptr ? std::filesystem::path(bin).parent_path()
                     : std::filesystem::read_symlink("/proc/self/exe")
                           .parent_path()
                           .parent_path();
  return (root / name).string();
}

inline v1::Assignment StubAssignment(const std::string& script,
                                     int64_t epoch = 1) {
  v1::Assignment assignment;
  assignment.mutable_lease()->set_job_id("job-1");
  assignment.mutable_lease()->set_epoch(epoch);
  (*assignment.mutable_spec()->mutable_labels())["stub"] = script;
  return assignment;
}

inline bool IsAlive(pid_t pid) { return kill(pid, 0) == 0; }

// True for a process that is gone or only waits to be reaped by its parent.
inline bool IsDead(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  if (!std::getline(in, text)) return true;
  const size_t name_end = text.rfind(')');
  return text.substr(name_end + 2, 1) == "Z";
}

// The number behind `word` in a log; 0: not there yet.
inline pid_t NumberAfter(const std::string& text, const std::string& word) {
  const size_t at = text.find(word);
  return at == std::string::npos
             ? 0
             : static_cast<pid_t>(std::atoi(text.c_str() + at + word.size()));
}

class AgentFixture : public testing::Test {
 protected:
  explicit AgentFixture(absl::Duration lease_ttl = absl::Seconds(30))
      : server_(lease_ttl) {
    options_.server = server_.address();
    options_.name = "worker-1";
    options_.state_dir = directory_.File("state");
    options_.device = "cpu";
    options_.runner = BuiltProgram("tests/stub-runner");
    // Long enough for a loaded machine, short enough for a failing test.
    options_.session.stall_timeout = absl::Seconds(60);
    options_.session.cancel_grace = absl::Seconds(20);
    options_.session.kill_grace = absl::Seconds(20);
  }
  ~AgentFixture() override { StopAgent(); }

  void StartAgent() {
    auto agent = Agent::Create(options_, base::Clock::Real());
    ASSERT_TRUE(agent.ok()) << agent.status();
    agent_ = *std::move(agent);
    thread_ = std::thread([this] { agent_->Run(); });
  }
  // At once: what runs is killed.
  void StopAgent() {
    if (agent_ == nullptr) return;
    agent_->Drain();
    agent_->Drain();
    JoinAgent();
  }
  void JoinAgent() {
    thread_.join();
    agent_ = nullptr;
  }

  void Run(const std::string& script) {
    StartAgent();
    server_.Assign(StubAssignment(script));
  }
  bool AwaitFinished() {
    return server_.Await([&] { return !server_.finished().empty(); });
  }
  v1::Failure AwaitFailure() {
    return AwaitFinished() ? server_.finished()[0].failure() : v1::Failure();
  }
  // Empty before the first one.
  v1::SynchronizeRequest LastBeat() {
    const std::vector<v1::SynchronizeRequest> beats = server_.synchronized();
    return beats.empty() ? v1::SynchronizeRequest() : beats.back();
  }
  // In any beat: the one after it may hold nothing already.
  bool SaidStopped() {
    for (const v1::SynchronizeRequest& beat : server_.synchronized()) {
      if (beat.held_size() == 1 && beat.held(0).stopped()) return true;
    }
    return false;
  }
  // The process of the runner, which the stub's "inputs" step names.
  pid_t AwaitRunnerPid(const std::string& word = "pid ") {
    pid_t pid = 0;
    server_.Await([&] {
      for (const auto& [sha256, bytes] : server_.blobs()) {
        if (pid == 0) pid = NumberAfter(bytes, word);
      }
      return pid != 0;
    });
    return pid;
  }

  support::TemporaryDirectory directory_;
  fakes::FakeWorkerService server_;
  AgentOptions options_;
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
};

}  // namespace quantd::agent
