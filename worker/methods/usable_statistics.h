// SPDX-License-Identifier: Apache-2.0
// What every method that looks at a layer's input asks of its statistics.
#pragma once

#include <string>

#include "worker/methods/method.h"

namespace quantd::methods {

// Why the Gram matrix of the problem cannot be that of its layer; empty where
// it can. Looks at no value of it.
std::string StatisticsProblem(const LinearProblem& problem);

}  // namespace quantd::methods
