// SPDX-License-Identifier: Apache-2.0
//
// What Python and C library an image has. What the tree itself tells is read from it; the rest is asked of the
// interpreter, in a container, once for each pair of interpreter and C library.
//
// Pure, any thread. Foreign files and output: bounded, and nothing in them can fail a build.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cas/tree.h"
#include "image/config.h"

namespace proa::image {

// What changes when the answers of the probe may change: contents of the interpreter that PATH finds, its shared
// library and the C library. The zero digest if the image has neither.
Digest runtime_identity(const cas::Tree& tree, const ImageConfig& config);

// Which C library is there, from the tree alone.
Libc find_libc(const cas::Tree& tree);

// Name → version of what has a .dist-info directory in a site-packages or dist-packages directory.
std::map<std::string, std::string> python_packages(const cas::Tree& tree);

// A script for /bin/sh, and what its output says. Fields without an answer stay empty.
std::string_view probe_script();
RuntimeInfo read_probe(std::string_view output);

}  // namespace proa::image
