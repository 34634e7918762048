// SPDX-License-Identifier: Apache-2.0
// A disk that fails on demand, below SQLite: the VFS that is the default while
// the object lives and hands everything on to the real one, but for the writes,
// truncations and syncs of files that a test wants refused.
#pragma once

#include <sqlite3.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

namespace quantd::store {

// One at a time. Open the databases after it and close them before it goes.
class FaultVfs {
 public:
  FaultVfs() {
    real() = sqlite3_vfs_find(nullptr);
    vfs_ = *real();
    vfs_.zName = "faulty";
    vfs_.szOsFile = static_cast<int>(sizeof(File)) + real()->szOsFile;
    vfs_.xOpen = &Open;
    sqlite3_vfs_register(&vfs_, /*makeDflt=*/1);
    Heal();
  }
  ~FaultVfs() {
    sqlite3_vfs_register(real(), 1);
    sqlite3_vfs_unregister(&vfs_);
  }
  FaultVfs(const FaultVfs&) = delete;
  FaultVfs& operator=(const FaultVfs&) = delete;

  // The `nth` write from now on (from 1), and `count` - 1 more after it, fail
  // with `code`.
  void FailWrites(int64_t nth, int64_t count, int code) {
    state().code = code;
    state().first = state().seen + nth;
    state().last = state().seen + nth + count - 1;
  }
  void Heal() { state().first = state().last = 0; }
  // Writes seen so far, failed ones included.
  int64_t writes() const { return state().seen; }
  int64_t failed() const { return state().failed; }

 private:
  struct State {
    std::atomic<int> code{SQLITE_OK};
    std::atomic<int64_t> first{0};
    std::atomic<int64_t> last{0};
    std::atomic<int64_t> seen{0};
    std::atomic<int64_t> failed{0};
  };
  // The real file lies right behind.
  struct File {
    sqlite3_file base;
    sqlite3_io_methods methods;
  };
  static State& state() {
    static State state;
    return state;
  }
  static sqlite3_vfs*& real() {
    static sqlite3_vfs* real = nullptr;
    return real;
  }
  static sqlite3_file* Below(sqlite3_file* file) {
    return reinterpret_cast<sqlite3_file*>(reinterpret_cast<File*>(file) + 1);
  }

  // What the next write answers: SQLITE_OK hands it on.
  static int Fault() {
    const int64_t number = ++state().seen;
    if (number < state().first || number > state().last) return SQLITE_OK;
    ++state().failed;
    return state().code;
  }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags,
                  int* out_flags) {
    auto* const outer = reinterpret_cast<File*>(file);
    outer->base.pMethods = nullptr;
    const int code = real()->xOpen(real(), name, Below(file), flags, out_flags);
    const sqlite3_io_methods* below = Below(file)->pMethods;
    if (below == nullptr) return code;
    outer->methods = Forwarding(below->iVersion);
    outer->base.pMethods = &outer->methods;
    return code;
  }

  static sqlite3_io_methods Forwarding(int version) {
    using F = sqlite3_file*;
    sqlite3_io_methods m = {};
    m.iVersion = version;
    m.xClose = [](F f) { return Below(f)->pMethods->xClose(Below(f)); };
    m.xRead = [](F f, void* to, int n, sqlite3_int64 at) {
      return Below(f)->pMethods->xRead(Below(f), to, n, at);
    };
    m.xWrite = [](F f, const void* from, int n, sqlite3_int64 at) {
      const int fault = Fault();
      return fault != SQLITE_OK
                 ? fault
                 : Below(f)->pMethods->xWrite(Below(f), from, n, at);
    };
    m.xTruncate = [](F f, sqlite3_int64 size) {
      const int fault = Fault();
      return fault != SQLITE_OK ? fault
                                : Below(f)->pMethods->xTruncate(Below(f), size);
    };
    m.xSync = [](F f, int flags) {
      const int fault = Fault();
      return fault != SQLITE_OK ? fault
                                : Below(f)->pMethods->xSync(Below(f), flags);
    };
    m.xFileSize = [](F f, sqlite3_int64* size) {
      return Below(f)->pMethods->xFileSize(Below(f), size);
    };
    m.xLock = [](F f, int l) { return Below(f)->pMethods->xLock(Below(f), l); };
    m.xUnlock = [](F f, int l) {
      return Below(f)->pMethods->xUnlock(Below(f), l);
    };
    m.xCheckReservedLock = [](F f, int* out) {
      return Below(f)->pMethods->xCheckReservedLock(Below(f), out);
    };
    m.xFileControl = [](F f, int op, void* arg) {
      return Below(f)->pMethods->xFileControl(Below(f), op, arg);
    };
    m.xSectorSize = [](F f) {
      return Below(f)->pMethods->xSectorSize(Below(f));
    };
    m.xDeviceCharacteristics = [](F f) {
      return Below(f)->pMethods->xDeviceCharacteristics(Below(f));
    };
    m.xShmMap = [](F f, int page, int size, int extend, void volatile** out) {
      return Below(f)->pMethods->xShmMap(Below(f), page, size, extend, out);
    };
    m.xShmLock = [](F f, int offset, int n, int flags) {
      return Below(f)->pMethods->xShmLock(Below(f), offset, n, flags);
    };
    m.xShmBarrier = [](F f) { Below(f)->pMethods->xShmBarrier(Below(f)); };
    m.xShmUnmap = [](F f, int remove) {
      return Below(f)->pMethods->xShmUnmap(Below(f), remove);
    };
    m.xFetch = [](F f, sqlite3_int64 at, int n, void** out) {
      return Below(f)->pMethods->xFetch(Below(f), at, n, out);
    };
    m.xUnfetch = [](F f, sqlite3_int64 at, void* page) {
      return Below(f)->pMethods->xUnfetch(Below(f), at, page);
    };
    return m;
  }

  sqlite3_vfs vfs_;
};

}  // namespace quantd::store
