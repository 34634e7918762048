// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/source_model.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/exports/export.h"
#include "worker/exports/simulation_config.h"

namespace quantd::pipeline {
namespace {

namespace fs = std::filesystem;

bool StaysInside(const std::string& name) {
  for (absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

}  // namespace

bool SourceModel::quantized() const {
  for (const char* key : {"quantization_config", exports::kSimulationKey}) {
    const auto found = reader->config().find(key);
    if (found != reader->config().end() && !found->is_null()) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<tokenizers::Tokenizer>>
SourceModel::MakeTokenizer() const {
  return tokenizers::LoadTokenizer(reader->companions(), reader->metadata());
}

absl::StatusOr<SourceModel> OpenSource(const std::string& path,
                                       at::Device device) {
  SourceModel source;
  ASSIGN_OR_RETURN(source.reader, checkpoints::OpenCheckpoint(path));
  RETURN_IF_ERROR(MakeModelOf(&source, device));
  return source;
}

absl::Status MakeModelOf(SourceModel* source, at::Device device) {
  source->model.reset();
  ASSIGN_OR_RETURN(source->loader,
                   exports::MakeLoader(*source->reader, device));
  if (source->edits != nullptr) {
    source->loader = models::WithRotatedInputs(
        std::move(source->loader), source->edits->input_rotations());
  }
  ASSIGN_OR_RETURN(source->model,
                   models::MakeModel(*source->reader, *source->loader, device));
  return absl::OkStatus();
}

absl::Status MakeEditable(SourceModel* source, at::Device device) {
  source->model.reset();
  source->loader.reset();
  auto edited =
      std::make_unique<transforms::EditedReader>(std::move(source->reader));
  source->edits = edited.get();
  source->reader = std::move(edited);
  return MakeModelOf(source, device);
}

absl::Status LinkFiles(const std::map<std::string, std::string>& files,
                       const std::string& directory) {
  for (const auto& [name, file] : files) {
    if (!StaysInside(name)) {
      return base::MakeError(absl::StatusCode::kInvalidArgument,
                             "ARTIFACT_PATH_INVALID",
                             "a file of the artifact has a name that leaves "
                             "the artifact's folder");
    }
    const fs::path link = fs::path(directory) / name;
    std::error_code error;
    fs::create_directories(link.parent_path(), error);
    if (!error) fs::create_symlink(fs::absolute(file), link, error);
    if (error) return base::ErrnoStatus(error.value(), "linking a checkpoint");
  }
  return absl::OkStatus();
}

}  // namespace quantd::pipeline
