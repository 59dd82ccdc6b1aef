// SPDX-License-Identifier: Apache-2.0
//
// ImageConfig: what an image says about how it is run; ImageRecord: all that is known of a built image.
//
// Values, stored. DO NOT CHANGE tags. Neither ever holds a secret's value, a mirror or a credential.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/codec.h"
#include "base/digest.h"

namespace proa::image {

struct ImageConfig {
  std::vector<std::string> env;  // "NAME=value", each name once, in the order they were first set.
  std::string workdir;           // Absolute, or empty.
  std::string user;              // As written: name, uid, name:group, uid:gid; empty is root.
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::vector<std::string> shell;  // Empty: /bin/sh -c.
  std::map<std::string, std::string> labels;
  std::vector<std::string> exposed_ports;  // "8000/tcp", sorted.
  std::vector<std::string> volumes;        // Sorted.
  std::string stop_signal;
  std::vector<std::string> healthcheck;  // {"NONE"}, {"CMD-SHELL", text} or {"CMD", argv…}; kept, not run.
  std::vector<std::string> onbuild;      // Run by the build that starts FROM this image.
  std::string author;

  static void fields(auto& visit, auto& self) {
    visit(1, self.env), visit(2, self.workdir), visit(3, self.user), visit(4, self.entrypoint), visit(5, self.cmd);
    visit(6, self.shell), visit(7, self.labels), visit(8, self.exposed_ports), visit(9, self.volumes);
    visit(10, self.stop_signal), visit(11, self.healthcheck), visit(12, self.onbuild), visit(13, self.author);
  }
  friend bool operator==(const ImageConfig&, const ImageConfig&) = default;
};

// The value of NAME in a list of "NAME=value", or null.
const char* find_env(const std::vector<std::string>& env, std::string_view name);
// Sets NAME in place, or appends it.
void set_env(std::vector<std::string>& env, std::string_view name, std::string_view value);

// Stored. DO NOT CHANGE.
enum class Libc : std::uint8_t { kNone = 0, kGlibc = 1, kMusl = 2 };

// What of Python and C library is in an image. Found once for each pair of interpreter and C library.
struct RuntimeInfo {
  Digest identity;                  // Of the interpreter's and the C library's files; see image/probe.h.
  std::string python_version_info;  // As `python -VV` prints it; empty without Python.
  std::string python_tag;           // "cp311", "cp313t"; empty without Python.
  Libc libc = Libc::kNone;
  std::string libc_version_info;  // First line of `ldd --version`.

  static void fields(auto& visit, auto& self) {
    visit(1, self.identity), visit(2, self.python_version_info), visit(3, self.python_tag), visit(4, self.libc);
    visit(5, self.libc_version_info);
  }
  friend bool operator==(const RuntimeInfo&, const RuntimeInfo&) = default;
};

struct ImageRecord {
  Digest tree;  // Flattened: without whiteouts or opaque directories.
  ImageConfig config;
  RuntimeInfo runtime;
  std::map<std::string, std::string> python_packages;  // Name → version, of what is installed.
  std::string builder_version;
  Time created;

  static void fields(auto& visit, auto& self) {
    visit(1, self.tree), visit(2, self.config), visit(3, self.runtime), visit(4, self.python_packages);
    visit(5, self.builder_version), visit(6, self.created);
  }
  friend bool operator==(const ImageRecord&, const ImageRecord&) = default;
};

}  // namespace proa::image
