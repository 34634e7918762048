# cmake -C deploy/build/tsan.cmake: ThreadSanitizer. Run with
# TSAN_OPTIONS=ignore_noninstrumented_modules=1: gRPC's own library is not
# instrumented, and a suppression of its name would hide races in our handlers.
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(QUANTD_SANITIZE thread CACHE STRING "")
