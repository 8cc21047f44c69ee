# Finds the Eigen headers (pinned in third_party/README.md), in this order: third_party/eigen/ if someone unpacked them there, the
# cmeel-eigen wheel of the build environment, an installed Eigen 3.4 or newer. Sets BQQ_EIGEN_INCLUDE_DIR.
# Eigen is header-only and private to linalg.cpp: nothing of it reaches users of the library.
set(hints "${CMAKE_CURRENT_SOURCE_DIR}/third_party/eigen")
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND hints "${prefix}/cmeel.prefix/include/eigen3" "${prefix}/include/eigen3")
endforeach()
find_path(BQQ_EIGEN_INCLUDE_DIR signature_of_eigen3_matrix_library HINTS ${hints} PATH_SUFFIXES eigen3 include/eigen3)
if(NOT BQQ_EIGEN_INCLUDE_DIR)
  message(FATAL_ERROR "Eigen 3.4 or newer was not found. Either 'pip install cmeel-eigen' and pass its site-packages folder in "
                      "CMAKE_PREFIX_PATH, or install your system's Eigen (Debian: libeigen3-dev), or unpack Eigen 3.4.1 "
                      "into third_party/eigen/.")
endif()
set(eigen_version_file "${BQQ_EIGEN_INCLUDE_DIR}/Eigen/src/Core/util/Macros.h")
if(EXISTS "${BQQ_EIGEN_INCLUDE_DIR}/Eigen/Version")
  set(eigen_version_file "${BQQ_EIGEN_INCLUDE_DIR}/Eigen/Version")
endif()
file(STRINGS "${eigen_version_file}" eigen_defines REGEX "define EIGEN_(WORLD|MAJOR|MINOR)_VERSION")
string(REGEX REPLACE "[^0-9]*([0-9]+)[^0-9]*" "\\1;" eigen_version "${eigen_defines}")
list(GET eigen_version 0 eigen_world)
list(GET eigen_version 1 eigen_major)
if("${eigen_world}.${eigen_major}" VERSION_LESS 3.4)
  message(FATAL_ERROR "Eigen ${eigen_world}.${eigen_major} in ${BQQ_EIGEN_INCLUDE_DIR} is too old, 3.4 or newer is needed")
endif()
message(STATUS "Eigen: ${BQQ_EIGEN_INCLUDE_DIR}")
