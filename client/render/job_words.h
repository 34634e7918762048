// SPDX-License-Identifier: Apache-2.0
// A job in a few words, for table cells and headlines.
#pragma once

#include <string>

#include "client/render/terminal.h"
#include "quantd/v1/job.pb.h"
#include "quantd/v1/recipe.pb.h"

namespace quantd::render {

// "RUNNING".
std::string StateName(v1::JobState state);
bool IsTerminal(v1::JobState state);
Color StateColor(v1::JobState state);

// "gptq int4 g64 asym", "evaluate perplexity".
std::string MethodWords(const v1::JobSpec& spec);

// The model's last path component; artifact and job ids are shortened.
std::string ModelWord(const v1::JobSpec& spec);

// Where the job is: "quantize 3/12", "BACKOFF", "NUMERIC", or "-".
std::string ProgressWords(const v1::Job& job);

// "perplexity:protocol=gptq2048,window=512".
std::string ComponentWords(const v1::Component& component);

}  // namespace quantd::render
