// SPDX-License-Identifier: Apache-2.0
//
// Recipe: how to make one image layer, as the core keeps it; and its cache key.
//
// A value without protobuf and without secrets: api/ fills it from its wire. Two recipes with the same key
// give the same image, so the key holds contents and never names that change from run to run: a context by
// its tree, secrets by their keys' names. Secret values are left out on purpose: changing a credential does
// not rebuild an image. Mirrors and debug switches are not in it either.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/digest.h"
#include "base/id.h"
#include "base/result.h"

namespace proa::image {

// A small file of the context that came with the recipe.
struct ContextFile {
  std::string name;  // "/abs/path" in the context.
  Bytes data;

  static void fields(auto& visit, auto& self) { visit(1, self.name), visit(2, self.data); }
  friend bool operator==(const ContextFile&, const ContextFile&) = default;
};

// Stored. DO NOT CHANGE.
enum class RegistryAuth : std::uint8_t { kPublic = 0, kBasic = 1, kAws = 2, kGcp = 3 };

// A function that runs once on the parent; what it leaves in the file system is the image.
struct BuildFunction {
  Bytes definition;
  Bytes globals;
  Bytes input;

  static void fields(auto& visit, auto& self) {
    visit(1, self.definition), visit(2, self.globals), visit(3, self.input);
  }
  friend bool operator==(const BuildFunction&, const BuildFunction&) = default;
};

struct Recipe {
  std::map<std::string, ImageId> parents;        // Names that FROM may use: "base" → an image that is built.
  std::vector<std::string> dockerfile_commands;  // Joined by newlines they are the Dockerfile.
  std::vector<ContextFile> context_files;
  Digest context;  // Tree of the build context; the zero digest is none.
  std::map<std::string, std::string> build_args;
  std::vector<std::string> secret_keys;  // Names only.
  RegistryAuth registry_auth = RegistryAuth::kPublic;
  std::string gpu_type;
  std::uint32_t gpu_count = 0;
  std::map<std::string, VolumeId> volumes;    // Path → volume that is there during RUN.
  std::vector<BuildFunction> build_function;  // None or one.
  std::string builder_version;

  static void fields(auto& visit, auto& self) {
    visit(1, self.parents), visit(2, self.dockerfile_commands), visit(3, self.context_files), visit(4, self.context);
    visit(5, self.build_args), visit(6, self.secret_keys), visit(7, self.registry_auth), visit(8, self.gpu_type);
    visit(9, self.gpu_count), visit(10, self.volumes), visit(11, self.build_function);
    visit(12, self.builder_version);
  }
  friend bool operator==(const Recipe&, const Recipe&) = default;
};

// The text that the recipe's commands make.
std::string dockerfile_text(const Recipe& recipe);

// The key of the image cache: the same for recipes that differ only in the order of context files or secret
// keys. DO NOT CHANGE: stored. Callers add what else separates their caches (the workspace).
Digest recipe_key(const Recipe& recipe);

}  // namespace proa::image
