// SPDX-License-Identifier: Apache-2.0
//! The C ABI declared in worker/tokenizers/tokenizers_c.h. Every entry point
//! catches panics: unwinding into C++ is undefined.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::{ptr, slice, str};

use tokenizers::Tokenizer;

const OK: i32 = 0;
const ERROR: i32 = 1;
const NOT_UTF8: i32 = 2;
const PANICKED: i32 = 3;

/// Bytes owned by this library until `quantd_bytes_free`.
#[repr(C)]
pub struct QuantdBytes {
    data: *mut u8,
    size: usize,
}

/// Ids owned by this library until `quantd_ids_free`.
#[repr(C)]
pub struct QuantdIds {
    data: *mut u32,
    size: usize,
}

pub struct QuantdTokenizer {
    inner: Tokenizer,
}

struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    fn error(message: impl ToString) -> Self {
        Failure { code: ERROR, message: message.to_string() }
    }
}

impl From<str::Utf8Error> for Failure {
    fn from(error: str::Utf8Error) -> Self {
        Failure {
            code: NOT_UTF8,
            message: format!("byte {} is not UTF-8", error.valid_up_to()),
        }
    }
}

fn give_bytes(text: String) -> QuantdBytes {
    let bytes = text.into_bytes().into_boxed_slice();
    let size = bytes.len();
    QuantdBytes { data: Box::into_raw(bytes) as *mut u8, size }
}

unsafe fn take<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, size)
    }
}

/// Runs `body`; writes its error to `error` and returns its code.
unsafe fn guarded(
    error: *mut QuantdBytes,
    body: impl FnOnce() -> Result<(), Failure>,
) -> i32 {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(failure)) => failure,
        Err(_) => Failure {
            code: PANICKED,
            message: "the tokenizers library panicked".to_string(),
        },
    };
    if !error.is_null() {
        *error = give_bytes(failure.message);
    }
    failure.code
}

/// # Safety
/// `json` points to `size` bytes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_new(
    json: *const u8,
    size: usize,
    out: *mut *mut QuantdTokenizer,
    error: *mut QuantdBytes,
) -> i32 {
    guarded(error, || {
        let text = str::from_utf8(take(json, size))?;
        let mut inner: Tokenizer = text.parse().map_err(Failure::error)?;
        // What a file stores for training batches is not part of its ids.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Failure::error)?;
        *out = Box::into_raw(Box::new(QuantdTokenizer { inner }));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from `quantd_tokenizer_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_free(tokenizer: *mut QuantdTokenizer) {
    if !tokenizer.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            drop(Box::from_raw(tokenizer));
        }));
    }
}

/// # Safety
/// `text` points to `size` bytes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_encode(
    tokenizer: *const QuantdTokenizer,
    text: *const u8,
    size: usize,
    add_special_tokens: bool,
    out: *mut QuantdIds,
    error: *mut QuantdBytes,
) -> i32 {
    guarded(error, || {
        let text = str::from_utf8(take(text, size))?;
        let encoding = (*tokenizer)
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(Failure::error)?;
        let ids = encoding.get_ids().to_vec().into_boxed_slice();
        let count = ids.len();
        *out = QuantdIds { data: Box::into_raw(ids) as *mut u32, size: count };
        Ok(())
    })
}

/// # Safety
/// `ids` points to `size` ids; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_decode(
    tokenizer: *const QuantdTokenizer,
    ids: *const u32,
    size: usize,
    skip_special_tokens: bool,
    out: *mut QuantdBytes,
    error: *mut QuantdBytes,
) -> i32 {
    guarded(error, || {
        let text = (*tokenizer)
            .inner
            .decode(take(ids, size), skip_special_tokens)
            .map_err(Failure::error)?;
        *out = give_bytes(text);
        Ok(())
    })
}

/// The id of a token by its exact text; -1 where there is none.
///
/// # Safety
/// `token` points to `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_token_to_id(
    tokenizer: *const QuantdTokenizer,
    token: *const u8,
    size: usize,
) -> i64 {
    let found = catch_unwind(AssertUnwindSafe(|| {
        let token = str::from_utf8(take(token, size)).ok()?;
        (*tokenizer).inner.token_to_id(token)
    }));
    found.ok().flatten().map_or(-1, i64::from)
}

/// One more than the largest id, added tokens included; -1 after a panic.
///
/// # Safety
/// `tokenizer` came from `quantd_tokenizer_new`.
#[no_mangle]
pub unsafe extern "C" fn quantd_tokenizer_vocabulary_size(
    tokenizer: *const QuantdTokenizer,
) -> i64 {
    catch_unwind(AssertUnwindSafe(|| {
        let vocabulary = (*tokenizer).inner.get_vocab(true);
        vocabulary.values().max().map_or(0, |id| i64::from(*id) + 1)
    }))
    .unwrap_or(-1)
}

/// # Safety
/// `bytes` came from this library and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn quantd_bytes_free(bytes: QuantdBytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

/// # Safety
/// `ids` came from this library and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn quantd_ids_free(ids: QuantdIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}
