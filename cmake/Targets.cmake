# One CMake target per folder: code that includes against the direction of the
# data flow does not link.

# What every target of the project is compiled with. No -march: kernels choose
# their instruction set at run time.
add_library(rankforge_flags INTERFACE)
target_compile_features(rankforge_flags INTERFACE cxx_std_20)
target_include_directories(rankforge_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(rankforge_flags INTERFACE
  -Wall -Wextra -fvisibility=hidden -ffp-contract=off
  # The checks of the list of variants take more steps than clang's default.
  $<$<CXX_COMPILER_ID:Clang>:-fconstexpr-steps=16777216>
  $<$<BOOL:${RANKFORGE_WERROR}>:-Werror>)
# What RANKFORGE_DEFAULT_VARIANTS leaves out, each under a name of its own
# (meta/build.h): variants, targets, unrolled loops, and the tests of plug-ins
# (tests/CMakeLists.txt).
set(RANKFORGE_ONE_TARGET ${RANKFORGE_DEFAULT_VARIANTS})
if(RANKFORGE_DEFAULT_VARIANTS)
  set(RANKFORGE_TEST_FORGE OFF)
  target_compile_definitions(rankforge_flags INTERFACE
    RANKFORGE_FEW_VARIANTS RANKFORGE_ONE_TARGET RANKFORGE_ROLLED_LOOPS)
else()
  set(RANKFORGE_TEST_FORGE ON)
endif()
if(RANKFORGE_SANITIZER)
  target_compile_options(rankforge_flags INTERFACE
    -fsanitize=${RANKFORGE_SANITIZER} -fno-sanitize-recover=all
    -fno-omit-frame-pointer
    # The address sanitizer finds the same when it happens. With them, code that
    # is mostly SIMD takes 1.5 times as long to compile.
    -fno-sanitize=null,object-size,vptr,return
    # g++ 12 sees uninitialized values in instrumented code of its own library
    # (std::regex); its manual warns of it.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(rankforge_flags INTERFACE
    -fsanitize=${RANKFORGE_SANITIZER})
endif()

# For code that is mostly templates of other libraries (CLI11, JSON, GoogleTest)
# and nowhere hot. It takes most of the build. -O1 compiles it in two thirds of
# the time, and -O0, for instrumented code, in half of that.
if(RANKFORGE_SANITIZER)
  set(RANKFORGE_COLD_CODE -O0)
else()
  set(RANKFORGE_COLD_CODE -O1)
endif()

# rankforge_parsers(LIBRARY SOURCES...): sources of that library that are mostly
# JSON. They are cold, and compiled as one file: JSON's templates in each of them
# would take a sixth of a build.
function(rankforge_parsers library)
  add_library(${library}_parsers OBJECT ${ARGN})
  target_link_libraries(${library}_parsers PRIVATE
    $<TARGET_PROPERTY:${library},LINK_LIBRARIES>)
  target_compile_options(${library}_parsers PRIVATE ${RANKFORGE_COLD_CODE})
  set_target_properties(${library}_parsers PROPERTIES
    POSITION_INDEPENDENT_CODE ON UNITY_BUILD ${RANKFORGE_UNITY_BUILD}
    UNITY_BUILD_BATCH_SIZE 0)
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:${library}_parsers>)
endfunction()

# rankforge_library(NAME SOURCES... [LINK targets...]). Its code goes into shared
# libraries, too (capi/CMakeLists.txt).
function(rankforge_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK;PRIVATE_LINK")
  add_library(${name} STATIC ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(${name} PUBLIC rankforge_flags ${arg_LINK}
                        PRIVATE ${arg_PRIVATE_LINK})
endfunction()

# rankforge_test(NAME SOURCES... [LINK targets...]). Tests share the precompiled
# header of rankforge_testing (tests/CMakeLists.txt): without it, GoogleTest and
# the standard library take four of the five seconds of compiling a small test.
function(rankforge_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE rankforge_flags ${arg_LINK}
                        GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    RANKFORGE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  # Where the standard library comes precompiled, g++ 12 warns that concatenated
  # strings leave their bounds (its bug 105329).
  target_compile_options(${name} PRIVATE ${RANKFORGE_COLD_CODE}
    "$<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-stringop-overflow>")
  target_precompile_headers(${name} REUSE_FROM rankforge_testing)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES
    ENVIRONMENT "${RANKFORGE_TEST_ENVIRONMENT}")
endfunction()
