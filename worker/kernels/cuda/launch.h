// SPDX-License-Identifier: Apache-2.0
// Starts the kernels. Compiled by nvcc without ATen, called by operators.cc of
// this folder. Each returns a CUDA error as its text, empty where there is
// none.
#pragma once

#include <string>

namespace quantd::kernels {

struct ColumnsArguments;
struct RoundingArguments;
struct GramArguments;

// `stream` is a cudaStream_t. Asynchronous.
std::string LaunchColumns(const ColumnsArguments& arguments, void* stream);
std::string LaunchRounding(const RoundingArguments& arguments, void* stream);
std::string LaunchGram(const GramArguments& arguments, void* stream);

}  // namespace quantd::kernels
