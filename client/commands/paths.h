// SPDX-License-Identifier: Apache-2.0
// Names of models and data as the worker must see them.
#pragma once

#include <string>

namespace quantd::commands {

// A relative path becomes absolute; an alias ("smollm2"), a reference
// ("artifacts/<id>", "jobs/<id>") or a URL stays as it is. What exists here, or
// contains a slash, is a path.
std::string ModelForServer(const std::string& model);

// The same for text data; a bare word that is no file here is a known name
// ("bundled") unless it has a file's ending.
std::string DataForServer(const std::string& data);

}  // namespace quantd::commands
