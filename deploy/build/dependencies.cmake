# Imported targets for what deploy/deps installs outside Debian's packages.
# QUANTD_DEPS is the folder it unpacks into.
if(NOT DEFINED QUANTD_DEPS)
  if(DEFINED ENV{QUANTD_DEPS})
    set(QUANTD_DEPS $ENV{QUANTD_DEPS})
  else()
    set(QUANTD_DEPS $ENV{HOME}/.cache/quantd/deps)
  endif()
endif()

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(absl REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)

# LibTorch from the wheel. Its include folder carries its own fmt and protobuf,
# so it comes after every other one (-idirafter). The CUDA runtime and CUPTI are
# needed to load libtorch_cpu even where there is no GPU.
add_library(torch_cpu INTERFACE)
set(QUANTD_TORCH ${QUANTD_DEPS}/torch)
set(QUANTD_CUDA_ROOT ${QUANTD_DEPS}/cuda)
set(QUANTD_HAVE_TORCH OFF)
if(NOT QUANTD_WORKER)
  message(STATUS "QUANTD_WORKER is off: agent, server and client only.")
elseif(EXISTS ${QUANTD_TORCH}/lib/libtorch_cpu.so)
  target_compile_options(torch_cpu INTERFACE
    "SHELL:-idirafter ${QUANTD_TORCH}/include"
    "SHELL:-idirafter ${QUANTD_TORCH}/include/torch/csrc/api/include")
  target_link_options(torch_cpu INTERFACE
    -Wl,-rpath,${QUANTD_TORCH}/lib -Wl,-rpath,${QUANTD_CUDA_ROOT}/lib
    -Wl,-rpath-link,${QUANTD_TORCH}/lib -Wl,-rpath-link,${QUANTD_CUDA_ROOT}/lib)
  target_link_libraries(torch_cpu INTERFACE
    -Wl,--no-as-needed
    ${QUANTD_TORCH}/lib/libtorch_cpu.so ${QUANTD_TORCH}/lib/libc10.so
    ${QUANTD_CUDA_ROOT}/lib/libcudart.so.13 ${QUANTD_CUDA_ROOT}/lib/libcupti.so.13
    -Wl,--as-needed)
  set(QUANTD_HAVE_TORCH ON)
else()
  message(STATUS "LibTorch is not in QUANTD_DEPS: the worker is left out. Run deploy/deps/install.")
endif()

# LibTorch's threads: its at::parallel_for is a header over OpenMP, and the one
# OpenMP of the process is the libgomp that LibTorch brings.
add_library(torch_threads INTERFACE)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(torch_threads INTERFACE -fopenmp)
  target_link_libraries(torch_threads INTERFACE ${QUANTD_TORCH}/lib/libgomp.so.1)
endif()

# CUDA's own headers, for kernel source that this compiler reads too.
add_library(cuda_headers INTERFACE)
target_compile_options(cuda_headers INTERFACE "SHELL:-idirafter ${QUANTD_CUDA_ROOT}/include")

# Arrow and Parquet from the pyarrow wheel.
add_library(parquet INTERFACE)
target_compile_options(parquet INTERFACE "SHELL:-idirafter ${QUANTD_DEPS}/arrow/include")
target_link_options(parquet INTERFACE -Wl,-rpath,${QUANTD_DEPS}/arrow
  -Wl,-rpath-link,${QUANTD_DEPS}/arrow)
target_link_libraries(parquet INTERFACE ${QUANTD_DEPS}/arrow/libparquet.so.2600
  ${QUANTD_DEPS}/arrow/libarrow.so.2600)

# The Rust tokenizers library behind a C ABI (deploy/deps/tokenizers_c).
add_library(tokenizers_c STATIC IMPORTED GLOBAL)
set_target_properties(tokenizers_c PROPERTIES
  IMPORTED_LOCATION ${QUANTD_DEPS}/tokenizers/lib/libquantd_tokenizers.a
  INTERFACE_LINK_LIBRARIES "Threads::Threads;dl;m")
