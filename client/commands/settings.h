// SPDX-License-Identifier: Apache-2.0
// What every command obeys, and where each value comes from: defaults, the file
// $XDG_CONFIG_HOME/quantd/qctl.yaml, the environment, flags; the later wins.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/render/json.h"

namespace quantd::commands {

using Environment = std::function<std::string(const std::string&)>;

// A value as text and the place it was read from.
struct Setting {
  std::string value;
  std::string source = "default";
};

// What was given on the command line.
struct GlobalFlags {
  std::optional<std::string> server;
  std::optional<std::string> output;
  std::optional<std::string> timeout;
  bool no_color = false;
  bool local = false;
};

struct Settings {
  Setting server{.value = "127.0.0.1:7433"};
  // table, json, jsonl, yaml or name.
  Setting output{.value = "table"};
  // auto or never.
  Setting color{.value = "auto"};
  // Seconds, or a number with a unit: "30s", "5m". Empty: 10 s for a call, no
  // limit for watch and wait.
  Setting timeout;

  render::OutputFormat format = render::OutputFormat::kTable;
  std::optional<absl::Duration> time_limit;
};

// The file that is read where it exists.
std::string SettingsFile(const Environment& environment);

// INVALID_ARGUMENT, CONFIG_INVALID or USAGE_INVALID, for unknown keys and
// values out of range, naming the place they come from.
absl::StatusOr<Settings> LoadSettings(const GlobalFlags& flags,
                                      const Environment& environment);

}  // namespace quantd::commands
