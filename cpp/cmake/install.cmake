# What users of the targets bqq_shared and bqq_static see: alias targets, interface properties, exported symbols and,
# with BQQ_INSTALL, the installed package. The targets and their include directories come from the caller; either may be
# missing.

include(GNUInstallDirs)

set(bqq_kinds "")
foreach(kind IN ITEMS shared static)
  if(TARGET bqq_${kind})
    list(APPEND bqq_kinds ${kind})
    target_compile_features(bqq_${kind} INTERFACE cxx_std_17)
    if(NOT TARGET bqq::bqq_${kind})
      add_library(bqq::bqq_${kind} ALIAS bqq_${kind})
    endif()
  endif()
endforeach()

if(TARGET bqq_static)
  target_compile_definitions(bqq_static INTERFACE BQQ_STATIC)
endif()

if(TARGET bqq_shared)
  include(CheckLinkerFlag)
  check_linker_flag(CXX "-Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map" BQQ_HAVE_VERSION_SCRIPT)
  if(BQQ_HAVE_VERSION_SCRIPT)
    target_link_options(bqq_shared PRIVATE "-Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map")
    set_property(TARGET bqq_shared APPEND PROPERTY LINK_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/exports.map")
  endif()
endif()

# In a build tree, as in an installed package: BQQ_USE_STATIC or the lack of a choice picks the static library.
if(NOT TARGET bqq::bqq)
  if(TARGET bqq_shared AND NOT (BQQ_USE_STATIC AND TARGET bqq_static))
    add_library(bqq::bqq ALIAS bqq_shared)
  elseif(TARGET bqq_static)
    add_library(bqq::bqq ALIAS bqq_static)
  endif()
endif()

if(NOT BQQ_INSTALL OR NOT bqq_kinds)
  return()
endif()

include(CMakePackageConfigHelpers)
set(bqq_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/bqq")

install(
  DIRECTORY "${CMAKE_CURRENT_LIST_DIR}/../include/bqq"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  COMPONENT dev
  FILES_MATCHING
  PATTERN "*.h"
  PATTERN "*.hpp")

# One export set each: a package without the static library, or a project without C++, must not trip over its
# dependencies.
foreach(kind IN LISTS bqq_kinds)
  install(
    TARGETS bqq_${kind}
    EXPORT bqq-${kind}
    RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT dev
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev
    INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(
    EXPORT bqq-${kind}
    FILE bqq-${kind}-targets.cmake
    NAMESPACE bqq::
    DESTINATION "${bqq_package_dir}"
    COMPONENT dev)
endforeach()

if(TARGET bqq_cuda AND TARGET bqq_static)
  set_target_properties(bqq_cuda PROPERTIES EXPORT_NAME cuda)
  target_link_libraries(bqq_cuda INTERFACE $<INSTALL_INTERFACE:bqq::bqq_static> $<INSTALL_INTERFACE:CUDA::cudart_static>)
  install(
    DIRECTORY "${BQQ_CUDA_DIR}/include/bqq"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
    COMPONENT dev)
  install(
    TARGETS bqq_cuda
    EXPORT bqq-cuda
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev
    INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(
    EXPORT bqq-cuda
    FILE bqq-cuda-targets.cmake
    NAMESPACE bqq::
    DESTINATION "${bqq_package_dir}"
    COMPONENT dev)
endif()

# What a program that links the static library must link as well.
set(BQQ_STATIC_NEEDS_THREADS OFF)
set(bqq_private_flags "")
if(TARGET bqq_static)
  get_target_property(bqq_links bqq_static LINK_LIBRARIES)
  if(bqq_links MATCHES "Threads::")
    set(BQQ_STATIC_NEEDS_THREADS ON)
    if(CMAKE_THREAD_LIBS_INIT)
      string(APPEND bqq_private_flags " ${CMAKE_THREAD_LIBS_INIT}")
    endif()
  endif()
  set(bqq_libraries ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
  list(REMOVE_ITEM bqq_libraries ${CMAKE_C_IMPLICIT_LINK_LIBRARIES} c gcc gcc_s)
  list(REMOVE_DUPLICATES bqq_libraries)
  foreach(library IN LISTS bqq_libraries)
    string(APPEND bqq_private_flags " -l${library}")
  endforeach()
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/bqqConfig.cmake.in"
                              "${CMAKE_CURRENT_BINARY_DIR}/bqqConfig.cmake" INSTALL_DESTINATION "${bqq_package_dir}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/bqqConfigVersion.cmake" VERSION "${PROJECT_VERSION}"
                                 COMPATIBILITY SameMinorVersion)
install(
  FILES "${CMAKE_CURRENT_BINARY_DIR}/bqqConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/bqqConfigVersion.cmake"
  DESTINATION "${bqq_package_dir}"
  COMPONENT dev)

# pkg-config knows where its file lies: paths relative to that keep the tree movable.
set(bqq_pc_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
foreach(place IN ITEMS LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${place}}")
    set(bqq_pc_${place} "${CMAKE_INSTALL_${place}}")
  else()
    set(bqq_pc_${place} "\${prefix}/${CMAKE_INSTALL_${place}}")
  endif()
endforeach()
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(bqq_pc_prefix "${CMAKE_INSTALL_PREFIX}")
else()
  file(RELATIVE_PATH bqq_up "/${bqq_pc_dir}" "/")
  string(REGEX REPLACE "/$" "" bqq_up "${bqq_up}")
  set(bqq_pc_prefix "\${pcfiledir}/${bqq_up}")
endif()
configure_file("${CMAKE_CURRENT_LIST_DIR}/bqq.pc.in" "${CMAKE_CURRENT_BINARY_DIR}/bqq.pc" @ONLY)
install(
  FILES "${CMAKE_CURRENT_BINARY_DIR}/bqq.pc"
  DESTINATION "${bqq_pc_dir}"
  COMPONENT dev)
