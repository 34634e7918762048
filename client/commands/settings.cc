// SPDX-License-Identifier: Apache-2.0
#include "client/commands/settings.h"

#include <filesystem>
#include <map>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/usage.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/document.h"
#include "proto/spec/nearest.h"

namespace quantd::commands {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;

struct Key {
  const char* name;
  const char* variable;
  Setting Settings::*setting;
};

constexpr Key kKeys[] = {
    {"server", "QUANTD_SERVER", &Settings::server},
    {"output", "QUANTD_OUTPUT", &Settings::output},
    {"color", "QUANTD_COLOR", &Settings::color},
    {"timeout", "QUANTD_TIMEOUT", &Settings::timeout},
};

absl::Status ConfigError(const std::string& message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "CONFIG_INVALID",
                         message);
}

absl::Status ReadSettingsFile(const std::string& path, Settings* settings) {
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path, kMaxFileBytes));
  auto document = spec::ParseDocument(text);
  if (!document.ok()) return base::AddContext(document.status(), path);
  if (document->is_null()) return absl::OkStatus();
  if (!document->is_object()) {
    return ConfigError(absl::StrCat(path, ": expected lines of key: value"));
  }
  std::vector<std::string> names;
  for (const Key& key : kKeys) names.push_back(key.name);
  for (const auto& [name, value] : document->items()) {
    const Key* found = nullptr;
    for (const Key& key : kKeys) {
      if (name == key.name) found = &key;
    }
    if (found == nullptr) {
      return ConfigError(absl::StrCat(
          path, ": no setting is called \"", name, "\"; the nearest is ",
          spec::NearestNames(name, names, 1).front()));
    }
    settings->*found->setting = {
        value.is_string() ? value.get<std::string>() : value.dump(), path};
  }
  return absl::OkStatus();
}

void ReadEnvironment(const Environment& environment, Settings* settings) {
  for (const Key& key : kKeys) {
    const std::string value = environment(key.variable);
    if (!value.empty()) settings->*key.setting = {value, key.variable};
  }
  if (!environment("NO_COLOR").empty()) {
    settings->color = {"never", "NO_COLOR"};
  }
}

void ReadFlags(const GlobalFlags& flags, Settings* settings) {
  if (flags.server) settings->server = {*flags.server, "--server"};
  if (flags.output) settings->output = {*flags.output, "--output"};
  if (flags.timeout) settings->timeout = {*flags.timeout, "--timeout"};
  if (flags.no_color) settings->color = {"never", "--no-color"};
}

absl::Status Interpret(Settings* settings) {
  static const auto* const kFormats =
      new std::map<std::string, render::OutputFormat>{
          {"table", render::OutputFormat::kTable},
          {"json", render::OutputFormat::kJson},
          {"jsonl", render::OutputFormat::kJsonLines},
          {"yaml", render::OutputFormat::kYaml},
          {"name", render::OutputFormat::kName}};
  const auto format = kFormats->find(settings->output.value);
  if (format == kFormats->end()) {
    return UsageError(
        absl::StrCat("output \"", settings->output.value, "\" (from ",
                     settings->output.source,
                     ") is not one of table, json, jsonl, yaml, name"));
  }
  settings->format = format->second;
  if (settings->color.value != "auto" && settings->color.value != "never") {
    return UsageError(absl::StrCat("color \"", settings->color.value,
                                   "\" (from ", settings->color.source,
                                   ") is neither auto nor never"));
  }
  if (settings->timeout.value.empty()) return absl::OkStatus();
  absl::Duration limit;
  double seconds = 0;
  if (absl::SimpleAtod(settings->timeout.value, &seconds)) {
    limit = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(settings->timeout.value, &limit)) {
    limit = absl::ZeroDuration();
  }
  if (limit <= absl::ZeroDuration()) {
    return UsageError(absl::StrCat("timeout \"", settings->timeout.value,
                                   "\" (from ", settings->timeout.source,
                                   ") is no time; write 30, 30s, 5m or 2h"));
  }
  settings->time_limit = limit;
  return absl::OkStatus();
}

}  // namespace

std::string SettingsFile(const Environment& environment) {
  std::string root = environment("XDG_CONFIG_HOME");
  if (root.empty()) root = environment("HOME") + "/.config";
  return root + "/quantd/qctl.yaml";
}

absl::StatusOr<Settings> LoadSettings(const GlobalFlags& flags,
                                      const Environment& environment) {
  Settings settings;
  RETURN_IF_ERROR(ReadSettingsFile(SettingsFile(environment), &settings));
  ReadEnvironment(environment, &settings);
  ReadFlags(flags, &settings);
  RETURN_IF_ERROR(Interpret(&settings));
  return settings;
}

}  // namespace quantd::commands
