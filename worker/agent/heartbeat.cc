// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/heartbeat.h"

#include <algorithm>

#include "google/protobuf/duration.pb.h"
#include "proto/base/log.h"
#include "worker/agent/monotonic_wait.h"

namespace quantd::agent {
namespace {

constexpr absl::Duration kLongestInterval = absl::Seconds(5);
constexpr absl::Duration kLongestDeadline = absl::Seconds(3);
constexpr absl::Duration kFenceMargin = absl::Seconds(5);
constexpr absl::Duration kRegisterPause = absl::Milliseconds(500);
constexpr absl::Duration kWakePause = absl::Seconds(1);

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

// The server may ask for shorter pauses, not for longer ones.
absl::Duration Shorter(absl::Duration own,
                       const google::protobuf::Duration& wished) {
  const absl::Duration wish = FromProto(wished);
  return wish > absl::ZeroDuration() ? std::min(own, wish) : own;
}

absl::Duration Deadline(absl::Duration lease_ttl) {
  return std::min(kLongestDeadline, lease_ttl / 3);
}

}  // namespace

absl::Duration FenceAfter(absl::Duration lease_ttl) {
  return std::max(lease_ttl - kFenceMargin, lease_ttl * 5 / 6);
}

absl::Duration BeatInterval(absl::Duration lease_ttl) {
  return std::min(kLongestInterval, lease_ttl / 6);
}

Heartbeat::Heartbeat(ServerLink& link, HeartbeatSource& source,
                     base::Clock& clock)
    : link_(link),
      source_(source),
      clock_(clock),
      beats_([this] { RunBeats(); }),
      wakes_([this] { RunWakes(); }) {}

Heartbeat::~Heartbeat() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  wake_calls_.CancelAll();
  beats_.join();
  wakes_.join();
}

void Heartbeat::Poke() {
  absl::MutexLock lock(&mu_);
  poked_ = true;
}

absl::Duration Heartbeat::TimeToFence() {
  absl::MutexLock lock(&mu_);
  return last_beat_ + FenceAfter(lease_ttl_) - clock_.Monotonic();
}

int64_t Heartbeat::skipped_beats() const {
  absl::MutexLock lock(&mu_);
  return skipped_;
}

bool Heartbeat::PokedOrStopping() const { return poked_ || stopping_; }

bool Heartbeat::Pause(absl::Duration pause) {
  absl::MutexLock lock(&mu_);
  AwaitUntil(mu_, absl::Condition(this, &Heartbeat::PokedOrStopping), clock_,
             clock_.Monotonic() + pause);
  poked_ = false;
  return !stopping_;
}

void Heartbeat::RunBeats() {
  absl::Duration pause;
  do {
    const absl::Duration begin = clock_.Monotonic();
    if (Register()) Beat();
    absl::MutexLock lock(&mu_);
    const absl::Duration spent = clock_.Monotonic() - begin;
    pause = registered_ ? interval_ - spent : kRegisterPause;
  } while (Pause(pause));
}

bool Heartbeat::Register() {
  absl::Duration deadline;
  {
    absl::MutexLock lock(&mu_);
    if (registered_) return true;
    deadline = Deadline(lease_ttl_);
  }
  const absl::StatusOr<v1::RegisterResponse> response =
      link_.Register(source_.MakeRegister(), deadline);
  absl::MutexLock lock(&mu_);
  if (!response.ok()) {
    // Once per outage: the loop repeats twice a second.
    if (answered_) {
      spdlog::warn("cannot register with the server: {}",
                   std::string(response.status().message()));
    }
    answered_ = false;
    return false;
  }
  answered_ = true;
  registered_ = true;
  boot_id_ = response->boot_id();
  const absl::Duration ttl = FromProto(response->lease_ttl());
  if (ttl > absl::ZeroDuration()) lease_ttl_ = ttl;
  interval_ =
      Shorter(BeatInterval(lease_ttl_), response->synchronize_interval());
  spdlog::info("registered; leases last {} s",
               absl::ToDoubleSeconds(lease_ttl_));
  return true;
}

void Heartbeat::Beat() {
  v1::SynchronizeRequest request = source_.MakeSynchronize();
  absl::Duration deadline;
  {
    absl::MutexLock lock(&mu_);
    request.set_boot_id(boot_id_);
    deadline = Deadline(lease_ttl_);
  }
  const absl::Duration begin = clock_.Monotonic();
  const absl::StatusOr<v1::SynchronizeResponse> response =
      link_.Synchronize(request, deadline);
  CountSkipped(begin);
  {
    absl::MutexLock lock(&mu_);
    if (response.ok() != answered_) {
      spdlog::warn(response.ok() ? "the server answers again"
                                 : "the server does not answer");
    }
    answered_ = response.ok();
    if (!response.ok()) return;
    registered_ = response->registered();
    if (!registered_) return;
    last_beat_ = begin;
    interval_ = Shorter(BeatInterval(lease_ttl_), response->next_synchronize());
  }
  source_.OnSynchronized(*response);
}

void Heartbeat::CountSkipped(absl::Duration begin) {
  absl::MutexLock lock(&mu_);
  const absl::Duration spent = clock_.Monotonic() - begin;
  skipped_ += static_cast<int64_t>(absl::FDivDuration(spent, interval_));
}

void Heartbeat::RunWakes() {
  v1::WakeRequest request;
  {
    const v1::RegisterRequest self = source_.MakeRegister();
    request.set_worker_name(self.worker_name());
    request.set_incarnation(self.incarnation());
  }
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&registered_), kWakePause);
      if (stopping_) return;
      if (!registered_) continue;
    }
    // What changed while no stream was open shows in the next beat anyway.
    link_.Wake(request, wake_calls_, [this] { Poke(); }).IgnoreError();
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), kWakePause)) return;
  }
}

}  // namespace quantd::agent
