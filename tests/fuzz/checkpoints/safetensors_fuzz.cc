// SPDX-License-Identifier: Apache-2.0
// The safetensors header. The first two bytes say how much data follows it.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "worker/checkpoints/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const int64_t data_bytes = data[0] + 256 * data[1];
  const absl::string_view text(reinterpret_cast<const char*>(data) + 2,
                               size - 2);
  const auto header =
      quantd::checkpoints::ParseSafetensorsHeader(text, data_bytes);
  if (!header.ok()) return 0;
  // What is accepted lies within the data, every byte once.
  int64_t total = 0;
  for (const auto& [name, entry] : header->entries) {
    if (entry.begin < 0 || entry.end > data_bytes) std::abort();
    total += entry.end - entry.begin;
  }
  if (total != data_bytes) std::abort();
  return 0;
}
