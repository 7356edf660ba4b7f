# Every dependency comes from the system. A missing one stops the configuration
# with the name of the Debian package that has it.
function(rankforge_require condition what package)
  if(NOT ${condition})
    message(FATAL_ERROR "${what} not found: apt-get install ${package}")
  endif()
endfunction()

if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" OR NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  message(FATAL_ERROR "RankForge runs on 64-bit Linux, not on "
          "${CMAKE_SYSTEM_NAME} ${CMAKE_SYSTEM_PROCESSOR}")
endif()
if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND
    CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12) OR
   (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND
    CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} is of version "
          "${CMAKE_CXX_COMPILER_VERSION}: RankForge is C++20 for g++ 12 or "
          "clang 14 and later; -DCMAKE_CXX_COMPILER names another")
endif()

find_package(hwy 1.0.3 CONFIG QUIET)
rankforge_require(hwy_FOUND "Highway >= 1.0.3" libhwy-dev)
# The second backend of the kernels, on x86 alone. Its CMake target is not used:
# in 8.1 that links a library (xtl) which is not installed.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  find_package(xsimd 8.1 CONFIG QUIET)
  rankforge_require(xsimd_FOUND "xsimd >= 8.1" libxsimd-dev)
  add_library(rankforge_xsimd INTERFACE)
  target_include_directories(rankforge_xsimd SYSTEM INTERFACE
    ${xsimd_INCLUDE_DIRS})
endif()
find_package(nlohmann_json 3.11 CONFIG QUIET)
rankforge_require(nlohmann_json_FOUND "nlohmann/json >= 3.11"
                  nlohmann-json3-dev)
find_package(fmt CONFIG QUIET)
rankforge_require(fmt_FOUND "fmt" libfmt-dev)
find_package(CLI11 2.1 CONFIG QUIET)
rankforge_require(CLI11_FOUND "CLI11 >= 2.1" libcli11-dev)
find_package(PkgConfig QUIET)
rankforge_require(PkgConfig_FOUND "pkg-config" pkg-config)
foreach(entry "hwloc;hwloc;libhwloc-dev"
              "sentencepiece;sentencepiece;libsentencepiece-dev"
              "openblas;openblas;libopenblas-pthread-dev"
              "pcre2;libpcre2-8;libpcre2-dev"
              "utf8proc;libutf8proc;libutf8proc-dev")
  list(GET entry 0 name)
  list(GET entry 1 module)
  list(GET entry 2 package)
  pkg_check_modules(${name} QUIET IMPORTED_TARGET ${module})
  rankforge_require(${name}_FOUND ${module} ${package})
endforeach()
find_package(Threads REQUIRED)
if(RANKFORGE_BUILD_TESTS)
  find_package(GTest CONFIG QUIET)
  rankforge_require(GTest_FOUND "GoogleTest" libgtest-dev)
  # Debian's interpreter, for which Debian's Python packages are installed.
  find_program(RANKFORGE_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
  rankforge_require(RANKFORGE_PYTHON "Python" python3)
  set(modules jinja2 jsonschema matplotlib)
  if(RANKFORGE_BUILD_PYTHON)
    list(APPEND modules numpy pytest)  # tests/python
  endif()
  foreach(module IN LISTS modules)
    execute_process(COMMAND ${RANKFORGE_PYTHON} -c "import ${module}"
                    RESULT_VARIABLE missing OUTPUT_QUIET ERROR_QUIET)
    if(missing)
      message(FATAL_ERROR
              "${module} not found: apt-get install python3-${module}")
    endif()
  endforeach()
endif()
if(RANKFORGE_BUILD_BENCH)
  find_package(benchmark CONFIG QUIET)
  rankforge_require(benchmark_FOUND "Google Benchmark" libbenchmark-dev)
endif()
