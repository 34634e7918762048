# cmake -C deploy/build/release.cmake: what is installed on servers.
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(QUANTD_CUDA ON CACHE BOOL "")
