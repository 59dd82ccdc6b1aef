// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's images: a layer is asked for by its recipe, and its build is followed. Translation only;
// see control::Images and image::Builder.
#pragma once

#include "api/modal/convert.h"
#include "control/images.h"
#include "control/mounts.h"

namespace proa::api::modal {

class ImageApi {
 public:
  ImageApi(Loop& loop, control::Images& images, control::Mounts& mounts, control::Secrets& secrets) : loop_(loop), images_(images), mounts_(mounts), secrets_(secrets) {}
  void bind(Router& router);

 private:
  Async<Result<pb::ImageGetOrCreateResponse>> get_or_create(Caller caller, pb::ImageGetOrCreateRequest request);
  Async<Result<void>> join(Caller caller, pb::ImageJoinStreamingRequest request, StreamWriter<pb::ImageJoinStreamingResponse> writer);
  Async<Result<pb::ImageFromIdResponse>> from_id(Caller caller, pb::ImageFromIdRequest request);
  Result<control::ImageRequest> read_request(pb::ImageGetOrCreateRequest request) const;

  Loop& loop_;
  control::Images& images_;
  control::Mounts& mounts_;
  control::Secrets& secrets_;
};

}  // namespace proa::api::modal
