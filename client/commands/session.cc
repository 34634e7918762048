// SPDX-License-Identifier: Apache-2.0
#include "client/commands/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/commands/usage.h"
#include "client/render/quantities.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

constexpr size_t kFullIdLength = 20;

}  // namespace

absl::Status Session::ReadSettings() {
  ASSIGN_OR_RETURN(settings_, LoadSettings(flags_, surroundings_.environment));
  if (settings_.color.value == "never") terminal_.color = false;
  if (flags_.local && flags_.server) {
    return UsageError("--local starts a server of its own; leave out --server");
  }
  return absl::OkStatus();
}

absl::StatusOr<rpc::Client*> Session::Connect() {
  if (client_ != nullptr) return client_.get();
  rpc::ClientOptions options;
  options.server = settings_.server.value;
  options.backoff = surroundings_.backoff;
  options.on_retry = [this](const absl::Status& error, absl::Duration delay) {
    OnRetry(error, delay);
  };
  if (settings_.time_limit) options.call_timeout = *settings_.time_limit;
  if (flags_.local) {
    ASSIGN_OR_RETURN(local_server_,
                     LocalServer::Start({surroundings_.program_directory,
                                         surroundings_.environment,
                                         surroundings_.interrupt}));
    options.server = local_server_->address();
  }
  client_ = std::make_unique<rpc::Client>(std::move(options));
  if (local_server_ != nullptr) {
    RETURN_IF_ERROR(local_server_->WaitForWorker(*client_));
  }
  return client_.get();
}

absl::StatusOr<std::string> Session::FullJobId(const std::string& job) {
  if (job.size() == kFullIdLength) return job;
  ASSIGN_OR_RETURN(rpc::Client * client, Connect());
  ASSIGN_OR_RETURN(const v1::Job found, client->GetJob(job));
  return found.job_id();
}

absl::Time Session::Deadline() {
  if (!settings_.time_limit) return absl::InfiniteFuture();
  return absl::Now() + *settings_.time_limit;
}

void Session::Print(const Answer& answer) {
  switch (settings_.format) {
    case render::OutputFormat::kTable:
      answer.table(out());
      break;
    case render::OutputFormat::kName:
      for (const std::string& name : answer.names) out() << name << "\n";
      break;
    default:
      render::PrintJson(answer.json, settings_.format, answer.items, out());
  }
  out() << std::flush;
}

void Session::Say(const std::string& message) { err() << message << std::endl; }

void Session::SetRetryListener(
    std::function<void(const std::string&)> listener) {
  retry_listener_ = std::move(listener);
}

void Session::OnRetry(const absl::Status& error, absl::Duration delay) {
  const std::string words = absl::StrCat(
      "the server does not answer (",
      absl::IsUnavailable(error) ? "unavailable"
                                 : absl::StatusCodeToString(error.code()),
      "); next attempt in ", render::Seconds(absl::ToDoubleSeconds(delay)));
  if (retry_listener_) {
    retry_listener_(words);
  } else {
    Say(words);
  }
}

}  // namespace quantd::commands
