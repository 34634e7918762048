// SPDX-License-Identifier: Apache-2.0
#include "client/render/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd::render {
namespace {

void PrintRow(const std::vector<std::string>& cells,
              const std::vector<int>& widths, const Terminal& terminal,
              std::ostream& out) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    absl::StrAppend(&line, cells[i]);
    if (i + 1 == cells.size()) break;
    const int padding = widths[i] + 2 - DisplayWidth(cells[i]);
    line.append(static_cast<size_t>(padding), ' ');
  }
  // An empty last cell must not leave spaces at the end.
  line.erase(line.find_last_not_of(' ') + 1);
  out << (terminal.interactive ? Truncate(line, terminal.width()) : line)
      << "\n";
}

}  // namespace

void Table::AddRow(std::vector<std::string> cells) {
  rows_.push_back(std::move(cells));
}

void Table::Print(const Terminal& terminal, std::ostream& out) const {
  std::vector<int> widths(headers_.size(), 0);
  const auto widen = [&](const std::vector<std::string>& cells) {
    widths.resize(std::max(widths.size(), cells.size()), 0);
    for (size_t i = 0; i < cells.size(); ++i) {
      widths[i] = std::max(widths[i], DisplayWidth(cells[i]));
    }
  };
  widen(headers_);
  for (const auto& row : rows_) widen(row);
  if (!headers_.empty()) PrintRow(headers_, widths, terminal, out);
  for (const auto& row : rows_) PrintRow(row, widths, terminal, out);
}

}  // namespace quantd::render
