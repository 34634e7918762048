// SPDX-License-Identifier: Apache-2.0
#include "client/render/quantities.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quantd::render {
namespace {

constexpr int64_t kMinute = 60;
constexpr int64_t kHour = 60 * kMinute;
constexpr int64_t kDay = 24 * kHour;
constexpr size_t kShortIdLength = 10;

bool IsAbsent(const google::protobuf::Timestamp& time) {
  return time.seconds() == 0 && time.nanos() == 0;
}

}  // namespace

std::string Bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // 999.5 would print as 1000.
  while (std::abs(value) >= (unit == 0 ? 1000 : 999.5) &&
         unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  const double size = std::abs(value);
  const int decimals = unit == 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return absl::StrFormat("%.*f %s", decimals, value, kUnits[unit]);
}

std::string Seconds(double seconds) {
  if (seconds < 9.95) {
    return absl::StrFormat(seconds < 0.995 ? "%.2f s" : "%.1f s", seconds);
  }
  const int64_t whole = std::llround(seconds);
  if (whole < kMinute) return absl::StrCat(whole, " s");
  if (whole < kHour) {
    return absl::StrCat(whole / kMinute, " min ", whole % kMinute, " s");
  }
  if (whole < kDay) {
    return absl::StrCat(whole / kHour, " h ", whole % kHour / kMinute, " min");
  }
  return absl::StrCat(whole / kDay, " d ", whole % kDay / kHour, " h");
}

std::string Age(const google::protobuf::Timestamp& since, absl::Time now) {
  if (IsAbsent(since)) return "-";
  const int64_t age =
      std::max<int64_t>(0, absl::ToInt64Seconds(now - ToTime(since)));
  if (age < kMinute) return absl::StrCat(age, "s");
  if (age < kHour) return absl::StrCat(age / kMinute, "m");
  if (age < 2 * kDay) return absl::StrCat(age / kHour, "h");
  return absl::StrCat(age / kDay, "d");
}

std::string Count(int64_t count) {
  std::string digits = absl::StrCat(std::abs(count));
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<size_t>(i), 1, ',');
  }
  return absl::StrCat(count < 0 ? "-" : "", digits);
}

std::string Number(double value) { return absl::StrFormat("%.4g", value); }

std::string PercentChange(double from, double to) {
  return absl::StrFormat("%+.2f%%", 100 * (to - from) / from);
}

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) +
         absl::Nanoseconds(time.nanos());
}

std::string Instant(const google::protobuf::Timestamp& time) {
  if (IsAbsent(time)) return "-";
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", ToTime(time),
                          absl::UTCTimeZone());
}

std::string ShortId(absl::string_view id) {
  return std::string(id.substr(0, kShortIdLength));
}

}  // namespace quantd::render
