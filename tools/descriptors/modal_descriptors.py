# SPDX-License-Identifier: Apache-2.0
"""Writes the Modal wire's definitions as a FileDescriptorSet.

The pinned client's package holds them only as descriptors inside its generated modules. Run with the
interpreter of the virtual environment that has the client:

    python modal_descriptors.py OUTPUT.pb

Three enum values are renamed, since they are macros in C's <stdio.h>. Names of enum values are not on the
binary wire. The output depends on the client's version only.
"""

import importlib
import os
import sys

from google.protobuf import descriptor_pb2

MODULES = ("modal_proto.api_pb2", "modal_proto.task_command_router_pb2")
RENAMED = {"SEEK_SET": "SEEK_WHENCE_SET", "SEEK_CUR": "SEEK_WHENCE_CUR", "SEEK_END": "SEEK_WHENCE_END"}


def rename_enum_values(scope, is_file):
    for enum in scope.enum_type:
        for value in enum.value:
            value.name = RENAMED.get(value.name, value.name)
    for message in scope.message_type if is_file else scope.nested_type:
        rename_enum_values(message, is_file=False)


def collect(file, seen, out):
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        collect(dependency, seen, out)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    if not file.name.startswith("google/"):
        rename_enum_values(proto, is_file=True)
    out.file.append(proto)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: modal_descriptors.py OUTPUT.pb")
    result = descriptor_pb2.FileDescriptorSet()
    seen = set()
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            sys.exit(f"{sys.executable} has no Modal client ({error}); ./dev setup installs the pinned one")
        collect(module.DESCRIPTOR, seen, result)
    target = sys.argv[1]
    temporary = target + ".new"
    with open(temporary, "wb") as file:
        file.write(result.SerializeToString(deterministic=True))
    os.replace(temporary, target)


if __name__ == "__main__":
    main()
