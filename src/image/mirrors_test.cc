// SPDX-License-Identifier: Apache-2.0
#include "image/mirrors.h"

#include <gtest/gtest.h>

#include "image/config.h"

namespace proa::image {
namespace {

constexpr std::string_view kDocument = R"({
  "format": "proa build mirrors 1",
  "apt": {"mirrors": {"debian": "http://mirror/debian", "debian-security": "http://mirror/debian-security"},
          "options": {"Acquire::Retries": "3"}},
  "pip": {"index-url": "https://mirror/simple", "trusted-host": "mirror"},
  "npm": {}, "proxy": {"https_proxy": "http://proxy:1"}, "ca_bundle": "/etc/ca.pem", "notes": ["n"]})";

std::string file_of(const MirrorSettings& settings, std::string_view name) {
  for (const StepFile& file : settings.files) {
    if (file.name == name) return file.content;
  }
  return "(none)";
}

TEST(Mirrors, BecomeVariablesAndFiles) {
  BuildMirrors mirrors = read_mirrors(kDocument).value();
  EXPECT_EQ(mirrors.ca_bundle_path, "/etc/ca.pem");
  mirrors.ca_bundle = "PEM";
  const auto settings =
      mirror_settings(mirrors, "ID=debian\nVERSION_CODENAME=bookworm\n", "URIs: http://deb.debian.org/debian\n");
  EXPECT_STREQ(find_env(settings.env, "PIP_INDEX_URL"), "https://mirror/simple");
  EXPECT_STREQ(find_env(settings.env, "UV_DEFAULT_INDEX"), "https://mirror/simple");
  EXPECT_STREQ(find_env(settings.env, "PIP_TRUSTED_HOST"), "mirror");
  EXPECT_STREQ(find_env(settings.env, "SSL_CERT_FILE"), "/__proa/ca.pem");
  EXPECT_STREQ(find_env(settings.env, "HTTPS_PROXY"), "http://proxy:1");
  EXPECT_STREQ(find_env(settings.env, "APT_CONFIG"), "/__proa/apt.conf");
  EXPECT_EQ(find_env(settings.env, "NPM_CONFIG_REGISTRY"), nullptr);
  EXPECT_EQ(file_of(settings, "ca.pem"), "PEM");
  EXPECT_EQ(
      file_of(settings, "apt.conf"),
      "Acquire::Retries \"3\";\nAcquire::https::Proxy \"http://proxy:1\";\nAcquire::https::CAInfo \"/__proa/ca.pem\";\n"
      "Dir::Etc::SourceList \"/__proa/sources.list\";\n");
  EXPECT_NE(file_of(settings, "sources.list").find("http://mirror/debian bookworm-updates main\n"), std::string::npos);
}

TEST(Mirrors, SourcesThatTheImageHasAreNotNamedAgain) {
  const BuildMirrors mirrors = read_mirrors(kDocument).value();
  EXPECT_EQ(
      file_of(mirror_settings(mirrors, "ID=debian\nVERSION_CODENAME=trixie\n", "deb http://mirror/debian trixie main"),
              "sources.list"),
      "(none)");
  EXPECT_EQ(file_of(mirror_settings(mirrors, "ID=alpine\nVERSION_CODENAME=x\n", ""), "sources.list"), "(none)");
  EXPECT_TRUE(mirror_settings(BuildMirrors{}, "ID=debian\nVERSION_CODENAME=trixie\n", "").files.empty());
  EXPECT_TRUE(mirror_settings(BuildMirrors{}, "", "").env.empty());
}

TEST(Mirrors, OtherDocumentsAreRefused) {
  EXPECT_FALSE(read_mirrors("{}").ok());
  EXPECT_FALSE(read_mirrors("[").ok());
  EXPECT_FALSE(read_mirrors("{\"format\": 1}").ok());
}

}  // namespace
}  // namespace proa::image
