// SPDX-License-Identifier: Apache-2.0
#include "image/probe.h"

#include "image/planner.h"
#include "image/tree_files.h"

namespace proa::image {
namespace {

constexpr std::size_t kAnswerBytesMax = 1024;

std::string_view name_of(std::string_view path) { return path.substr(path.rfind('/') + 1); }

const cas::TreeEntry* find_interpreter(const cas::Tree& tree, const ImageConfig& config) {
  const char* set = find_env(config.env, "PATH");
  const std::string_view path = set != nullptr ? std::string_view(set) : kDefaultPath;
  for (const std::string_view program : {"python", "python3"}) {
    for (std::size_t start = 0; start <= path.size();) {
      const auto end = std::min(path.find(':', start), path.size());
      const std::string directory = clean_path(path.substr(start, end - start));
      start = end + 1;
      const cas::TreeEntry* entry = find_through_links(tree, directory + "/" + std::string(program));
      if (entry != nullptr && entry->kind == cas::EntryKind::kFile && (entry->mode & 0111U) != 0) return entry;
    }
  }
  return nullptr;
}

const cas::TreeEntry* find_glibc(const cas::Tree& tree) {
  for (const std::string_view path :
       {"lib/x86_64-linux-gnu/libc.so.6", "lib64/libc.so.6", "usr/lib/libc.so.6", "lib/libc.so.6"}) {
    if (const cas::TreeEntry* entry = find_through_links(tree, path)) return entry;
  }
  return nullptr;
}

const cas::TreeEntry* find_musl(const cas::Tree& tree) { return find_through_links(tree, "lib/ld-musl-x86_64.so.1"); }

}  // namespace

Digest runtime_identity(const cas::Tree& tree, const ImageConfig& config) {
  const cas::TreeEntry* python = find_interpreter(tree, config);
  const cas::TreeEntry* libc = find_glibc(tree);
  if (libc == nullptr) libc = find_musl(tree);
  if (python == nullptr && libc == nullptr) return {};
  std::string all = "proa runtime 1\n";
  const auto add = [&all](const cas::TreeEntry& entry) { all += entry.path + " " + entry.content.hex() + "\n"; };
  if (libc != nullptr) add(*libc);
  if (python != nullptr) {
    add(*python);
    // The interpreter of a shared build is a few lines; its version is in the library.
    for (const cas::TreeEntry& entry : tree.entries) {
      if (entry.kind == cas::EntryKind::kFile && name_of(entry.path).starts_with("libpython3")) add(entry);
    }
  }
  return sha256(all);
}

Libc find_libc(const cas::Tree& tree) {
  if (find_glibc(tree) != nullptr) return Libc::kGlibc;
  return find_musl(tree) != nullptr ? Libc::kMusl : Libc::kNone;
}

std::map<std::string, std::string> python_packages(const cas::Tree& tree) {
  constexpr std::string_view kSuffix = ".dist-info";
  std::map<std::string, std::string> packages;
  for (const cas::TreeEntry& entry : tree.entries) {
    if (entry.kind != cas::EntryKind::kDirectory || !entry.path.ends_with(kSuffix)) continue;
    std::string_view name = name_of(entry.path);
    const std::string_view parent =
        name_of(std::string_view(entry.path).substr(0, entry.path.size() - name.size() - 1));
    if (parent != "site-packages" && parent != "dist-packages") continue;
    name.remove_suffix(kSuffix.size());
    const auto dash = name.find('-');
    if (dash == std::string_view::npos || dash == 0) continue;
    packages.emplace(name.substr(0, dash), name.substr(dash + 1));
  }
  return packages;
}

std::string_view probe_script() {
  return R"sh(p=$(command -v python || command -v python3) && {
  printf 'proa-version '; "$p" -VV 2>&1 | tr '\n' ' '; echo
  printf 'proa-tag '; "$p" -c 'import sys, sysconfig
print("cp%d%d%s" % (sys.version_info[0], sys.version_info[1], "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))'
}
printf 'proa-libc '; ldd --version 2>&1 | head -n 1
exit 0
)sh";
}

RuntimeInfo read_probe(std::string_view output) {
  RuntimeInfo info;
  while (!output.empty()) {
    const auto end = output.find('\n');
    std::string_view line = output.substr(0, end);
    output = end == std::string_view::npos ? std::string_view() : output.substr(end + 1);
    const auto blank = line.find(' ');
    if (blank == std::string_view::npos) continue;
    std::string_view answer = line.substr(blank + 1);
    while (answer.ends_with(' ') || answer.ends_with('\r')) answer.remove_suffix(1);
    answer = answer.substr(0, kAnswerBytesMax);
    line = line.substr(0, blank);
    if (line == "proa-version" && answer.starts_with("Python ")) info.python_version_info = answer;
    if (line == "proa-tag" && answer.starts_with("cp")) info.python_tag = answer;
    if (line == "proa-libc") info.libc_version_info = answer;
  }
  if (info.python_tag.empty()) info.python_version_info.clear();
  return info;
}

}  // namespace proa::image
