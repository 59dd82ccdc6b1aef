// SPDX-License-Identifier: Apache-2.0
//
// The generated half of docs/compatibility.md: every method of a service, and whether it is served.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

namespace proa::api {

// As Markdown, with a line of figures first. Methods are in the order of their names.
std::string compatibility_table(const google::protobuf::ServiceDescriptor& service);

// What is wrong between table and wire: entries for methods that do not exist, or twice. Empty if nothing.
std::vector<std::string> table_faults(const google::protobuf::DescriptorPool& pool);

}  // namespace proa::api
