// SPDX-License-Identifier: Apache-2.0
// The Tokenizer over the static library of deploy/deps/tokenizers_c.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {

// Where `texts` names special tokens, their ids are looked up and take the
// place of the form's. INVALID_ARGUMENT, TOKENIZER_INVALID, with what the
// library says is wrong.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeHfTokenizer(
    TokenizerForm form, const SpecialTexts& texts = {});

}  // namespace quantd::tokenizers
