// SPDX-License-Identifier: Apache-2.0
// The standard health and reflection services, as probes and tools see them.
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/server/api/api_fixture.h"
#include "tests/server/api/raw_stream.h"

namespace quantd::api {
namespace {

constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";
constexpr char kReflection[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// grpc.health.v1.HealthCheckRequest: field 1 is the service.
std::string Request(const std::string& service) {
  if (service.empty()) return "";
  return std::string("\x0a") + static_cast<char>(service.size()) + service;
}

// HealthCheckResponse: field 1 is the status, absent for UNKNOWN.
std::string Response(int status) {
  return std::string("\x08") + static_cast<char>(status);
}
const std::string kServing = Response(1);
const std::string kNotServing = Response(2);
const std::string kServiceUnknown = Response(3);

TEST_F(ApiTest, HealthOfTheWholeServerIsServing) {
  RawStream check(channel_, kCheck);
  check.Write(Request(""));
  EXPECT_EQ(check.Read(), kServing);
  EXPECT_TRUE(check.Finish().ok());
}

TEST_F(ApiTest, HealthOfAnUnknownServiceIsNotFoundAndWatchedAsUnknown) {
  RawStream check(channel_, kCheck);
  check.Write(Request("no.such.Service"));
  EXPECT_EQ(check.Read(), std::nullopt);
  EXPECT_EQ(check.Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  RawStream watch(channel_, kWatch);
  watch.Write(Request("no.such.Service"));
  EXPECT_EQ(watch.Read(), kServiceUnknown);
}

TEST_F(ApiTest, AHealthWatchLearnsThatTheServerStops) {
  auto watch = std::make_unique<RawStream>(channel_, kWatch);
  watch->Write(Request(""));
  ASSERT_EQ(watch->Read(), kServing);
  std::thread stop([this] { StopServer(); });
  EXPECT_EQ(watch->Read(), kNotServing);
  // An open watch is a call in flight; the stop need not wait for this one.
  watch = nullptr;
  stop.join();
}

TEST_F(ApiTest, ReflectionIsOffUnlessAskedFor) {
  RawStream reflection(channel_, kReflection);
  reflection.Write(std::string("\x3a\x00", 2));  // list_services
  EXPECT_EQ(reflection.Read(), std::nullopt);
  EXPECT_EQ(reflection.Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace quantd::api
