// SPDX-License-Identifier: Apache-2.0
// Lines at the bottom of a terminal that are redrawn in place.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace quantd::render {

// Every redraw is one write that overwrites line by line and clears only what
// is left over, so that nothing flickers. Hides the cursor while it lives; the
// destructor removes the lines and shows the cursor. One thread at a time.
class LiveBlock {
 public:
  explicit LiveBlock(std::ostream& out);
  ~LiveBlock();
  LiveBlock(const LiveBlock&) = delete;
  LiveBlock& operator=(const LiveBlock&) = delete;

  // Lines must be narrower than the terminal.
  void Draw(const std::vector<std::string>& lines);
  // A line that stays, above the block.
  void PrintAbove(const std::string& line);
  // Removes the block and shows the cursor; nothing is drawn after it.
  void Close();

 private:
  std::ostream& out_;
  std::vector<std::string> lines_;
  bool closed_ = false;
};

}  // namespace quantd::render
