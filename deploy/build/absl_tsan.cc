// SPDX-License-Identifier: Apache-2.0
// Shows absl::Mutex to ThreadSanitizer.
//
// Debian's Abseil is not instrumented, so what a Mutex orders looks unordered
// and every guarded field would be reported. A program of the tsan build has
// these definitions in front of the library's: they tell the sanitizer what
// happens and then call the library. gRPC locks with absl::Mutex too, so what
// it hands from thread to thread is ordered as well, and nothing needs to be
// suppressed. This file itself is compiled without instrumentation.
//
// Conditions run while the sanitizer believes the lock to be free (the library
// evaluates those of other threads when it unlocks): what they read is left
// out of the analysis, which is sound because the lock is really held.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>
#include <stdlib.h>

#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace absl {
ABSL_NAMESPACE_BEGIN
namespace {

#define QUANTD_WORD(name) #name
#define QUANTD_NAME(macro) QUANTD_WORD(macro)

// The library's own function; `rest` is its mangled name after the namespaces.
template <typename Function>
Function Library(const char* rest) {
  const std::string space = QUANTD_NAME(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      "_ZN4absl" + std::to_string(space.size()) + space + rest;
  void* address = dlsym(RTLD_NEXT, name.c_str());
  if (address == nullptr) abort();
  return reinterpret_cast<Function>(address);
}

using Plain = void (*)(Mutex*);
using Try = bool (*)(Mutex*);
using When = void (*)(Mutex*, const Condition*);
using WhenFor = bool (*)(Mutex*, const Condition*, Duration);
using WhenUntil = bool (*)(Mutex*, const Condition*, Time);

constexpr unsigned kWrite = 0;
constexpr unsigned kRead = __tsan_mutex_read_lock;

// The library's functions call each other: only the outermost call is shown.
thread_local bool inside = false;

// While the library works. Not nested.
class Unwatched {
 public:
  Unwatched() {
    inside = true;
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    inside = false;
  }
};

template <typename Call>
auto Locking(Mutex* mu, unsigned flags, Call call) {
  if (inside) return call();
  struct Scope {
    Mutex* mu;
    unsigned flags;
    ~Scope() { __tsan_mutex_post_lock(mu, flags, 0); }
  };
  __tsan_mutex_pre_lock(mu, flags);
  const Scope scope{mu, flags};
  const Unwatched unwatched;
  return call();
}

bool Trying(Mutex* mu, unsigned flags, Try call) {
  if (inside) return call(mu);
  flags |= __tsan_mutex_try_lock;
  __tsan_mutex_pre_lock(mu, flags);
  const bool got = call(mu);
  __tsan_mutex_post_lock(mu, got ? flags : flags | __tsan_mutex_try_lock_failed,
                         0);
  return got;
}

void Unlocking(Mutex* mu, unsigned flags, Plain call) {
  if (inside) return call(mu);
  __tsan_mutex_pre_unlock(mu, flags);
  {
    const Unwatched unwatched;
    call(mu);
  }
  __tsan_mutex_post_unlock(mu, flags);
}

// Waiting gives the lock away and takes it again.
template <typename Call>
auto Waiting(Mutex* mu, Call call) {
  if (inside) return call();
  __tsan_mutex_pre_unlock(mu, kWrite);
  __tsan_mutex_post_unlock(mu, kWrite);
  return Locking(mu, kWrite, call);
}

}  // namespace

// One function each; the name is the mangled one's end.
#define QUANTD_LIBRARY(type, rest) \
  static const auto library = Library<type>(rest)

Mutex::~Mutex() {
  QUANTD_LIBRARY(Plain, "5MutexD1Ev");
  library(this);
  __tsan_mutex_destroy(this, __tsan_mutex_linker_init);
}

void Mutex::Lock() {
  QUANTD_LIBRARY(Plain, "5Mutex4LockEv");
  Locking(this, kWrite, [&] { library(this); });
}
void Mutex::Unlock() {
  QUANTD_LIBRARY(Plain, "5Mutex6UnlockEv");
  Unlocking(this, kWrite, library);
}
bool Mutex::TryLock() {
  QUANTD_LIBRARY(Try, "5Mutex7TryLockEv");
  return Trying(this, kWrite, library);
}
void Mutex::ReaderLock() {
  QUANTD_LIBRARY(Plain, "5Mutex10ReaderLockEv");
  Locking(this, kRead, [&] { library(this); });
}
void Mutex::ReaderUnlock() {
  QUANTD_LIBRARY(Plain, "5Mutex12ReaderUnlockEv");
  Unlocking(this, kRead, library);
}
bool Mutex::ReaderTryLock() {
  QUANTD_LIBRARY(Try, "5Mutex13ReaderTryLockEv");
  return Trying(this, kRead, library);
}

void Mutex::LockWhen(const Condition& cond) {
  QUANTD_LIBRARY(When, "5Mutex8LockWhenERKNS0_9ConditionE");
  Locking(this, kWrite, [&] { library(this, &cond); });
}
bool Mutex::LockWhenWithTimeout(const Condition& cond, Duration timeout) {
  QUANTD_LIBRARY(WhenFor,
                 "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Locking(this, kWrite, [&] { return library(this, &cond, timeout); });
}
bool Mutex::LockWhenWithDeadline(const Condition& cond, Time deadline) {
  QUANTD_LIBRARY(WhenUntil,
                 "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Locking(this, kWrite, [&] { return library(this, &cond, deadline); });
}

void Mutex::Await(const Condition& cond) {
  QUANTD_LIBRARY(When, "5Mutex5AwaitERKNS0_9ConditionE");
  Waiting(this, [&] { library(this, &cond); });
}
bool Mutex::AwaitWithTimeout(const Condition& cond, Duration timeout) {
  QUANTD_LIBRARY(WhenFor,
                 "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Waiting(this, [&] { return library(this, &cond, timeout); });
}
bool Mutex::AwaitWithDeadline(const Condition& cond, Time deadline) {
  QUANTD_LIBRARY(WhenUntil,
                 "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Waiting(this, [&] { return library(this, &cond, deadline); });
}

void CondVar::Wait(Mutex* mu) {
  using Function = void (*)(CondVar*, Mutex*);
  QUANTD_LIBRARY(Function, "7CondVar4WaitEPNS0_5MutexE");
  Waiting(mu, [&] { library(this, mu); });
}
bool CondVar::WaitWithTimeout(Mutex* mu, Duration timeout) {
  using Function = bool (*)(CondVar*, Mutex*, Duration);
  QUANTD_LIBRARY(Function,
                 "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  return Waiting(mu, [&] { return library(this, mu, timeout); });
}
bool CondVar::WaitWithDeadline(Mutex* mu, Time deadline) {
  using Function = bool (*)(CondVar*, Mutex*, Time);
  QUANTD_LIBRARY(Function, "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  return Waiting(mu, [&] { return library(this, mu, deadline); });
}

ABSL_NAMESPACE_END
}  // namespace absl
