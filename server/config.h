// SPDX-License-Identifier: Apache-2.0
// What a server is told at its start: file < environment < flag. Every key is
// explained in deploy/config/quantd.yaml.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quantd::server {

struct Config {
  std::string data_dir;
  std::string listen = "127.0.0.1:7433";
  std::string http_listen = "127.0.0.1:7434";
  // Empty: none is written.
  std::string port_file;
  bool embedded = false;
  // Of the embedded worker: auto, cpu or cuda:N.
  std::string device = "auto";
  absl::Duration lease_ttl = absl::Seconds(30);
  std::string log_level = "info";
  bool reflection = false;
};

// Null where a variable is not set.
using GetEnv = std::function<const char*(const std::string&)>;

// Nothing where --help or --version was asked for and has been printed.
// INVALID_ARGUMENT, CONFIG_INVALID, for an unknown key (with the nearest ones)
// or a value that does not fit.
absl::StatusOr<std::optional<Config>> LoadConfig(int argc,
                                                 const char* const* argv,
                                                 const GetEnv& get_env);

// $XDG_STATE_HOME/quantd, else ~/.local/state/quantd.
std::string DefaultDataDir(const GetEnv& get_env);

}  // namespace quantd::server
