// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>

#include "client/commands/app.h"

int main(int argc, char** argv) {
  // Before the first thread: it decides who takes the signals.
  static quantd::commands::Interrupt interrupt([](int code) { _exit(code); });
  interrupt.WatchSignals();
  const auto environment = [](const std::string& name) {
    const char* value = getenv(name.c_str());
    return std::string(value == nullptr ? "" : value);
  };
  std::error_code error;
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe", error);
  return quantd::commands::Run(
      std::vector<std::string>(argv + 1, argv + argc),
      {.out = std::cout,
       .err = std::cerr,
       .terminal = quantd::render::DetectTerminal(environment),
       .environment = environment,
       .program_directory = program.parent_path().string(),
       .clock = quantd::base::Clock::Real(),
       .ids = quantd::base::IdGenerator::Real(),
       .interrupt = interrupt,
       .backoff = {}});
}
