// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace quantd::render {

// Decimal units, three significant digits: "999 B", "1.61 MB", "14.5 GB".
std::string Bytes(int64_t bytes);

// "0.42 s", "34 s", "3 min 20 s", "2 h 5 min", "3 d 4 h".
std::string Seconds(double seconds);

// One unit, for tables: "34s", "3m", "2h", "5d"; "-" for an absent time.
std::string Age(const google::protobuf::Timestamp& since, absl::Time now);

// "1,234,567".
std::string Count(int64_t count);

// Four significant digits without trailing noise: "12.35", "1.2e-06".
std::string Number(double value);

// "+2.70%"; the sign is always there.
std::string PercentChange(double from, double to);

absl::Time ToTime(const google::protobuf::Timestamp& time);

// UTC, seconds: "2026-11-22T20:00:01Z"; "-" for an absent time.
std::string Instant(const google::protobuf::Timestamp& time);

// The first characters of an id, enough to name it to any command.
std::string ShortId(absl::string_view id);

}  // namespace quantd::render
