// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <map>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/document.h"
#include "proto/spec/nearest.h"

namespace quantd::server {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

absl::Status Invalid(absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "CONFIG_INVALID",
                         message);
}

absl::Status SetBool(const std::string& key, const std::string& text,
                     bool* out) {
  if (absl::SimpleAtob(text, out)) return absl::OkStatus();
  return Invalid(absl::StrCat(key, " takes true or false"));
}

absl::Status SetSeconds(const std::string& key, const std::string& text,
                        absl::Duration* out) {
  double seconds;
  if (!absl::SimpleAtod(text, &seconds) || !(seconds >= 1) ||
      !(seconds <= 3600)) {
    return Invalid(absl::StrCat(key, " takes 1 to 3600 seconds"));
  }
  *out = absl::Seconds(seconds);
  return absl::OkStatus();
}

absl::Status SetLevel(const std::string& key, const std::string& text,
                      std::string* out) {
  const std::vector<std::string> levels = {"trace",   "debug", "info",
                                           "warning", "error", "off"};
  for (const std::string& level : levels) {
    if (level != text) continue;
    *out = text;
    return absl::OkStatus();
  }
  return Invalid(
      absl::StrCat(key, " takes one of ", absl::StrJoin(levels, ", ")));
}

absl::Status SetText(const std::string& text, std::string* out) {
  *out = text;
  return absl::OkStatus();
}

// One row per key: in the file `key`, as a flag --key with dashes, in the
// environment QUANTD_KEY.
struct Setting {
  const char* key;
  const char* help;
  bool is_switch;
  absl::Status (*set)(const std::string& key, const std::string& text,
                      Config* config);
};

const std::vector<Setting>& Settings() {
  using Text = const std::string&;
  static const auto* settings = new std::vector<Setting>{
      {"data_dir", "where jobs, blobs and logs are kept", false,
       [](Text, Text text, Config* c) { return SetText(text, &c->data_dir); }},
      {"listen", "HOST:PORT for gRPC, on loopback", false,
       [](Text, Text text, Config* c) { return SetText(text, &c->listen); }},
      {"http_listen", "HOST:PORT for metrics and health, on loopback", false,
       [](Text, Text text, Config* c) {
         return SetText(text, &c->http_listen);
       }},
      {"port_file", "file that is written with both addresses once serving",
       false,
       [](Text, Text text, Config* c) { return SetText(text, &c->port_file); }},
      {"embedded", "start one worker on this machine", true,
       [](Text key, Text text, Config* c) {
         return SetBool(key, text, &c->embedded);
       }},
      {"device", "of the embedded worker: auto, cpu or cuda:N", false,
       [](Text, Text text, Config* c) { return SetText(text, &c->device); }},
      {"lease_ttl", "seconds of silence after which a worker is lost", false,
       [](Text key, Text text, Config* c) {
         return SetSeconds(key, text, &c->lease_ttl);
       }},
      {"log_level", "trace, debug, info, warning, error or off", false,
       [](Text key, Text text, Config* c) {
         return SetLevel(key, text, &c->log_level);
       }},
      {"reflection", "serve gRPC reflection", true,
       [](Text key, Text text, Config* c) {
         return SetBool(key, text, &c->reflection);
       }},
  };
  return *settings;
}

std::string FlagName(const std::string& key) {
  return absl::StrReplaceAll(absl::StrCat("--", key), {{"_", "-"}});
}

absl::Status ApplyFile(const std::string& path, Config* config) {
  ASSIGN_OR_RETURN(const std::string text,
                   base::ReadFile(path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(const nlohmann::json document, spec::ParseDocument(text));
  if (document.is_null()) return absl::OkStatus();
  if (!document.is_object()) {
    return Invalid("the configuration file is no list of key: value");
  }
  std::vector<std::string> keys;
  for (const Setting& setting : Settings()) keys.emplace_back(setting.key);
  for (const auto& [key, value] : document.items()) {
    const Setting* found = nullptr;
    for (const Setting& setting : Settings()) {
      if (key == setting.key) found = &setting;
    }
    if (found == nullptr || value.is_structured()) {
      return Invalid(
          absl::StrCat("the configuration file has the unknown key ", key,
                       "; the nearest are ",
                       absl::StrJoin(spec::NearestNames(key, keys), ", ")));
    }
    RETURN_IF_ERROR(found->set(
        key, value.is_string() ? value.get<std::string>() : value.dump(),
        config));
  }
  return absl::OkStatus();
}

absl::Status ApplyEnvironment(const GetEnv& get_env, Config* config) {
  for (const Setting& setting : Settings()) {
    const std::string name =
        absl::AsciiStrToUpper(absl::StrCat("QUANTD_", setting.key));
    const char* value = get_env(name);
    if (value == nullptr) continue;
    RETURN_IF_ERROR(setting.set(name, value, config));
  }
  return absl::OkStatus();
}

// The flags that were given, by key, and the file; nothing after --help.
struct Flags {
  std::map<std::string, std::string> values;
  std::string file;
};

absl::StatusOr<std::optional<Flags>> ParseFlags(int argc,
                                                const char* const* argv) {
  CLI::App app{"quantd: a job server that quantizes language models", "quantd"};
  Flags flags;
  std::map<std::string, bool> switches;
  app.add_option("--config", flags.file, "YAML file; flags go before it");
  app.set_version_flag("--version", std::string(QUANTD_VERSION));
  for (const Setting& setting : Settings()) {
    const std::string name = FlagName(setting.key);
    if (setting.is_switch) {
      app.add_flag(name, switches[setting.key], setting.help);
    } else {
      app.add_option(name, flags.values[setting.key], setting.help)
          ->take_last();
    }
  }
  // CLI11 reports by exception; none leaves this function.
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    app.exit(e);
    return std::nullopt;
  } catch (const CLI::ParseError& e) {
    return Invalid(e.what());
  }
  for (const auto& [key, on] : switches) flags.values[key] = "true";
  for (const Setting& setting : Settings()) {
    if (app.count(FlagName(setting.key)) == 0) flags.values.erase(setting.key);
  }
  return flags;
}

}  // namespace

std::string DefaultDataDir(const GetEnv& get_env) {
  const char* state = get_env("XDG_STATE_HOME");
  if (state != nullptr && *state != '\0') return absl::StrCat(state, "/quantd");
  const char* home = get_env("HOME");
  return absl::StrCat(home != nullptr ? home : "", "/.local/state/quantd");
}

absl::StatusOr<std::optional<Config>> LoadConfig(int argc,
                                                 const char* const* argv,
                                                 const GetEnv& get_env) {
  ASSIGN_OR_RETURN(std::optional<Flags> flags, ParseFlags(argc, argv));
  if (!flags) return std::nullopt;
  Config config;
  config.data_dir = DefaultDataDir(get_env);
  const char* file = get_env("QUANTD_CONFIG");
  if (flags->file.empty() && file != nullptr) flags->file = file;
  if (!flags->file.empty()) RETURN_IF_ERROR(ApplyFile(flags->file, &config));
  RETURN_IF_ERROR(ApplyEnvironment(get_env, &config));
  for (const Setting& setting : Settings()) {
    const auto value = flags->values.find(setting.key);
    if (value == flags->values.end()) continue;
    RETURN_IF_ERROR(setting.set(FlagName(setting.key), value->second, &config));
  }
  return config;
}

}  // namespace quantd::server
