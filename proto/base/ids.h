// SPDX-License-Identifier: Apache-2.0
// Fresh identifiers, injected, so that tests can predict them.
#pragma once

#include <string>

namespace quantd::base {

// Thread-safe.
class IdGenerator {
 public:
  virtual ~IdGenerator() = default;
  // A random 128-bit UUID (RFC 4122, version 4), lower case.
  virtual std::string NewUuid() = 0;
  // 20 lower-case letters and digits, unique in practice, short enough to type
  // a prefix of; they sort in no particular order.
  virtual std::string NewJobId() = 0;

  // From the kernel's random source; never destroyed.
  static IdGenerator& Real();
};

}  // namespace quantd::base
