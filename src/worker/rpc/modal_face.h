// SPDX-License-Identifier: Apache-2.0
//
// ModalFace: what a worker answers itself of the Modal wire, as its container entry point speaks it.
#pragma once

#include <memory>

#include "base/log.h"
#include "worker/rpc/container_face.h"

namespace proa::worker {

std::unique_ptr<WireFace> make_modal_face(Logger& log);

}  // namespace proa::worker
