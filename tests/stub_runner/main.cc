// SPDX-License-Identifier: Apache-2.0
// Speaks a runner's frames and does what the label "stub" of the job says, a
// list of words separated by ";":
//   step:KIND        a finished step with one file, "weights", of its own text
//   progress:DETAIL  a progress message
//   log:TEXT         a line on standard error
//   gate:FILE        wait until FILE exists
//   continue         ask for a fresh process, unless this is it
//   done             end well, with an artifact of one file
//   fail:CLASS:NAME  end with a failure
//   signal:N         die of signal N
//   exit:N           end with status N and without a result
//   hang             never say another word; keeps reading commands
//   deaf             as hang, and ignores CancelJob and SIGTERM
//   eat              use memory until the process dies
//   garbage          send a frame that is no event
//   oversize         announce a frame of 4 GiB
//   inputs           a step whose text lists the blobs and files it was given
//   child            start a process that sleeps, and log its number
// Steps that are committed already are passed over.
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/base/frames.h"
#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/runner.pb.h"

namespace {

namespace v1 = quantd::v1;
using quantd::base::FrameChannel;

constexpr int kSocket = 3;

class Stub {
 public:
  Stub(FrameChannel& channel, const v1::StartJob& start)
      : channel_(channel), start_(start) {}

  // One word after the other.
  void Run() {
    const auto label = start_.spec().labels().find("stub");
    if (label == start_.spec().labels().end()) _exit(90);
    for (absl::string_view word : absl::StrSplit(label->second, ';')) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(word, absl::MaxSplits(':', 1));
      Do(parts.first, parts.second);
    }
  }

 private:
  void Do(const std::string& verb, const std::string& argument) {
    if (verb == "step") return Step(argument, absl::StrCat("text of ", next_));
    if (verb == "inputs") return Step("inputs", Inputs());
    if (verb == "progress") return Progress(argument);
    if (verb == "log") {
      std::cerr << argument << std::endl;
    } else if (verb == "gate") {
      while (!std::filesystem::exists(argument)) {
        absl::SleepFor(absl::Milliseconds(5));
      }
    } else if (verb == "child") {
      const pid_t pid = fork();
      if (pid == 0) {
        for (;;) pause();
      }
      std::cerr << "child " << pid << std::endl;
    } else if (verb == "garbage") {
      channel_.Write("\x99\x99").IgnoreError();
      Hang();
    } else if (verb == "oversize") {
      if (send(kSocket, "\xff\xff\xff\xff", 4, 0) != 4) _exit(91);
      Hang();
    } else {
      End(verb, argument);
    }
  }

  void End(const std::string& verb, const std::string& argument) {
    if (verb == "continue" && emitted_ > 0) {
      v1::RunnerEvent event;
      event.mutable_continue_elsewhere();
      Send(event);
      _exit(0);
    }
    if (verb == "done") Done();
    if (verb == "fail") Fail(argument);
    if (verb == "signal") raise(std::atoi(argument.c_str()));
    if (verb == "exit") _exit(std::atoi(argument.c_str()));
    if (verb == "hang") Hang();
    if (verb == "deaf") {
      signal(SIGTERM, SIG_IGN);
      Hang();
    }
    if (verb == "eat") Eat();
  }

  void Send(const v1::RunnerEvent& event) {
    if (!channel_.Write(event.SerializeAsString()).ok()) _exit(92);
  }

  void Progress(const std::string& detail) {
    v1::RunnerEvent event;
    event.mutable_progress()->set_detail(detail);
    event.mutable_progress()->set_step(next_);
    Send(event);
  }

  std::string WriteFile(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(start_.work_directory(), "/", name);
    std::ofstream(path) << text;
    return path;
  }

  void Step(const std::string& kind, const std::string& text) {
    const int number = next_++;
    if (number < start_.committed_size()) return;
    v1::RunnerEvent event;
    v1::StepDone& done = *event.mutable_step_done();
    done.mutable_step()->set_step(number);
    done.mutable_step()->set_kind(kind);
    (*done.mutable_files())["weights"] =
        WriteFile(absl::StrCat("step-", number), text);
    ++emitted_;
    Send(event);
  }

  std::string Inputs() {
    std::ostringstream text;
    const std::map<std::string, std::string> blobs(start_.blob_files().begin(),
                                                   start_.blob_files().end());
    for (const auto& [sha256, path] : blobs) {
      std::ifstream in(path);
      text << "blob " << sha256.substr(0, 8) << " " << in.rdbuf() << "\n";
    }
    const std::map<std::string, std::string> files(
        start_.source_files().begin(), start_.source_files().end());
    for (const auto& [name, path] : files) {
      std::ifstream in(path);
      text << "file " << name << " " << in.rdbuf() << "\n";
    }
    text << "device " << start_.device() << " memory_reduction "
         << start_.memory_reduction() << " pid " << getpid();
    return text.str();
  }

  [[noreturn]] void Done() {
    v1::RunnerEvent event;
    v1::JobDone& done = *event.mutable_job_done();
    done.mutable_report()->set_float_bytes(1000);
    v1::ProducedArtifact& artifact = *done.add_artifacts();
    artifact.set_name("stub_artifact");
    artifact.set_export_("stub");
    (*artifact.mutable_files())["b/model.bin"] =
        WriteFile("model.bin", "the model");
    artifact.set_manifest_file(WriteFile("manifest.json", "{}"));
    Send(event);
    _exit(0);
  }

  [[noreturn]] void Fail(const std::string& argument) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(argument, absl::MaxSplits(':', 1));
    v1::RunnerEvent event;
    v1::Failure& failure = *event.mutable_job_done()->mutable_failure();
    failure.set_failure_class(parts.first);
    failure.set_reason(parts.second);
    failure.set_message("as told");
    Send(event);
    _exit(0);
  }

  [[noreturn]] static void Hang() {
    for (;;) pause();
  }

  [[noreturn]] static void Eat() {
    constexpr size_t kPart = 4 << 20;
    for (;;) {
      char* bytes = static_cast<char*>(std::malloc(kPart));
      if (bytes == nullptr) _exit(93);
      std::memset(bytes, 1, kPart);
    }
  }

  FrameChannel& channel_;
  const v1::StartJob& start_;
  int next_ = 0;
  int emitted_ = 0;
};

bool IsDeaf(const v1::StartJob& start) {
  const auto label = start.spec().labels().find("stub");
  return label != start.spec().labels().end() &&
         label->second.find("deaf") != std::string::npos;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "--describe") {
    v1::Catalog catalog;
    catalog.set_code_version("stub");
    std::cout << catalog.SerializeAsString() << std::flush;
    return 0;
  }
  if (mode != "--socket-fd") return 2;
  FrameChannel channel(kSocket);
  v1::RunnerEvent ready;
  ready.mutable_ready()->set_device_name("stub");
  if (!channel.Write(ready.SerializeAsString()).ok()) return 1;
  v1::StartJob start;
  for (;;) {
    const auto frame = channel.Read();
    v1::RunnerCommand command;
    if (!frame.ok() || !command.ParseFromString(*frame)) _exit(1);
    if (command.has_start()) {
      start = command.start();
      std::thread([&] { Stub(channel, start).Run(); }).detach();
    } else if (command.has_cancel() && !IsDeaf(start)) {
      _exit(0);
    }
  }
}
