// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

constexpr int64_t kMaxShownManifestBytes = int64_t{64} << 20;

void PrintArtifacts(Session& session, const v1::ListArtifactsResponse& all,
                    std::ostream& out) {
  render::Table table({"ARTIFACT", "EXPORT", "SIZE", "AGE", "JOB", "NAME"});
  for (const v1::Artifact& artifact : all.artifacts()) {
    table.AddRow({render::ShortId(render::Printable(artifact.artifact_id())),
                  render::Printable(artifact.export_()),
                  render::Bytes(artifact.total_bytes()),
                  render::Age(artifact.create_time(),
                              session.surroundings().clock.Now()),
                  render::ShortId(render::Printable(artifact.job_id())),
                  render::Printable(artifact.name())});
  }
  if (table.empty()) {
    session.Say("no artifacts");
  } else {
    table.Print(session.terminal(), out);
  }
}

absl::StatusOr<int> ListArtifacts(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  v1::ListArtifactsRequest request;
  if (!job.empty()) {
    ASSIGN_OR_RETURN(*request.mutable_job_id(), session.FullJobId(job));
  }
  v1::ListArtifactsResponse all;
  do {
    request.set_page_token(all.next_page_token());
    ASSIGN_OR_RETURN(v1::ListArtifactsResponse page,
                     client->ListArtifacts(request));
    all.set_next_page_token(page.next_page_token());
    for (v1::Artifact& artifact : *page.mutable_artifacts()) {
      *all.add_artifacts() = std::move(artifact);
    }
  } while (!all.next_page_token().empty());
  Answer answer;
  answer.json = render::ToJson(all);
  answer.items = "artifacts";
  for (const v1::Artifact& artifact : all.artifacts()) {
    answer.names.push_back(artifact.artifact_id());
  }
  answer.table = [&](std::ostream& out) { PrintArtifacts(session, all, out); };
  session.Print(answer);
  return kExitSucceeded;
}

// The manifest as JSON; as text where it is none.
absl::StatusOr<render::Json> ReadManifest(rpc::Client& client,
                                          const v1::Artifact& artifact) {
  if (!artifact.has_manifest()) return render::Json();
  if (artifact.manifest().size_bytes() > kMaxShownManifestBytes) {
    return absl::ResourceExhaustedError("the manifest is too large to show");
  }
  std::string text;
  RETURN_IF_ERROR(
      client.ReadBlob(artifact.manifest(), [&](absl::string_view bytes) {
        absl::StrAppend(&text, bytes);
        return absl::OkStatus();
      }));
  render::Json json = render::Json::parse(text, nullptr, false);
  return json.is_discarded() ? render::Json(text) : json;
}

void PrintArtifact(Session& session, const v1::Artifact& artifact,
                   std::ostream& out) {
  render::Table rows({});
  rows.AddRow({"artifact", render::Printable(artifact.artifact_id())});
  rows.AddRow({"name", render::Printable(artifact.name())});
  rows.AddRow({"export", render::Printable(artifact.export_())});
  rows.AddRow({"job", render::Printable(artifact.job_id())});
  rows.AddRow({"created", render::Instant(artifact.create_time())});
  rows.AddRow({"size", render::Bytes(artifact.total_bytes())});
  rows.AddRow({"manifest", artifact.manifest().sha256()});
  rows.Print(session.terminal(), out);
  out << "\n";
  render::Table files({"FILE", "SIZE", "SHA-256"});
  for (const v1::ArtifactFile& file : artifact.files()) {
    files.AddRow({render::Printable(file.path()),
                  render::Bytes(file.blob().size_bytes()),
                  file.blob().sha256()});
  }
  files.Print(session.terminal(), out);
}

absl::StatusOr<int> ShowArtifact(Session& session, const std::string& id) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Artifact artifact, client->GetArtifact(id));
  ASSIGN_OR_RETURN(const render::Json manifest,
                   ReadManifest(*client, artifact));
  Answer answer;
  answer.json = {{"artifact", render::ToJson(artifact)},
                 {"manifest", manifest}};
  answer.names = {artifact.artifact_id()};
  answer.table = [&](std::ostream& out) {
    PrintArtifact(session, artifact, out);
    if (manifest.is_null()) return;
    out << "\n"
        << (manifest.is_string() ? manifest.get<std::string>()
                                 : manifest.dump(2))
        << "\n";
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddArtifact(CLI::App& app, Session& session) {
  CLI::App* artifact =
      app.add_subcommand("artifact", "Quantized models: list, show, fetch");
  artifact->require_subcommand(1);
  auto job = std::make_shared<std::string>();
  CLI::App* list = artifact->add_subcommand("list", "List artifacts");
  list->add_option("--job", *job, "Only those of this job")->type_name("ID");
  list->callback([job, &session] {
    session.SetCommand(
        [job, &session] { return ListArtifacts(session, *job); });
  });
  auto id = std::make_shared<std::string>();
  CLI::App* show =
      artifact->add_subcommand("show", "Show the files and the manifest");
  show->add_option("artifact", *id,
                   "The artifact's id, its first characters, or jobs/ID")
      ->required();
  show->callback([id, &session] {
    session.SetCommand([id, &session] { return ShowArtifact(session, *id); });
  });
  AddArtifactPull(*artifact, session);
  AddArtifactVerify(*artifact, session);
}

}  // namespace quantd::commands
