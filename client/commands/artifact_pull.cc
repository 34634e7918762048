// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>

#include <filesystem>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/artifact_files.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/quantities.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::commands {
namespace {

namespace fs = std::filesystem;

struct PullFlags {
  std::string artifact;
  std::string directory;
};

// A folder beside the target that is gone at the end unless it was renamed.
class Staging {
 public:
  Staging(const fs::path& target, const std::string& suffix)
      : path_(absl::StrCat(target.string(), ".partial-", suffix)) {}
  ~Staging() { Remove(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::string& path() const { return path_; }
  void Remove() const {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

 private:
  const std::string path_;
};

absl::StatusOr<fs::path> FreeTarget(const std::string& directory) {
  std::error_code error;
  fs::path target = fs::absolute(directory, error).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  if (!fs::exists(target, error)) return target;
  if (fs::is_directory(target, error) && fs::is_empty(target, error)) {
    return target;
  }
  return base::MakeError(
      absl::StatusCode::kAlreadyExists, "DIRECTORY_NOT_EMPTY",
      absl::StrCat(directory, " is there already; nothing was written"));
}

absl::StatusOr<int> Pull(Session& session, const PullFlags& flags) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Artifact artifact,
                   client->GetArtifact(flags.artifact));
  ASSIGN_OR_RETURN(const auto files, FilesToPull(artifact));
  ASSIGN_OR_RETURN(const fs::path target, FreeTarget(flags.directory));
  const Staging staging(target, session.surroundings().ids.NewUuid());
  Interrupt::Scope scope(session.surroundings().interrupt, [&] {
    staging.Remove();
    session.Say("interrupted; nothing was left behind");
  });
  std::error_code error;
  fs::create_directories(staging.path(), error);
  if (error) return base::ErrnoStatus(error.value(), "making the folder");
  for (const v1::ArtifactFile& file : files) {
    if (session.terminal().interactive) {
      session.Say(absl::StrCat(render::Printable(file.path()), "  ",
                               render::Bytes(file.blob().size_bytes())));
    }
    RETURN_IF_ERROR(PullFile(*client, file, staging.path()));
  }
  RETURN_IF_ERROR(base::SyncDirectory(staging.path()));
  // Replaces an empty folder, and nothing else.
  if (rename(staging.path().c_str(), target.c_str()) != 0) {
    return base::ErrnoStatus(errno, "moving the folder to its name");
  }
  RETURN_IF_ERROR(base::SyncDirectory(target.parent_path().string()));
  Answer answer;
  answer.json = {{"artifact_id", artifact.artifact_id()},
                 {"directory", target.string()},
                 {"files", files.size()},
                 {"total_bytes", artifact.total_bytes()}};
  answer.names = {target.string()};
  answer.table = [&](std::ostream& out) {
    out << files.size() << " files, " << render::Bytes(artifact.total_bytes())
        << ", verified, in " << target.string() << "\n";
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddArtifactPull(CLI::App& artifact, Session& session) {
  auto flags = std::make_shared<PullFlags>();
  CLI::App* command = artifact.add_subcommand(
      "pull", "Copy an artifact's files into a new folder");
  command
      ->add_option("artifact", flags->artifact,
                   "The artifact's id, its first characters, or jobs/ID")
      ->required();
  command
      ->add_option("directory", flags->directory,
                   "The folder to make; it appears whole or not at all")
      ->required();
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return Pull(session, *flags); });
  });
}

}  // namespace quantd::commands
