# cmake -C deploy/build/tsan.cmake: ThreadSanitizer over server, agent, client and
# contract. Run with TSAN_OPTIONS=ignore_noninstrumented_modules=1, as tests/run
# does: gRPC's own library is not instrumented, and a suppression of its name
# would hide races in our handlers. absl_tsan.cc and grpc_tsan.cc show what
# Abseil, not instrumented either, and gRPC order. LibTorch cannot take part:
# OpenMP's barriers would be invisible.
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(QUANTD_SANITIZE thread CACHE STRING "")
set(QUANTD_WORKER OFF CACHE BOOL "")
