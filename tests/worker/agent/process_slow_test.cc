// SPDX-License-Identifier: Apache-2.0
// The quant-worker program itself: signals, sudden death, want of memory.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/worker/agent/agent_fixture.h"

namespace quantd::agent {
namespace {

// Started by the test, so that the test is its parent and reaps it.
class WorkerProgramTest : public AgentFixture {
 protected:
  ~WorkerProgramTest() override { Kill(); }

  void StartProgram(const std::string& cgroup_procs = "") {
    const std::string program = BuiltProgram("bin/quant-worker");
    pid_ = fork();
    ASSERT_GE(pid_, 0);
    if (pid_ != 0) return;
    if (!cgroup_procs.empty()) {
      const int fd = open(cgroup_procs.c_str(), O_WRONLY);
      if (fd < 0 || write(fd, "0", 1) != 1) _exit(120);
      close(fd);
    }
    execl(program.c_str(), program.c_str(), "--server", options_.server.c_str(),
          "--name", "program", "--state-dir", options_.state_dir.c_str(),
          "--runner", options_.runner.c_str(), "--device", "cpu",
          "--drain-timeout", "20", nullptr);
    _exit(121);
  }
  // The exit status, or minus the signal.
  int AwaitExit() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    AwaitExit();
  }

  pid_t pid_ = -1;
};

TEST_F(WorkerProgramTest, ItsSuddenDeathTakesTheRunnerWithIt) {
  StartProgram();
  server_.Assign(StubAssignment("inputs;deaf"));
  const pid_t runner = AwaitRunnerPid();
  ASSERT_GT(runner, 0);
  ASSERT_FALSE(IsDead(runner));
  Kill();
  EXPECT_TRUE(server_.Await([&] { return IsDead(runner); }));
}

TEST_F(WorkerProgramTest, AfterASuddenDeathAnotherOneGoesOnInTheSamePlace) {
  StartProgram();
  server_.Assign(StubAssignment("inputs;hang"));
  ASSERT_GT(AwaitRunnerPid(), 0);
  ASSERT_TRUE(server_.Await([&] { return server_.committed().size() == 1; }));
  Kill();
  v1::Assignment next = StubAssignment("step:load;step:block;done", 2);
  *next.add_committed() = server_.committed()[0];
  server_.Assign(next);
  StartProgram();
  ASSERT_TRUE(AwaitFinished());
  EXPECT_FALSE(server_.finished()[0].has_failure());
  EXPECT_EQ(server_.committed().back().step(), 1);
  const std::vector<v1::RegisterRequest> starts = server_.registered();
  EXPECT_NE(starts.front().incarnation(), starts.back().incarnation());
}

TEST_F(WorkerProgramTest, SigtermGivesTheJobBackAndExitsWell) {
  const std::string gate = directory_.File("gate");
  StartProgram();
  server_.Assign(StubAssignment(
      absl::StrCat("inputs;progress:at the gate;gate:", gate, ";step:b;hang")));
  // The server knows of a step before the worker knows that it does; what
  // comes behind the step is heard when the worker is done with it.
  ASSERT_TRUE(server_.Await([&] {
    return LastBeat().held_size() == 1 &&
           LastBeat().held(0).progress().detail() == "at the gate";
  }));
  EXPECT_EQ(server_.committed().size(), 1u);
  kill(pid_, SIGTERM);
  ASSERT_TRUE(server_.Await([&] {
    return LastBeat().held_size() == 1 && !LastBeat().accepts_work();
  }));
  std::ofstream(gate) << "";
  EXPECT_EQ(AwaitExit(), 0);
  EXPECT_EQ(server_.committed().size(), 2u);
  ASSERT_EQ(server_.finished().size(), 1u);
  EXPECT_EQ(server_.finished()[0].failure().failure_class(), "DRAINED");
}

TEST_F(WorkerProgramTest, TheSecondSigtermDoesNotWait) {
  StartProgram();
  server_.Assign(StubAssignment("inputs;deaf"));
  const pid_t runner = AwaitRunnerPid();
  kill(pid_, SIGTERM);
  ASSERT_TRUE(server_.Await([&] {
    return LastBeat().held_size() == 1 && !LastBeat().accepts_work();
  }));
  kill(pid_, SIGTERM);
  EXPECT_EQ(AwaitExit(), 0);
  EXPECT_TRUE(server_.Await([&] { return IsDead(runner); }));
}

// A memory group of our own below the one that the test runs in.
class MemoryGroup {
 public:
  MemoryGroup() {
    std::ifstream in("/proc/self/cgroup");
    std::string line;
    while (std::getline(in, line)) {
      const size_t at = line.find(":memory:");
      if (at == std::string::npos) continue;
      path_ = absl::StrCat("/sys/fs/cgroup/memory", line.substr(at + 8),
                           "/quantd-test-", getpid());
    }
    made_ = !path_.empty() && mkdir(path_.c_str(), 0755) == 0;
    if (!made_) return;
    std::ofstream limit(path_ + "/memory.limit_in_bytes");
    limit << "100M" << std::flush;
    made_ = limit.good();
  }
  ~MemoryGroup() { rmdir(path_.c_str()); }
  bool made() const { return made_; }
  std::string procs() const { return path_ + "/cgroup.procs"; }

 private:
  std::string path_;
  bool made_ = false;
};

TEST_F(WorkerProgramTest, ARunnerThatTheKernelKilledForMemoryIsNamedAsThat) {
  const MemoryGroup group;
  if (!group.made()) GTEST_SKIP() << "no memory control group can be made";
  StartProgram(group.procs());
  server_.Assign(StubAssignment("step:load;eat"));
  const v1::Failure failure = AwaitFailure();
  EXPECT_EQ(failure.failure_class(), "RESOURCE");
  EXPECT_EQ(failure.reason(), "RUNNER_OUT_OF_MEMORY");
  EXPECT_EQ(server_.committed().size(), 1u);
  // The agent itself was spared.
  EXPECT_EQ(kill(pid_, 0), 0);
  Kill();
}

}  // namespace
}  // namespace quantd::agent
