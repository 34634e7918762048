// SPDX-License-Identifier: Apache-2.0
// The C ABI of deploy/deps/tokenizers_c, the static library around the Hugging
// Face tokenizers crate. Functions return a quantd_tokenizer_code; on any but
// OK they fill *error, and *out is left alone. No panic crosses this border.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum quantd_tokenizer_code {
  QUANTD_TOKENIZER_OK = 0,
  QUANTD_TOKENIZER_ERROR = 1,
  // The text handed over is not UTF-8.
  QUANTD_TOKENIZER_NOT_UTF8 = 2,
  QUANTD_TOKENIZER_PANICKED = 3,
};

// Owned by the library: give back with quantd_bytes_free, also when empty.
typedef struct quantd_bytes {
  uint8_t* data;
  size_t size;
} quantd_bytes;

// Owned by the library: give back with quantd_ids_free, also when empty.
typedef struct quantd_ids {
  uint32_t* data;
  size_t size;
} quantd_ids;

// Immutable after it is made: any thread may use it.
typedef struct quantd_tokenizer quantd_tokenizer;

// From the text of a tokenizer.json. Stored truncation and padding are ignored.
int32_t quantd_tokenizer_new(const uint8_t* json, size_t size,
                             quantd_tokenizer** out, quantd_bytes* error);
void quantd_tokenizer_free(quantd_tokenizer* tokenizer);

int32_t quantd_tokenizer_encode(const quantd_tokenizer* tokenizer,
                                const uint8_t* text, size_t size,
                                bool add_special_tokens, quantd_ids* out,
                                quantd_bytes* error);
int32_t quantd_tokenizer_decode(const quantd_tokenizer* tokenizer,
                                const uint32_t* ids, size_t size,
                                bool skip_special_tokens, quantd_bytes* out,
                                quantd_bytes* error);

// The id of a token by its exact text; -1 where there is none.
int64_t quantd_tokenizer_token_to_id(const quantd_tokenizer* tokenizer,
                                     const uint8_t* token, size_t size);
// One more than the largest id, added tokens included.
int64_t quantd_tokenizer_vocabulary_size(const quantd_tokenizer* tokenizer);

void quantd_bytes_free(quantd_bytes bytes);
void quantd_ids_free(quantd_ids ids);

#ifdef __cplusplus
}
#endif
