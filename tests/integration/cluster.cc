// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/cluster.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/base/atomic_file.h"

namespace quantd::integration {
namespace {

namespace fs = std::filesystem;

// Children of `parent` whose program is quant-runner.
std::vector<pid_t> RunnersOf(pid_t parent) {
  std::vector<pid_t> result;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    int pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;
    const size_t close = line.rfind(')');
    if (close == std::string::npos) continue;
    const std::vector<std::string> fields =
        absl::StrSplit(line.substr(close + 2), ' ');
    if (line.find("(quant-runner)") != std::string::npos && fields.size() > 1 &&
        fields[1] == absl::StrCat(parent) && fields[0] != "Z") {
      result.push_back(pid);
    }
  }
  return result;
}

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

Cluster::Cluster(std::string root) : root_(std::move(root)) {}

Cluster::~Cluster() {
  agent_.reset();
  server_.reset();
}

void Cluster::Connect() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  auto channel = grpc::CreateCustomChannel(
      address_, grpc::InsecureChannelCredentials(), arguments);
  jobs_ = v1::JobService::NewStub(channel);
  artifacts_ = v1::ArtifactService::NewStub(channel);
}

void Cluster::StartServer(const std::vector<std::string>& flags) {
  const std::string ports = absl::StrCat(root_, "/ports");
  fs::remove(ports);
  std::vector<std::string> command = {support::Program("quantd"),
                                      "--data-dir",
                                      absl::StrCat(root_, "/data"),
                                      "--listen",
                                      absl::StrCat("127.0.0.1:", port_),
                                      "--http-listen",
                                      "127.0.0.1:0",
                                      "--port-file",
                                      ports,
                                      "--lease-ttl",
                                      "3"};
  command.insert(command.end(), flags.begin(), flags.end());
  server_ = std::make_unique<support::Process>(
      command, absl::StrCat(root_, "/quantd.log"));
  support::WaitFor(absl::Seconds(60),
                   [&] { return fs::exists(ports) || !server_->running(); });
  for (const auto line : absl::StrSplit(Slurp(ports), '\n')) {
    const std::pair<std::string, std::string> field =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (field.first == "grpc") address_ = field.second;
  }
  if (address_.empty()) return;
  (void)absl::SimpleAtoi(address_.substr(address_.rfind(':') + 1), &port_);
  if (jobs_ == nullptr) Connect();
}

void Cluster::StartWorker() {
  agent_ = std::make_unique<support::Process>(
      std::vector<std::string>{support::Program("quant-worker"), "--server",
                               address_, "--name", "w1", "--state-dir",
                               absl::StrCat(root_, "/worker"), "--blobs",
                               absl::StrCat(root_, "/data/blobs"), "--device",
                               "cpu", "--threads", "1"},
      absl::StrCat(root_, "/worker.log"));
}

void Cluster::KillServer() { server_->Kill(); }

void Cluster::KillAgent() { agent_->Kill(); }

bool Cluster::KillRunner() {
  const std::vector<pid_t> runners = RunnersOf(agent_->pid());
  if (runners.empty()) return false;
  kill(runners.front(), SIGKILL);
  return true;
}

std::string Cluster::Submit(const v1::JobSpec& spec,
                            const std::string& request_id) {
  std::string job_id;
  support::WaitFor(absl::Seconds(60), [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(5));
    v1::SubmitJobRequest request;
    request.set_request_id(request_id);
    *request.mutable_spec() = spec;
    v1::SubmitJobResponse response;
    const grpc::Status status = jobs_->SubmitJob(&context, request, &response);
    if (status.ok()) job_id = response.job().job_id();
    return status.ok() ||
           status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
  });
  return job_id;
}

v1::Job Cluster::WaitTerminal(const std::string& job_id,
                              absl::Duration timeout) {
  v1::Job job;
  support::WaitFor(timeout, [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(5));
    v1::GetJobRequest request;
    request.set_job_id(job_id);
    v1::GetJobResponse response;
    if (!jobs_->GetJob(&context, request, &response).ok()) return false;
    job = response.job();
    return job.state() >= v1::JOB_STATE_SUCCEEDED;
  });
  return job;
}

std::vector<v1::Event> Cluster::Events(const std::string& job_id) {
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_job_id(job_id);
  request.set_from_seq(1);
  auto stream = jobs_->WatchJob(&context, request);
  std::vector<v1::Event> events;
  v1::WatchJobResponse response;
  while (stream->Read(&response)) {
    if (response.event().seq() > 0) events.push_back(response.event());
  }
  return events;
}

std::vector<std::string> Cluster::ManifestDigests(const std::string& job_id) {
  grpc::ClientContext context;
  v1::ListArtifactsRequest request;
  request.set_job_id(job_id);
  v1::ListArtifactsResponse response;
  std::vector<std::string> digests;
  if (artifacts_->ListArtifacts(&context, request, &response).ok()) {
    for (const v1::Artifact& artifact : response.artifacts()) {
      digests.push_back(artifact.manifest().sha256());
    }
  }
  std::sort(digests.begin(), digests.end());
  return digests;
}

std::string Cluster::ServerLog() const {
  return Slurp(absl::StrCat(root_, "/quantd.log"));
}

std::string Cluster::WorkerLog() const {
  return Slurp(absl::StrCat(root_, "/worker.log"));
}

v1::JobSpec TinyJob(const std::string& method, int bits) {
  v1::JobSpec spec;
  v1::QuantizeSpec* quantize = spec.mutable_quantize();
  quantize->set_model(support::SourcePath("deploy/models/tiny"));
  v1::Recipe* recipe = quantize->mutable_recipe();
  recipe->mutable_method()->set_id(method);
  recipe->mutable_weights()->set_format(absl::StrCat("int", bits));
  recipe->mutable_weights()->set_group_size(64);
  recipe->mutable_weights()->set_symmetric(true);
  recipe->mutable_calibration()->set_dataset("bundled");
  recipe->mutable_calibration()->set_num_samples(8);
  recipe->mutable_calibration()->set_sequence_length(128);
  recipe->add_exports()->set_id("gptq");
  v1::Component* eval = recipe->add_evals();
  eval->set_id("perplexity");
  (*eval->mutable_params())["data"].set_string_value("bundled-heldout");
  (*eval->mutable_params())["window"].set_int_value(128);
  (*eval->mutable_params())["windows"].set_int_value(4);
  return spec;
}

}  // namespace quantd::integration
