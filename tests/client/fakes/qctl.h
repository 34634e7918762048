// SPDX-License-Identifier: Apache-2.0
// qctl inside a test: arguments in; exit code, output and messages out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "client/render/terminal.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/event.pb.h"
#include "quantd/v1/job.pb.h"
#include "tests/client/fakes/fake_server.h"
#include "tests/support/fake_clock.h"
#include "tests/support/test_data.h"

namespace quantd::fakes {

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

struct Qctl {
  // The time is 2023-11-14T22:13:20Z and stands still; retries wait a
  // millisecond.
  Outcome Run(std::vector<std::string> arguments);

  // Added to the arguments as --server, where it is not empty.
  std::string server;
  render::Terminal terminal;
  std::map<std::string, std::string> environment;
  // Where --local looks for quantd.
  std::string program_directory = "/nonexistent";
  support::FakeClock clock;
};

// The text of tests/testdata/client/<name>.
std::string Golden(const std::string& name);

// A running and a finished quantize job, an artifact and their events.
v1::Job RunningJob();
v1::Job FinishedJob();
v1::Catalog SmallCatalog();
v1::Artifact SmallArtifact(FakeServer& server);
// Queued, running, a committed block, succeeded: 1 to 4, with progress between.
std::vector<v1::Event> EventsOf(const v1::Job& job);

}  // namespace quantd::fakes
