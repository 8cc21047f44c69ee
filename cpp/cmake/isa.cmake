# One object library per instruction set, with private flags. Everything about a level stands in the first lines of its file
#
#   // isa: avx512                      the name of the file
#   // level: 20                        higher levels overwrite what lower ones filled in
#   // arch: x86_64                     or aarch64, or any
#   // over: avx2                       a level whose features this one has too
#   // cpu: avx512f,avx512bw            features dispatch.cpp asks the CPU for, all needed; on x86_64 also the -m flags
#   // flags: -ffp-contract=off         more flags of gcc and clang
#   // msvc: /arch:AVX512
#
# each where it has something to say: a new level is one new file. A file this compiler cannot build is left out. Sets
# BQQ_ISA_OBJECTS, writes isa_list.inc.
include(CheckCXXSourceCompiles)

set(BQQ_ISA_OBJECTS)
set(entries)
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
if(processor MATCHES "^(x86_64|amd64)$")
  set(arch x86_64)
elseif(processor MATCHES "^(aarch64|arm64)$")
  set(arch aarch64)
else()
  set(arch other)
endif()

file(GLOB files CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/../src/kernels/*.cpp")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${files})
# Sets <prefix>_<key> to what the first lines of kernels/<name>.cpp say.
function(bqq_read_isa prefix name)
  file(STRINGS "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../src/kernels/${name}.cpp" head LIMIT_COUNT 7 REGEX "^// [a-z]+:")
  foreach(key isa level arch over cpu flags msvc)
    set(value "")
    foreach(line IN LISTS head)
      if(line MATCHES "^// ${key}:[ ]*(.*)$")
        set(value "${CMAKE_MATCH_1}")
      endif()
    endforeach()
    set(${prefix}_${key} "${value}" PARENT_SCOPE)
  endforeach()
endfunction()

foreach(file IN LISTS files)
  get_filename_component(name "${file}" NAME_WE)
  bqq_read_isa(isa ${name})
  if(NOT isa_isa OR NOT isa_arch MATCHES "^(any|${arch})$")
    continue()
  endif()
  if(MINGW AND isa_isa STREQUAL "amx") # its tile loads take the stride in half a register
    continue()
  endif()
  set(below_over "${isa_over}")
  while(below_over)
    bqq_read_isa(below ${below_over})
    string(PREPEND isa_cpu "${below_cpu},")
  endwhile()
  if(MSVC)
    set(flags ${isa_msvc})
  else()
    separate_arguments(flags UNIX_COMMAND "${isa_flags}")
    if(isa_arch STREQUAL "x86_64")
      string(REGEX REPLACE "([^,]+),?" "-m\\1;" features "${isa_cpu}")
      list(APPEND flags ${features})
      if(MINGW) # gcc bug 54412: vectors are stored as aligned on a stack that is not
        list(APPEND flags -Wa,-muse-unaligned-vector-move)
      endif()
    endif()
    string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${flags}")
    check_cxx_source_compiles("int main() { return 0; }" BQQ_HAVE_${isa_isa})
    unset(CMAKE_REQUIRED_FLAGS)
    if(NOT BQQ_HAVE_${isa_isa})
      continue()
    endif()
    set(optimised -O3)
    if(BQQ_SANITIZE)
      set(optimised -O1) # kernels would take most of the time of a build
    endif()
    list(APPEND flags ${optimised} -fno-exceptions -fno-rtti -fno-math-errno)
  endif()
  add_library(bqq_isa_${isa_isa} OBJECT "${file}")
  bqq_common(bqq_isa_${isa_isa})
  target_include_directories(bqq_isa_${isa_isa} PRIVATE "${CMAKE_CURRENT_LIST_DIR}/../src")
  target_compile_options(bqq_isa_${isa_isa} PRIVATE ${flags})
  # Link-time optimisation would let instructions of one level leak into callers compiled for the baseline.
  set_target_properties(bqq_isa_${isa_isa} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  list(APPEND BQQ_ISA_OBJECTS $<TARGET_OBJECTS:bqq_isa_${isa_isa}>)
  math(EXPR order "1000 + ${isa_level}")
  list(APPEND entries "${order}|BQQ_ISA_ENTRY(${isa_isa}, ${isa_level}, \"${isa_cpu}\")")
endforeach()

list(SORT entries)
list(TRANSFORM entries REPLACE "^[0-9]+\\|" "")
list(JOIN entries "\n" text)
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/isa_list.inc" CONTENT "${text}\n" @ONLY)
