# Rules for protobuf. Two sources of definitions:
#
#   proa_proto(NAME FILES…)   our own wires: FILES below proto/ → library proa_NAME_pb, headers as <proa/…/x.pb.h>
#   proa_modal_pb             the Modal wire → <modal_proto/api.pb.h>, <modal_proto/task_command_router.pb.h>; its
#                             definitions are taken from the pinned client in PROA_VENV (tools/descriptors) and are
#                             not committed. Not there with PROA_MODAL_API=OFF.
#
# Messages only: services are served as bytes by src/rpc, so no gRPC plugin and no *.grpc.pb.h. Only src/api and
# src/worker/rpc include what is generated here; a target with many such sources says
#   target_precompile_headers(TARGET PRIVATE <modal_proto/api.pb.h>)

pkg_check_modules(PROTOBUF REQUIRED IMPORTED_TARGET protobuf)
find_program(PROA_PROTOC protoc REQUIRED)

# Others' code: as SYSTEM for those who include it, without our warnings and sanitizers, and -O1 in every preset,
# since it is the slowest thing to compile and is not where time goes at run time.
function(proa_generated_library name include_dir)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} SYSTEM PUBLIC ${include_dir})
  target_compile_options(${name} PRIVATE -w -O1 -g0 -Wno-deprecated-declarations)
  target_link_libraries(${name} PUBLIC PkgConfig::PROTOBUF)
endfunction()

function(proa_proto name)
  set(out ${CMAKE_BINARY_DIR}/gen/proto)
  file(MAKE_DIRECTORY ${out})
  set(sources)
  foreach(file ${ARGN})
    string(REGEX REPLACE "\\.proto$" "" base ${file})
    add_custom_command(
      OUTPUT ${out}/${base}.pb.cc ${out}/${base}.pb.h
      COMMAND ${PROA_PROTOC} -I ${CMAKE_SOURCE_DIR}/proto --cpp_out=${out} ${file}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${file}
      COMMENT "protoc ${file}" VERBATIM)
    list(APPEND sources ${out}/${base}.pb.cc ${out}/${base}.pb.h)
  endforeach()
  proa_generated_library(proa_${name}_pb ${out} ${sources})
endfunction()

if(PROA_MODAL_API)
  set(modal_out ${CMAKE_BINARY_DIR}/gen/modal)
  set(modal_descriptors ${modal_out}/modal_descriptors.pb)
  set(modal_script ${CMAKE_SOURCE_DIR}/tools/descriptors/modal_descriptors.py)
  file(MAKE_DIRECTORY ${modal_out})
  # Depends on the client's package too, so that another pinned version is noticed.
  file(GLOB modal_package CONFIGURE_DEPENDS ${PROA_VENV}/lib/python3*/site-packages/modal_proto/*_pb2.py)
  if(NOT modal_package)
    message(FATAL_ERROR "${PROA_VENV} has no Modal client, whose package holds the definitions of its wire. "
                        "Run ./dev setup, or configure with -DPROA_VENV=DIR or -DPROA_MODAL_API=OFF.")
  endif()
  add_custom_command(
    OUTPUT ${modal_descriptors}
    COMMAND ${PROA_VENV}/bin/python ${modal_script} ${modal_descriptors}
    DEPENDS ${modal_script} ${modal_package}
    COMMENT "Definitions of the Modal wire from the pinned client" VERBATIM)
  set(modal_sources)
  foreach(base modal_proto/api modal_proto/task_command_router)
    add_custom_command(
      OUTPUT ${modal_out}/${base}.pb.cc ${modal_out}/${base}.pb.h
      COMMAND ${PROA_PROTOC} --descriptor_set_in=${modal_descriptors} --cpp_out=${modal_out} ${base}.proto
      DEPENDS ${modal_descriptors}
      COMMENT "protoc ${base}.proto" VERBATIM)
    list(APPEND modal_sources ${modal_out}/${base}.pb.cc ${modal_out}/${base}.pb.h)
  endforeach()
  proa_generated_library(proa_modal_pb ${modal_out} ${modal_sources})
endif()
