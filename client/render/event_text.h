// SPDX-License-Identifier: Apache-2.0
// Events as single lines, for logs and pipes.
#pragma once

#include <string>

#include "client/render/terminal.h"
#include "quantd/v1/event.pb.h"

namespace quantd::render {

// Without the time; empty for bookmarks.
std::string EventWords(const v1::Event& event);

// "quantize, block 3/6, model.layers.2.mlp.down_proj, loss 0.0123, 1,234
// tokens/s, 1.20 GB, about 34 s left"; what is not known is left out.
std::string ProgressLine(const v1::Progress& progress);

// "about 34 s left"; empty where it is not known yet.
std::string RemainingWords(double seconds);

}  // namespace quantd::render
