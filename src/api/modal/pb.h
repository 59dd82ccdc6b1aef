// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's messages, generated at build time from the pinned client's descriptors. They are large:
// this header is precompiled for the room, and included nowhere else.
#pragma once

#include <google/protobuf/empty.pb.h>

#include "modal_proto/api.pb.h"

namespace proa::api::modal {
namespace pb = ::modal::client;
}
