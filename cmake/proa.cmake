# proa_library(NAME SOURCES… DEPS…)   a room: a static library proa_NAME; its DEPS are the dependency rule
# proa_test(NAME SOURCES… DEPS…)      a GoogleTest program, registered with ctest
# proa_binary(NAME OUTPUT SOURCES… DEPS…)

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
find_package(fmt REQUIRED)

add_library(proa_options INTERFACE)
target_include_directories(proa_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(proa_options INTERFACE
  -Wall -Wextra -Wconversion -Werror -fno-strict-aliasing -fstack-protector-strong
  $<$<CXX_COMPILER_ID:Clang>:-Wshadow>
  $<$<CXX_COMPILER_ID:Clang>:-Wno-missing-designated-field-initializers>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-missing-field-initializers>)
target_compile_definitions(proa_options INTERFACE $<$<CONFIG:Release>:_FORTIFY_SOURCE=2>)
if(PROA_SANITIZE)
  target_compile_options(proa_options INTERFACE -fsanitize=${PROA_SANITIZE} -fno-sanitize-recover=undefined)
  target_link_options(proa_options INTERFACE -fsanitize=${PROA_SANITIZE})
endif()

function(proa_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(proa_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(proa_${name} PUBLIC proa_options ${ARG_DEPS})
endfunction()

function(proa_binary name)
  cmake_parse_arguments(ARG "" "OUTPUT" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE proa_options ${ARG_DEPS})
  if(ARG_OUTPUT)
    set_target_properties(${name} PROPERTIES OUTPUT_NAME ${ARG_OUTPUT})
  endif()
endfunction()

function(proa_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE proa_options ${ARG_DEPS} GTest::gtest GTest::gtest_main Threads::Threads)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()
