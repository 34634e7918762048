// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/commands/artifact_files.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/table.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

struct Check {
  std::string path;
  // "ok", or what is wrong.
  std::string result;
};

absl::StatusOr<std::vector<Check>> CheckFolder(const std::string& directory) {
  ASSIGN_OR_RETURN(const auto files, FilesOfManifest(directory));
  std::vector<Check> checks;
  for (const v1::ArtifactFile& file : files) {
    const auto digest = base::DigestFile(directory + "/" + file.path());
    Check check{file.path(), "ok"};
    if (!digest.ok()) {
      check.result =
          absl::IsNotFound(digest.status()) ? "missing" : "unreadable";
    } else if (digest->sha256 != file.blob().sha256()) {
      check.result = "changed";
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

// Reads every blob from the server, keeping none.
absl::StatusOr<std::vector<Check>> CheckOnServer(Session& session,
                                                 const std::string& id) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Artifact artifact, client->GetArtifact(id));
  ASSIGN_OR_RETURN(const auto files, FilesToPull(artifact));
  std::vector<Check> checks;
  for (const v1::ArtifactFile& file : files) {
    const absl::Status status = client->ReadBlob(
        file.blob(), [](absl::string_view) { return absl::OkStatus(); });
    const bool damaged = absl::IsDataLoss(status) || absl::IsNotFound(status);
    if (!status.ok() && !damaged) return status;
    checks.push_back({file.path(), status.ok()                ? "ok"
                                   : absl::IsNotFound(status) ? "missing"
                                                              : "changed"});
  }
  return checks;
}

absl::StatusOr<int> Verify(Session& session, const std::string& what) {
  std::error_code error;
  const bool local = std::filesystem::is_directory(what, error);
  if (!local && (absl::StartsWith(what, "/") || absl::StartsWith(what, "."))) {
    return base::MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND",
                           absl::StrCat("there is no folder ", what));
  }
  ASSIGN_OR_RETURN(const std::vector<Check> checks,
                   local ? CheckFolder(what) : CheckOnServer(session, what));
  int damaged = 0;
  Answer answer;
  answer.json = {{"verified", what}, {"files", render::Json::array()}};
  answer.items = "files";
  render::Table table({"FILE", "RESULT"});
  for (const Check& check : checks) {
    damaged += check.result == "ok" ? 0 : 1;
    answer.json["files"].push_back(
        {{"path", check.path}, {"result", check.result}});
    answer.names.push_back(check.path);
    table.AddRow({render::Printable(check.path), check.result});
  }
  answer.table = [&](std::ostream& out) {
    table.Print(session.terminal(), out);
  };
  session.Print(answer);
  if (damaged == 0) return kExitSucceeded;
  return base::MakeError(absl::StatusCode::kDataLoss, "ARTIFACT_DAMAGED",
                         absl::StrCat(damaged, " of ", checks.size(),
                                      " files are not what the manifest says"),
                         {{"files", absl::StrCat(damaged)}});
}

}  // namespace

void AddArtifactVerify(CLI::App& artifact, Session& session) {
  auto what = std::make_shared<std::string>();
  CLI::App* command = artifact.add_subcommand(
      "verify", "Compare files with the digests of the manifest");
  command
      ->add_option("artifact", *what,
                   "A pulled folder, or the id of an artifact on the server")
      ->required();
  command->callback([what, &session] {
    session.SetCommand([what, &session] { return Verify(session, *what); });
  });
}

}  // namespace quantd::commands
