# cmake -C deploy/build/fuzz.cmake: the libFuzzer targets of tests/fuzz.
set(CMAKE_C_COMPILER clang-14 CACHE STRING "")
set(CMAKE_CXX_COMPILER clang++-14 CACHE STRING "")
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(QUANTD_FUZZ ON CACHE BOOL "")
set(QUANTD_SANITIZE address,undefined CACHE STRING "")
