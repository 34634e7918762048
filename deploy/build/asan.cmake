# cmake -C deploy/build/asan.cmake: AddressSanitizer and UBSan.
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(QUANTD_SANITIZE address,undefined CACHE STRING "")
