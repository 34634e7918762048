# cmake -C deploy/build/dev.cmake: the everyday build, and CI's.
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(QUANTD_CUDA ON CACHE BOOL "")
