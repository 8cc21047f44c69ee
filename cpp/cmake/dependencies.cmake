# Finds the header libraries that the core is built with (third_party/README.md), each in this order: unpacked in
# third_party/, in the wheel of the build environment, installed, and else taken by its pin from PyPI into the build folder.
# Sets BQQ_EIGEN_INCLUDE_DIR and BQQ_JSON_INCLUDE_DIR. Each is private to one file: nothing reaches users of the library.
option(BQQ_FETCH "Take headers that are missing from PyPI, by their pins" ON)

set(bqq_third_party "${CMAKE_CURRENT_SOURCE_DIR}/third_party")
set(bqq_fetched "${CMAKE_CURRENT_BINARY_DIR}/third_party")

# The wheel of `package`, checked against its hash, into bqq_fetched. Leaves no trace if there is no network or no pip.
function(bqq_fetch package)
  if(NOT BQQ_FETCH)
    return()
  endif()
  find_package(Python3 COMPONENTS Interpreter QUIET)
  if(NOT Python3_Interpreter_FOUND)
    return()
  endif()
  file(STRINGS "${bqq_third_party}/requirements.txt" pin REGEX "^${package}==")
  file(WRITE "${bqq_fetched}/${package}.txt" "${pin}\n")
  message(STATUS "${package}: not found, asking pip")
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 15
            --no-deps --only-binary :all: --require-hashes --upgrade --target "${bqq_fetched}"
            -r "${bqq_fetched}/${package}.txt"
    RESULT_VARIABLE status
    ERROR_VARIABLE errors)
  if(NOT status EQUAL 0)
    message(STATUS "${package}: pip failed: ${errors}")
  endif()
endfunction()

# Sets `variable` to the folder below which `header` lies; `inside`: where wheels and packages have it.
function(bqq_find_headers variable name header package version unpacked)
  set(inside ${ARGN})
  set(hints "${bqq_third_party}/${unpacked}")
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
    foreach(folder IN LISTS inside)
      list(APPEND hints "${prefix}/${folder}")
    endforeach()
  endforeach()
  find_path(${variable} ${header} PATHS ${hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(${variable} ${header} PATH_SUFFIXES ${inside})
  if(NOT ${variable})
    bqq_fetch(${package})
    list(TRANSFORM inside PREPEND "${bqq_fetched}/" OUTPUT_VARIABLE fetched)
    find_path(${variable} ${header} PATHS ${fetched} NO_DEFAULT_PATH)
  endif()
  if(NOT ${variable})
    message(FATAL_ERROR "${name} ${version} or newer was not found, and pip could not get it. Either 'pip install ${package}' "
                        "and pass its site-packages folder in CMAKE_PREFIX_PATH, or install your system's package, or "
                        "unpack it into third_party/${unpacked}/ (third_party/README.md).")
  endif()
  message(STATUS "${name}: ${${variable}}")
endfunction()

# Versions as the headers define them.
function(bqq_check_version name least folder regex)
  set(found "")
  foreach(file IN LISTS ARGN)
    if(EXISTS "${folder}/${file}")
      file(STRINGS "${folder}/${file}" lines REGEX "${regex}")
      foreach(line IN LISTS lines)
        string(REGEX REPLACE "^[^0-9]*([0-9]+).*$" "\\1" number "${line}")
        string(APPEND found ".${number}")
      endforeach()
      break()
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" found "${found}")
  if(NOT found OR found VERSION_LESS least)
    message(FATAL_ERROR "${name} ${found} in ${folder} is too old, ${least} or newer is needed")
  endif()
endfunction()

bqq_find_headers(BQQ_EIGEN_INCLUDE_DIR Eigen signature_of_eigen3_matrix_library cmeel-eigen 3.4 eigen
                 cmeel.prefix/include/eigen3 include/eigen3)
bqq_check_version(Eigen 3.4 "${BQQ_EIGEN_INCLUDE_DIR}" "define EIGEN_(WORLD|MAJOR)_VERSION" Eigen/Version
                  Eigen/src/Core/util/Macros.h)
bqq_find_headers(BQQ_JSON_INCLUDE_DIR nlohmann-json nlohmann/json.hpp nlohmann-json 3.11 json nlohmann_json/include include)
bqq_check_version(nlohmann-json 3.11 "${BQQ_JSON_INCLUDE_DIR}" "define NLOHMANN_JSON_VERSION_(MAJOR|MINOR) +[0-9]"
                  nlohmann/detail/abi_macros.hpp nlohmann/json.hpp)
