# The kernels of cuda/.
#   BQQ_CUDA            AUTO: the library bqq_cuda (bqq::cuda) if there is a CUDA compiler that works; ON: it must; OFF
#   BQQ_CUDA_EMULATION  the same sources for the host emulation of tests/cuda, by g++, from headers of the toolkit alone
# Sets BQQ_CUDA_LIBRARIES: what a program that runs the kernels links, empty if there are none.
set(BQQ_CUDA AUTO CACHE STRING "GPU kernels: AUTO (if there is a CUDA compiler), ON, OFF")
set_property(CACHE BQQ_CUDA PROPERTY STRINGS AUTO ON OFF)
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
if(CMAKE_VERSION VERSION_LESS 3.18 OR MSVC)
  set(found NOTFOUND)
else()
  include(CheckLanguage)
  check_language(CUDA)
  set(found "${CMAKE_CUDA_COMPILER}")
endif()
if(NOT found)
  if(NOT BQQ_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "BQQ_CUDA is ${BQQ_CUDA}, but no CUDA compiler works here: put nvcc on PATH, or name it in "
                        "CMAKE_CUDA_COMPILER, or set BQQ_CUDA=OFF.")
  endif()
  message(STATUS "CUDA: no compiler found, the CPU only")
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 100-virtual)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# What every target with device code is compiled with.
function(bqq_cuda_common target)
  target_compile_features(${target} PUBLIC cxx_std_17 cuda_std_17)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON
                                             CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
  if(BQQ_WERROR)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
  endif()
  target_include_directories(${target} PRIVATE "${BQQ_CUDA_DIR}" "${PROJECT_SOURCE_DIR}/cpp/src"
                                               "${PROJECT_SOURCE_DIR}/cpp/include")
endfunction()

# The run-time library of CUDA is linked in, and asks for the driver when it is first used: programs start without one.
add_library(bqq_cuda STATIC ${BQQ_CUDA_SOURCES})
bqq_cuda_common(bqq_cuda)
target_link_libraries(bqq_cuda PRIVATE CUDA::cudart_static)
target_compile_definitions(bqq_cuda PRIVATE BQQ_STATIC)
add_library(bqq::cuda ALIAS bqq_cuda)
set(BQQ_CUDA_LIBRARIES bqq_cuda)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
