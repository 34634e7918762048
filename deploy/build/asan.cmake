# cmake -C deploy/build/asan.cmake: AddressSanitizer and UBSan. -O1 because it
# compiles faster and keeps the frames of a report.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1" CACHE STRING "")
set(QUANTD_SANITIZE address,undefined CACHE STRING "")
