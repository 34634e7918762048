// SPDX-License-Identifier: Apache-2.0
// A whole durable core under a clock moved by hand, and a model of an agent.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/scheduler/core.h"
#include "tests/support/fake_clock.h"
#include "tests/support/test_data.h"

namespace quantd::scheduler {

constexpr absl::Duration kTtl = absl::Seconds(30);

inline v1::Catalog CatalogWith(const std::string& method) {
  v1::Catalog catalog;
  catalog.set_code_version("v1");
  v1::ComponentEntry& entry = *catalog.add_entries();
  entry.set_seam(v1::SEAM_METHOD);
  entry.set_id(method);
  return catalog;
}

class CoreTest : public testing::Test {
 protected:
  void SetUp() override { Restart(); }

  void Restart() {
    core_.reset();
    Core::Options options;
    options.data_dir = dir_.path();
    options.clock = &clock_;
    options.lease_ttl = kTtl;
    auto core = Core::Open(options);
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
  }

  std::string Submit(const std::string& method = "gptq") {
    v1::SubmitJobRequest request;
    request.mutable_spec()->mutable_quantize()->set_model("tiny");
    request.mutable_spec()
        ->mutable_quantize()
        ->mutable_recipe()
        ->mutable_method()
        ->set_id(method);
    auto response = core_->jobs().Submit(request, "tiny");
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->job().job_id() : "";
  }

  void Register(const std::string& name, const std::string& incarnation,
                const std::string& method = "gptq") {
    v1::RegisterRequest request;
    request.set_worker_name(name);
    request.set_incarnation(incarnation);
    *request.mutable_catalog() = CatalogWith(method);
    ASSERT_TRUE(core_->scheduler().Register(request).ok());
  }

  v1::SynchronizeRequest Idle(const std::string& name,
                              const std::string& incarnation) {
    v1::SynchronizeRequest request;
    request.set_worker_name(name);
    request.set_incarnation(incarnation);
    request.set_boot_id(core_->boot_id());
    request.set_accepts_work(true);
    return request;
  }

  v1::SynchronizeRequest Holding(const std::string& name,
                                 const v1::Lease& lease) {
    v1::SynchronizeRequest request = Idle(name, lease.incarnation());
    v1::HeldWork& held = *request.add_held();
    *held.mutable_lease() = lease;
    held.set_running(true);
    return request;
  }

  v1::SynchronizeResponse Synchronize(const v1::SynchronizeRequest& request) {
    auto response = core_->scheduler().Synchronize(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::SynchronizeResponse();
  }

  // Registers, asks for work and says that it runs.
  v1::Lease Take(const std::string& name, const std::string& incarnation) {
    Register(name, incarnation);
    const v1::SynchronizeResponse response =
        Synchronize(Idle(name, incarnation));
    EXPECT_EQ(response.desired_size(), 1);
    if (response.desired_size() != 1) return {};
    Synchronize(Holding(name, response.desired(0).lease()));
    return response.desired(0).lease();
  }

  void Advance(absl::Duration by) {
    clock_.Advance(by);
    core_->scheduler().Tick();
  }

  v1::Job Get(const std::string& id) { return *core_->jobs().Get(id); }

  absl::StatusOr<v1::FinishResponse> Fail(const v1::Lease& lease,
                                          const std::string& failure_class) {
    v1::FinishRequest request;
    *request.mutable_lease() = lease;
    request.mutable_failure()->set_failure_class(failure_class);
    request.mutable_failure()->set_reason("SOMETHING");
    return core_->scheduler().Finish(request);
  }

  absl::Status Commit(const v1::Lease& lease, int64_t step) {
    v1::CommitStepRequest request;
    *request.mutable_lease() = lease;
    request.mutable_step()->set_step(step);
    request.mutable_step()->set_fingerprint("fp");
    return core_->scheduler().CommitStep(request);
  }

  support::TemporaryDirectory dir_;
  support::FakeClock clock_;
  std::unique_ptr<Core> core_;
};

}  // namespace quantd::scheduler
