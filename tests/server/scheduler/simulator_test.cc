// SPDX-License-Identifier: Apache-2.0
// A seeded world around the real durable core: agents that crash, freeze and
// come back as zombies, messages that are lost, late and doubled, a server that
// restarts, clocks that jump, users who cancel and retry. After every step the
// invariants are checked; after the storm every job must end.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "proto/spec/job_states.h"
#include "server/scheduler/core.h"
#include "tests/support/fake_clock.h"

namespace quantd::scheduler {
namespace {

constexpr int64_t kSteps = 4;
constexpr int kStormLength = 100;
constexpr absl::Duration kSelfFence = absl::Seconds(25);

class SeededIds : public base::IdGenerator {
 public:
  std::string NewUuid() override { return absl::StrCat("uuid-", ++count_); }
  std::string NewJobId() override { return absl::StrCat("job-", ++count_); }

 private:
  int count_ = 100;
};

// What an agent process knows. It obeys the protocol: it renews, gives up by
// its own clock, repeats what was not answered.
struct Agent {
  std::string name;
  std::string incarnation;
  std::string boot_id;
  std::optional<v1::Lease> lease;
  int64_t next_step = 0;
  bool stopped = false;
  std::optional<v1::FinishRequest> finish;
  // Monotonic time at which the last answered request was sent.
  absl::Duration last_answered;
  absl::Duration frozen_until;

  void Drop() {
    lease.reset();
    finish.reset();
    stopped = false;
  }
};

class World {
 public:
  explicit World(uint32_t seed) : random_(seed) {
    // Memory-backed where there is such a place: the order of writes is under
    // test here, not the disk.
    const std::string root =
        std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    dir_ = absl::StrCat(root, "/quantd-sim-", getpid());
    std::filesystem::remove_all(dir_);
    StartServer();
    for (int i = 0; i < 3; ++i) {
      Agent agent;
      agent.name = absl::StrCat("agent-", i);
      agents_.push_back(agent);
      Crash(agents_.back());
    }
  }
  ~World() {
    core_.reset();
    std::filesystem::remove_all(dir_);
  }

  void Storm() {
    for (int i = 0; i < kStormLength && !testing::Test::HasFailure(); ++i) {
      RandomAction();
      CheckInvariants();
    }
  }

  // Everybody is well again: nothing may be stuck.
  void Calm() {
    for (int round = 0; round < 400; ++round) {
      if (AllEnded() || testing::Test::HasFailure()) break;
      clock_.Advance(absl::Seconds(5));
      core_->scheduler().Tick();
      for (Agent& agent : agents_) {
        agent.frozen_until = absl::ZeroDuration();
        Synchronize(agent, /*lossy=*/false);
        Work(agent, /*lossy=*/false, /*may_fail=*/false);
      }
      CheckInvariants();
    }
    EXPECT_TRUE(AllEnded());
    for (const std::string& id : jobs_) CheckHistory(id);
  }

 private:
  using Late = std::function<void()>;

  int Roll(int sides) { return static_cast<int>(random_() % sides); }
  Agent& AnyAgent() { return agents_[Roll(agents_.size())]; }
  bool Frozen(const Agent& agent) {
    return clock_.Monotonic() < agent.frozen_until;
  }

  void StartServer() {
    core_.reset();
    Core::Options options;
    options.data_dir = dir_;
    options.clock = &clock_;
    options.ids = &ids_;
    options.seed = random_();
    auto core = Core::Open(options);
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
  }

  void Crash(Agent& agent) {
    agent.Drop();
    agent.incarnation = ids_.NewUuid();
    agent.boot_id.clear();
    agent.frozen_until = absl::ZeroDuration();
  }

  void RandomAction() {
    const int roll = Roll(100);
    if (roll < 25) {
      clock_.Advance(absl::Milliseconds(Roll(8000)));
      core_->scheduler().Tick();
    } else if (roll < 50) {
      Agent& agent = AnyAgent();
      if (!Frozen(agent)) Synchronize(agent, true);
    } else if (roll < 72) {
      Agent& agent = AnyAgent();
      if (!Frozen(agent)) Work(agent, true, true);
    } else if (roll < 80) {
      DeliverLate();
    } else if (roll < 83) {
      Crash(AnyAgent());
    } else if (roll < 86) {
      AnyAgent().frozen_until = clock_.Monotonic() + absl::Seconds(Roll(90));
    } else if (roll < 89) {
      StartServer();
    } else if (roll < 91) {
      clock_.JumpWall(absl::Seconds(Roll(7200) - 3600));
    } else {
      ClientAction();
    }
  }

  void ClientAction() {
    if (jobs_.size() < 4 || Roll(6) == 0) {
      v1::SubmitJobRequest request;
      request.set_request_id(absl::StrCat("request-", Roll(6)));
      request.mutable_spec()->mutable_quantize()->set_model("tiny");
      const auto response = core_->jobs().Submit(request, "tiny");
      ASSERT_TRUE(response.ok()) << response.status();
      const bool is_new = jobs_.insert(response->job().job_id()).second;
      ASSERT_EQ(is_new, !response->existed());
      return;
    }
    auto job = jobs_.begin();
    std::advance(job, Roll(jobs_.size()));
    if (Roll(3) == 0) {
      ASSERT_TRUE(core_->jobs().Cancel(*job).ok());
    } else {
      core_->jobs().Retry(*job).status().IgnoreError();
    }
  }

  // --- Messages --------------------------------------------------------------
  // Sends `deliver`, which returns whether it was answered: it may be lost, its
  // answer may be lost, and a copy may come much later.
  bool Send(bool lossy, const std::function<void()>& deliver) {
    if (!lossy) {
      deliver();
      return true;
    }
    if (Roll(8) == 0) late_.push_back(deliver);
    if (Roll(8) == 0) return false;
    deliver();
    return Roll(8) != 0;
  }

  void DeliverLate() {
    if (late_.empty()) return;
    const int index = Roll(late_.size());
    const Late message = late_[index];
    late_.erase(late_.begin() + index);
    message();
  }

  bool Register(Agent& agent, bool lossy) {
    v1::RegisterRequest request;
    request.set_worker_name(agent.name);
    request.set_incarnation(agent.incarnation);
    // No late copies here: the connection dies with the process, and a new one
    // starts only when it has the lock on the state directory.
    if (lossy && Roll(8) == 0) return false;
    const auto response = core_->scheduler().Register(request);
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok() || (lossy && Roll(8) == 0)) return false;
    agent.boot_id = response->boot_id();
    return true;
  }

  // An agent that has not been heard gives up before the server does.
  void SelfFence(Agent& agent) {
    if (agent.lease.has_value() &&
        clock_.Monotonic() - agent.last_answered >= kSelfFence) {
      agent.Drop();
    }
  }

  void Synchronize(Agent& agent, bool lossy) {
    SelfFence(agent);
    if (agent.boot_id.empty() && !Register(agent, lossy)) return;
    v1::SynchronizeRequest request;
    request.set_worker_name(agent.name);
    request.set_incarnation(agent.incarnation);
    request.set_boot_id(agent.boot_id);
    request.set_accepts_work(Roll(10) != 0);
    if (agent.lease.has_value()) {
      v1::HeldWork& held = *request.add_held();
      *held.mutable_lease() = *agent.lease;
      held.set_running(!agent.stopped);
      held.set_stopped(agent.stopped);
      held.mutable_progress()->set_phase(
          absl::StrCat("step ", agent.next_step));
    }
    auto response = std::make_shared<v1::SynchronizeResponse>();
    const absl::Duration sent = clock_.Monotonic();
    const bool answered = Send(lossy, [this, request, response] {
      const auto result = core_->scheduler().Synchronize(request);
      ASSERT_TRUE(result.ok()) << result.status();
      *response = *result;
    });
    if (!answered) return;
    if (!response->registered()) {
      agent.boot_id.clear();
      return;
    }
    agent.last_answered = sent;
    Obey(agent, *response);
  }

  void Obey(Agent& agent, const v1::SynchronizeResponse& response) {
    if (agent.lease.has_value()) {
      const int64_t epoch = agent.lease->epoch();
      auto is_mine = [&](const v1::Lease& lease) {
        return lease.job_id() == agent.lease->job_id() &&
               lease.epoch() == epoch;
      };
      const bool keep = std::any_of(
          response.desired().begin(), response.desired().end(),
          [&](const v1::Assignment& work) { return is_mine(work.lease()); });
      const bool cancel = std::any_of(response.cancel().begin(),
                                      response.cancel().end(), is_mine);
      if (cancel) {
        agent.stopped = true;
        agent.finish.reset();
      } else if (!keep) {
        agent.Drop();
      }
      return;
    }
    if (response.desired_size() == 0) return;
    ASSERT_EQ(response.desired_size(), 1);
    const v1::Assignment& work = response.desired(0);
    CheckNobodyElseWorksOn(agent, work.lease());
    agent.lease = work.lease();
    agent.next_step = work.committed_size();
    for (int i = 0; i < work.committed_size(); ++i) {
      ASSERT_EQ(work.committed(i).step(), i);
    }
  }

  void Work(Agent& agent, bool lossy, bool may_fail) {
    // A process that was frozen goes on where it was: it has no time to look
    // at the clock before its next write. So no self-fence here.
    if (!agent.lease.has_value() || agent.stopped) return;
    if (agent.finish.has_value() || agent.next_step == kSteps) {
      if (!agent.finish.has_value()) agent.finish = MakeFinish(agent, "");
      Finish(agent, lossy);
      return;
    }
    if (may_fail && Roll(8) == 0) {
      const char* const classes[] = {"TRANSIENT", "DRAINED", "RESOURCE",
                                     "INVALID"};
      agent.finish = MakeFinish(agent, classes[Roll(4)]);
      Finish(agent, lossy);
      return;
    }
    v1::CommitStepRequest request;
    *request.mutable_lease() = *agent.lease;
    request.mutable_step()->set_step(agent.next_step);
    request.mutable_step()->set_fingerprint("fp");
    auto status = std::make_shared<absl::Status>();
    const bool answered = Send(lossy, [this, request, status] {
      *status = Guarded(request.lease(), /*may_repeat=*/false,
                        [&] { return core_->scheduler().CommitStep(request); });
    });
    if (!answered) return;
    if (status->ok()) {
      ++agent.next_step;
    } else {
      agent.Drop();
    }
  }

  v1::FinishRequest MakeFinish(const Agent& agent,
                               const std::string& failure_class) {
    v1::FinishRequest request;
    *request.mutable_lease() = *agent.lease;
    if (!failure_class.empty()) {
      request.mutable_failure()->set_failure_class(failure_class);
      request.mutable_failure()->set_reason("SIMULATED");
    }
    return request;
  }

  void Finish(Agent& agent, bool lossy) {
    const v1::FinishRequest request = *agent.finish;
    if (Send(lossy, [this, request] {
          Guarded(request.lease(), /*may_repeat=*/true, [&] {
            return core_->scheduler().Finish(request).status();
          }).IgnoreError();
        })) {
      agent.Drop();
    }
  }

  // --- Invariants ------------------------------------------------------------
  // A write under a lease that is not the current one changes nothing.
  absl::Status Guarded(const v1::Lease& lease, bool may_repeat,
                       const std::function<absl::Status()>& write) {
    const store::JobRecord before = *core_->store().GetJob(lease.job_id());
    const bool current = spec::HoldsLease(before.state) &&
                         before.epoch == lease.epoch() &&
                         before.incarnation == lease.incarnation();
    const absl::Status status = write();
    const store::JobRecord after = *core_->store().GetJob(lease.job_id());
    if (current) {
      EXPECT_TRUE(status.ok()) << status;
      ++accepted_;
    } else {
      EXPECT_EQ(after.last_event_seq, before.last_event_seq);
      EXPECT_EQ(after.state, before.state);
      EXPECT_EQ(after.committed_steps, before.committed_steps);
      if (!status.ok() || !may_repeat) {
        EXPECT_EQ(base::ErrorReason(status), "LEASE_LOST");
      }
      ++refused_;
    }
    return status;
  }

  // Whoever had the job before has given up by its own clock, unless it is
  // frozen or its process is gone.
  void CheckNobodyElseWorksOn(const Agent& self, const v1::Lease& lease) {
    for (const Agent& other : agents_) {
      if (other.name == self.name || !other.lease.has_value() ||
          other.lease->job_id() != lease.job_id()) {
        continue;
      }
      const bool works = !Frozen(other) && !other.stopped &&
                         !other.finish.has_value() &&
                         clock_.Monotonic() - other.last_answered < kSelfFence;
      EXPECT_FALSE(works && other.lease->epoch() >= lease.epoch());
      EXPECT_FALSE(works) << other.name << " still works on " << lease.job_id();
    }
  }

  void CheckInvariants() {
    for (const std::string& id : jobs_) {
      const store::JobRecord job = *core_->store().GetJob(id);
      int open_attempts = 0;
      int64_t last_epoch = 0;
      const auto attempts = core_->store().Attempts(id);
      for (const store::AttemptRecord& attempt : *attempts) {
        EXPECT_GT(attempt.epoch, last_epoch);
        last_epoch = attempt.epoch;
        if (attempt.end_time.has_value()) continue;
        ++open_attempts;
        EXPECT_EQ(attempt.epoch, job.epoch);
        EXPECT_EQ(attempt.incarnation, job.incarnation);
      }
      EXPECT_EQ(open_attempts, spec::HoldsLease(job.state) ? 1 : 0);
      EXPECT_GE(job.committed_steps, steps_[id]);
      steps_[id] = job.committed_steps;
    }
  }

  void CheckHistory(const std::string& id) {
    const auto events = core_->store().ReadEvents(id, 1, 100000);
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    for (size_t i = 0; i < events->size(); ++i) {
      const v1::Event& event = (*events)[i];
      EXPECT_EQ(event.seq(), i + 1);
      if (!event.has_state_changed()) continue;
      EXPECT_EQ(event.state_changed().from(), state);
      state = event.state_changed().to();
    }
    const store::JobRecord job = *core_->store().GetJob(id);
    EXPECT_EQ(job.state, state);
    EXPECT_EQ(job.last_event_seq, events->size());
  }

  bool AllEnded() {
    return std::all_of(jobs_.begin(), jobs_.end(), [&](const std::string& id) {
      return spec::IsTerminal(core_->store().GetJob(id)->state);
    });
  }

 public:
  int accepted_ = 0;
  int refused_ = 0;

 private:
  std::mt19937 random_;
  std::string dir_;
  support::FakeClock clock_;
  SeededIds ids_;
  std::unique_ptr<Core> core_;
  std::vector<Agent> agents_;
  std::vector<Late> late_;
  std::set<std::string> jobs_;
  std::map<std::string, int64_t> steps_;
};

TEST(SimulatorTest, EveryJobEndsAndNoStaleWriteIsEverAccepted) {
  const char* const seeds = std::getenv("QUANTD_SIMULATOR_SEEDS");
  const char* const first = std::getenv("QUANTD_SIMULATOR_FIRST_SEED");
  const uint32_t count = seeds == nullptr ? 300 : std::atoi(seeds);
  const uint32_t begin = first == nullptr ? 1 : std::atoi(first);
  int accepted = 0;
  int refused = 0;
  for (uint32_t seed = begin; seed < begin + count; ++seed) {
    SCOPED_TRACE(absl::StrCat("QUANTD_SIMULATOR_FIRST_SEED=", seed));
    World world(seed);
    world.Storm();
    world.Calm();
    accepted += world.accepted_;
    refused += world.refused_;
    if (HasFailure()) break;
  }
  // The storm must be one: both sides of the fence were seen.
  EXPECT_GT(accepted, static_cast<int>(count));
  EXPECT_GT(refused, static_cast<int>(count / 10));
  RecordProperty("accepted", accepted);
  RecordProperty("refused", refused);
}

}  // namespace
}  // namespace quantd::scheduler
