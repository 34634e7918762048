# cmake -C deploy/build/cuda.cmake: dev, on a machine with a GPU; the tests with
# the label gpu can run.
include(${CMAKE_CURRENT_LIST_DIR}/dev.cmake)
