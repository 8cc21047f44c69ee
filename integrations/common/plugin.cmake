# bqq_plugin(<target> <symbol>...): a shared library that carries the static bqq inside and exports these symbols alone, so
# that another copy of bqq may live in the same process.
function(bqq_plugin target)
  target_link_libraries(${target} PRIVATE bqq::bqq_static)
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  target_compile_features(${target} PRIVATE cxx_std_17)
  target_compile_options(${target} PRIVATE -Wall -Wextra)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(UNIX AND NOT APPLE) # ELF: a version script says what is exported
    list(JOIN ARGN "; " names)
    set(map "${CMAKE_CURRENT_BINARY_DIR}/${target}.map")
    file(WRITE "${map}" "{ global: ${names}; local: *; };\n")
    target_link_options(${target} PRIVATE "-Wl,--version-script=${map}" -Wl,-z,nodelete -Wl,--no-undefined)
  endif()
endfunction()
