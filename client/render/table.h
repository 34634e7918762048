// SPDX-License-Identifier: Apache-2.0
// Aligned columns for people.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "client/render/terminal.h"

namespace quantd::render {

// Columns are two spaces apart, as wide as their widest cell; the last one is
// cut at the terminal's edge where there is a terminal, never in a pipe.
class Table {
 public:
  // With an empty `headers` no header line is printed.
  explicit Table(std::vector<std::string> headers)
      : headers_(std::move(headers)) {}

  // Cells may be painted; control characters must be gone (Printable).
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  void Print(const Terminal& terminal, std::ostream& out) const;

 private:
  std::vector<std::string> headers_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace quantd::render
