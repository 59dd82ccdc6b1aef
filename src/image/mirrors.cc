// SPDX-License-Identifier: Apache-2.0
#include "image/mirrors.h"

#include <nlohmann/json.hpp>

namespace proa::image {
namespace {

constexpr std::string_view kFormat = "proa build mirrors 1";

using Json = nlohmann::json;

std::map<std::string, std::string> strings_of(const Json& json, const char* name) {
  std::map<std::string, std::string> out;
  const auto found = json.find(name);
  if (found == json.end() || !found->is_object()) return out;
  for (const auto& [key, value] : found->items()) {
    if (value.is_string()) out[key] = value.get<std::string>();
  }
  return out;
}

std::string string_of(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string get(const std::map<std::string, std::string>& from, const std::string& name) {
  const auto found = from.find(name);
  return found == from.end() ? std::string() : found->second;
}

std::string upper(std::string text) {
  for (char& c : text) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    if (c == '-') c = '_';
  }
  return text;
}

// VERSION_CODENAME of a Debian, else empty.
std::string debian_codename(std::string_view os_release) {
  std::string id;
  std::string codename;
  while (!os_release.empty()) {
    const auto end = os_release.find('\n');
    std::string_view line = os_release.substr(0, end);
    os_release = end == std::string_view::npos ? std::string_view() : os_release.substr(end + 1);
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    std::string_view value = line.substr(equals + 1);
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    if (line.substr(0, equals) == "ID") id = value;
    if (line.substr(0, equals) == "VERSION_CODENAME") codename = value;
  }
  const bool plain = codename.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos;
  return id == "debian" && plain ? codename : std::string();
}

std::string apt_sources_of(const BuildMirrors& mirrors, const std::string& codename) {
  constexpr std::string_view kDeb = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ";
  const std::string debian = get(mirrors.apt_mirrors, "debian");
  const std::string security = get(mirrors.apt_mirrors, "debian-security");
  std::string text;
  const auto add = [&](const std::string& url, const std::string& suite) {
    text += std::string(kDeb) + url + " " + suite + " main\n";
  };
  add(debian, codename);
  add(debian, codename + "-updates");
  if (!security.empty()) add(security, codename + "-security");
  return text;
}

}  // namespace

Result<BuildMirrors> read_mirrors(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || string_of(json, "format") != kFormat) {
    return invalid_argument("the build mirrors are not a document of the form '" + std::string(kFormat) + "'");
  }
  BuildMirrors mirrors;
  if (const auto apt = json.find("apt"); apt != json.end() && apt->is_object()) {
    mirrors.apt_mirrors = strings_of(*apt, "mirrors");
    mirrors.apt_options = strings_of(*apt, "options");
  }
  mirrors.pip = strings_of(json, "pip");
  mirrors.proxies = strings_of(json, "proxy");
  if (const auto npm = json.find("npm"); npm != json.end() && npm->is_object()) {
    mirrors.npm_registry = string_of(*npm, "registry");
  }
  mirrors.ca_bundle_path = string_of(json, "ca_bundle");
  return mirrors;
}

MirrorSettings mirror_settings(const BuildMirrors& mirrors, std::string_view os_release, std::string_view apt_sources) {
  MirrorSettings settings;
  const std::string directory(kPrivatePath);
  const auto set = [&settings](const std::string& name, const std::string& value) {
    if (!value.empty()) settings.env.push_back(name + "=" + value);
  };
  std::string apt;
  for (const auto& [name, value] : mirrors.apt_options) apt += name + " \"" + value + "\";\n";
  for (const std::string scheme : {"http", "https"}) {
    const std::string name = "Acquire::" + scheme + "::Proxy";
    const std::string proxy = get(mirrors.proxies, scheme + "_proxy");
    if (!proxy.empty() && !mirrors.apt_options.contains(name)) apt += name + " \"" + proxy + "\";\n";
  }
  if (!mirrors.ca_bundle.empty()) {
    settings.files.push_back({"ca.pem", mirrors.ca_bundle});
    for (const char* name : {"SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
                             "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE"}) {
      set(name, directory + "/ca.pem");
    }
    apt += "Acquire::https::CAInfo \"" + directory + "/ca.pem\";\n";
  }
  const std::string codename = debian_codename(os_release);
  const std::string debian = get(mirrors.apt_mirrors, "debian");
  if (!codename.empty() && !debian.empty() && apt_sources.find(debian) == std::string_view::npos) {
    settings.files.push_back({"sources.list", apt_sources_of(mirrors, codename)});
    // Takes the place of /etc/apt/sources.list only: what a user adds in sources.list.d stays in use.
    apt += "Dir::Etc::SourceList \"" + directory + "/sources.list\";\n";
  }
  if (!apt.empty()) {
    settings.files.push_back({"apt.conf", apt});
    set("APT_CONFIG", directory + "/apt.conf");
  }
  for (const auto& [name, value] : mirrors.pip) set("PIP_" + upper(name), value);
  set("UV_DEFAULT_INDEX", get(mirrors.pip, "index-url"));
  set("UV_INDEX", get(mirrors.pip, "extra-index-url"));
  set("UV_HTTP_TIMEOUT", get(mirrors.pip, "timeout"));
  set("NPM_CONFIG_REGISTRY", mirrors.npm_registry);
  for (const auto& [name, value] : mirrors.proxies) {
    set(name, value);
    set(upper(name), value);
  }
  return settings;
}

}  // namespace proa::image
