// SPDX-License-Identifier: Apache-2.0
//
// ModalFace: how functions that came by the Modal wire are started. The official client's entry point runs in
// the container; it learns what to do from ContainerArguments, and finds the client and its dependencies in
// mounts that exist for everybody.
#pragma once

#include "api/modal/convert.h"
#include "control/face.h"
#include "control/mounts.h"

namespace proa::api::modal {

// The mount that holds what the client needs in an image of this builder version, Python and C library;
// "" if the image has it itself, or no Python.
std::string dependencies_mount(const std::string& builder_version, const std::string& python_tag, bool musl);

class ModalFace final : public control::Face {
 public:
  ModalFace(control::Apps& apps, const Handles& handles, control::GlobalMounts& global) : apps_(apps), handles_(handles), global_(global) {}
  Async<Result<control::RunnerPlan>> runner(control::RunnerQuestion question) override;

 private:
  Result<pb::ContainerArguments> arguments(const control::RunnerQuestion& question) const;

  control::Apps& apps_;
  const Handles& handles_;
  control::GlobalMounts& global_;
};

}  // namespace proa::api::modal
