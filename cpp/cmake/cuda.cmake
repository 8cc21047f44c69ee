# The kernels of cuda/.
#   BQQ_CUDA            AUTO: the library bqq_cuda (bqq::cuda) if there is a CUDA compiler that works; ON: it must; OFF
#   BQQ_CUDA_NATIVE     AUTO is for the GPUs of this machine only, and for nothing where there is none (default of pip)
#   BQQ_CUDA_ARCHITECTURES  for which GPUs otherwise
#   BQQ_CUDA_EMULATION  the same sources for the host emulation of tests/cuda, by g++, from headers of the toolkit alone
# Sets BQQ_CUDA_LIBRARIES: what a program that runs the kernels links, empty if there are none.
set(BQQ_CUDA AUTO CACHE STRING "GPU kernels: AUTO (if there is a CUDA compiler), ON, OFF")
set_property(CACHE BQQ_CUDA PROPERTY STRINGS AUTO ON OFF)
option(BQQ_CUDA_NATIVE "With BQQ_CUDA=AUTO, compile for the GPUs of this machine only" OFF)
option(BQQ_CUDA_EMULATION "Build the CUDA kernels for the host emulation (tests only)" OFF)

set(BQQ_CUDA_LIBRARIES "")
set(BQQ_CUDA_DIR "${PROJECT_SOURCE_DIR}/cuda")
file(GLOB BQQ_CUDA_SOURCES CONFIGURE_DEPENDS "${BQQ_CUDA_DIR}/*.cu")

if(BQQ_CUDA_EMULATION)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    message(FATAL_ERROR "BQQ_CUDA_EMULATION needs g++, this compiler is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  find_package(CUDAToolkit QUIET)
  find_path(BQQ_CUDA_INCLUDE_DIR cuda_runtime.h HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
  if(NOT BQQ_CUDA_INCLUDE_DIR OR NOT EXISTS "${BQQ_CUDA_INCLUDE_DIR}/crt/host_defines.h")
    message(FATAL_ERROR "BQQ_CUDA_EMULATION needs the headers of the CUDA toolkit: 'pip install nvidia-cuda-runtime "
                        "nvidia-cuda-crt' and pass its folder nvidia/cu13 in CMAKE_PREFIX_PATH, or install the toolkit.")
  endif()
  message(STATUS "CUDA: emulated, headers in ${BQQ_CUDA_INCLUDE_DIR}")
  set(BQQ_CUDA_LIBRARIES bqq_cuda_fast)
  return()
endif()

if(BQQ_CUDA STREQUAL "OFF" OR NOT BQQ_CUDA_SOURCES)
  return()
endif()
# Architectures of the GPUs of this machine that the kernels and the compiler support.
function(bqq_cuda_native result)
  set(found "")
  find_program(BQQ_NVIDIA_SMI nvidia-smi)
  if(BQQ_NVIDIA_SMI)
    execute_process(COMMAND "${BQQ_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE gpus ERROR_QUIET)
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]+" gpus "${gpus}")
    foreach(gpu IN LISTS gpus)
      string(REPLACE "." "" architecture "${gpu}")
      if(gpu VERSION_GREATER_EQUAL 8.0 AND known MATCHES "compute_${architecture}[^0-9]")
        list(APPEND found ${architecture}-real)
      endif()
    endforeach()
    list(REMOVE_DUPLICATES found)
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

set(missing "")
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8)
    set(missing "CUDA 11.8 or newer is needed, ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}")
  elseif(BQQ_CUDA STREQUAL "AUTO" AND BQQ_CUDA_NATIVE)
    bqq_cuda_native(native)
    if(NOT native)
      set(missing "nvidia-smi shows no GPU of compute capability 8.0 or more (BQQ_CUDA=ON is for all that can be)")
    endif()
  endif()
else()
  set(missing "no CUDA compiler works here (nvcc on PATH, or named in CMAKE_CUDA_COMPILER)")
endif()
if(missing)
  if(NOT BQQ_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "BQQ_CUDA is ${BQQ_CUDA}, but ${missing}.")
  endif()
  message(STATUS "CUDA: for the CPU only, ${missing}")
  return()
endif()

# Machine code for the data-centre GPUs since A100, PTX of the newest for what comes after.
set(architectures 80-real 90-real 90-virtual)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(architectures 80-real 90-real 100-real 100-virtual)
endif()
set(BQQ_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "GPU architectures, as CMAKE_CUDA_ARCHITECTURES")
if(native)
  set(BQQ_CUDA_ARCHITECTURES "${native}")
endif()

# What every target with device code is compiled with.
function(bqq_cuda_common target)
  target_compile_features(${target} PUBLIC cxx_std_17 cuda_std_17)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON
                                             CUDA_RUNTIME_LIBRARY Static
                                             CUDA_ARCHITECTURES "${BQQ_CUDA_ARCHITECTURES}")
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
  if(BQQ_WERROR)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
  endif()
  target_include_directories(${target} PRIVATE "${BQQ_CUDA_DIR}" "${BQQ_CUDA_DIR}/include" "${PROJECT_SOURCE_DIR}/cpp/src"
                                               "${PROJECT_SOURCE_DIR}/cpp/include")
endfunction()

# The run-time library of CUDA is linked in, and asks for the driver when it is first used: programs start without one.
# CMake adds it to whatever links this in the same build (CUDA_RUNTIME_LIBRARY).
add_library(bqq_cuda STATIC ${BQQ_CUDA_SOURCES})
bqq_cuda_common(bqq_cuda)
target_include_directories(bqq_cuda PUBLIC $<BUILD_INTERFACE:${BQQ_CUDA_DIR}/include> $<INSTALL_INTERFACE:include>)
target_compile_definitions(bqq_cuda PRIVATE BQQ_STATIC)
add_library(bqq::cuda ALIAS bqq_cuda)
set(BQQ_CUDA_LIBRARIES bqq_cuda)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} for ${BQQ_CUDA_ARCHITECTURES}")
