// SPDX-License-Identifier: Apache-2.0
#include "api/compatibility.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "modal_proto/api.pb.h"
#include "modal_proto/task_command_router.pb.h"

namespace proa::api {
namespace {

constexpr std::string_view kGeneratedBelow = "<!-- generated below -->\n";

const google::protobuf::ServiceDescriptor& service(const std::string& name) {
  // A mention of both files, or the linker leaves them out.
  (void)modal::client::AppCreateRequest::descriptor();
  (void)modal::task_command_router::TaskExecStartRequest::descriptor();
  const auto* found = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
  EXPECT_NE(found, nullptr) << name;
  return *found;
}

TEST(RpcTable, NamesMethodsOfTheWireAndEachOnce) {
  (void)service("modal.client.ModalClient");
  EXPECT_EQ(table_faults(*google::protobuf::DescriptorPool::generated_pool()), std::vector<std::string>());
}

TEST(RpcTable, TheWireIsTheOneWeWereMadeFor) {
  EXPECT_EQ(service("modal.client.ModalClient").method_count(), 285);
  EXPECT_EQ(service("modal.task_command_router.TaskCommandRouter").method_count(), 23);
}

TEST(RpcTable, TheCompatibilityPageSaysWhatTheTableSays) {
  const std::string path = PROA_SOURCE_DIR "/docs/compatibility.md";
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  const std::string page = text.str();
  const std::string written = page.substr(0, page.find(kGeneratedBelow));
  const std::string wanted = written + std::string(kGeneratedBelow) + "\n" +
                             compatibility_table(service("modal.client.ModalClient")) + "\n" +
                             compatibility_table(service("modal.task_command_router.TaskCommandRouter"));
  if (std::getenv("PROA_WRITE") != nullptr) {
    std::ofstream(path) << wanted;
    return;
  }
  EXPECT_TRUE(page == wanted) << "docs/compatibility.md is stale: run this test with PROA_WRITE=1";
}

}  // namespace
}  // namespace proa::api
