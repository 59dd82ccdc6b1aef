// SPDX-License-Identifier: Apache-2.0
//
// BuildMirrors: how the commands of a build reach package mirrors ([build.mirrors]), and what of it one image
// needs: variables, and files in kPrivatePath. Nothing of it is ever part of an image or of a cache key.
//
// The document is that of tools/images/host_settings.py ("proa build mirrors 1"; docs/operate/mirrors.md).
// Pure, any thread: whoever has files reads the CA bundle that the document names.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/step_runner.h"

namespace proa::image {

struct BuildMirrors {
  std::map<std::string, std::string> apt_mirrors;  // "debian", "debian-security" → URL.
  std::map<std::string, std::string> apt_options;
  std::map<std::string, std::string> pip;      // Long option without dashes → value.
  std::map<std::string, std::string> proxies;  // "http_proxy" → value.
  std::string npm_registry;
  std::string ca_bundle_path;  // On the host; empty for none.
  std::string ca_bundle;       // Its text: filled in by whoever read it.
  friend bool operator==(const BuildMirrors&, const BuildMirrors&) = default;
};

// kInvalidArgument unless `json` is such a document.
Result<BuildMirrors> read_mirrors(std::string_view json);

// What a command in some image gets. Variables give way to the image's own.
struct MirrorSettings {
  std::vector<std::string> env;  // "NAME=value".
  std::vector<StepFile> files;
};

// `os_release` and `apt_sources` are the image's own /etc/os-release and apt sources, empty if it has none.
// What the sources name already is not named again, since apt refuses one source with two keyrings.
MirrorSettings mirror_settings(const BuildMirrors& mirrors, std::string_view os_release, std::string_view apt_sources);

}  // namespace proa::image
