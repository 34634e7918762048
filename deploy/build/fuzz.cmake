# cmake -C deploy/build/fuzz.cmake: the libFuzzer targets of tests/fuzz, with
# clang; `ninja fuzz` builds them. Inputs come from tests/fuzz/make_seeds.py.
set(CMAKE_C_COMPILER clang-14 CACHE STRING "")
set(CMAKE_CXX_COMPILER clang++-14 CACHE STRING "")
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1" CACHE STRING "")
set(QUANTD_FUZZ ON CACHE BOOL "")
set(QUANTD_SANITIZE address,undefined,fuzzer-no-link CACHE STRING "")
