// SPDX-License-Identifier: Apache-2.0
#include "api/rpc_table.h"

#include <algorithm>
#include <array>

namespace proa::api {
namespace {

constexpr std::string_view kModal = "modal.client.ModalClient";

constexpr RpcEntry yes(std::string_view name) { return {.service = kModal, .name = name, .served = Served::kYes}; }
constexpr RpcEntry partly(std::string_view name, std::string_view how) { return {.service = kModal, .name = name, .served = Served::kPartly, .note = how}; }
constexpr RpcEntry open_to_all(RpcEntry entry) {
  entry.auth = Auth::kNone;
  return entry;
}
constexpr RpcEntry once(RpcEntry entry) {
  entry.idempotent = true;
  return entry;
}
constexpr RpcEntry grows(RpcEntry entry) {
  entry.grows = true;
  return entry;
}
constexpr RpcEntry clients(RpcEntry entry) {
  entry.from = From::kClients;
  return entry;
}
constexpr RpcEntry containers(RpcEntry entry) {
  entry.from = From::kContainers;
  return entry;
}

constexpr std::array kTable = std::to_array<RpcEntry>({
    // Apps
    clients(once(grows(yes("AppCreate")))),
    clients(yes("AppGetByDeploymentName")),
    clients(yes("AppGetLayout")),
    clients(once(grows(partly("AppPublish", "without staged deployments")))),
    clients(yes("AppHeartbeat")),
    clients(yes("AppClientDisconnect")),
    grows(yes("AppGetOrCreate")),
    clients(yes("AppStop")),
    clients(yes("AppList")),
    clients(yes("AppGetLifecycle")),
    clients(yes("AppDeploymentHistory")),
    clients(once(yes("AppRollback"))),
    clients(yes("AppSetTags")),
    clients(yes("AppGetTags")),
    clients(yes("AppGetInfo")),
    clients(yes("AppGetLogs")),
    clients(yes("AppFetchLogs")),
    clients(yes("AppCountLogs")),
    // Access
    yes("ClientHello"),
    yes("AuthTokenGet"),
    clients(yes("WorkspaceNameLookup")),
    clients(open_to_all(once(yes("TokenFlowCreate")))),
    clients(open_to_all(yes("TokenFlowWait"))),
    clients(yes("TokenInfoGet")),
    clients(yes("TokenDelete")),
    // Environments and secrets
    yes("EnvironmentGetOrCreate"),
    clients(yes("EnvironmentList")),
    clients(grows(yes("EnvironmentCreate"))),
    clients(yes("EnvironmentDelete")),
    clients(yes("EnvironmentUpdate")),
    once(grows(yes("SecretGetOrCreate"))),
    clients(yes("SecretList")),
    clients(yes("SecretDelete")),
    clients(yes("SecretUpdate")),
    yes("SecretGetInfo"),
    // Mounts, blobs, images
    once(grows(yes("BlobCreate"))),
    yes("BlobGet"),
    grows(yes("MountGetOrCreate")),
    yes("MountBatchedCheckExistence"),
    grows(yes("MountPutFile")),
    grows(partly("ImageGetOrCreate", "images from a registry, functions run at build time and GPUs are not there yet")),
    yes("ImageJoinStreaming"),
    yes("ImageFromId"),
    // Functions and classes
    clients(once(grows(yes("FunctionPrecreate")))),
    clients(once(grows(partly("FunctionCreate", "without GPUs, volumes, network file systems and buckets; schedules do not fire yet")))),
    clients(once(grows(yes("ClassCreate")))),
    yes("FunctionGet"),
    yes("FunctionGetById"),
    yes("ClassGet"),
    once(grows(yes("FunctionBindParams"))),
    yes("FunctionUpdateSchedulingParams"),
    yes("FunctionGetSchedulingParams"),
    yes("FunctionGetCurrentStats"),
    // Calls
    once(grows(yes("FunctionMap"))),
    once(grows(yes("FunctionPutInputs"))),
    yes("FunctionGetOutputs"),
    once(grows(yes("FunctionRetryInputs"))),
    yes("FunctionFinishInputs"),
    yes("FunctionCallFromId"),
    yes("FunctionCallCancel"),
    yes("FunctionCallGetInfo"),
    yes("FunctionCallGetDataOut"),
    containers(yes("FunctionCallGetDataIn")),
    containers(yes("FunctionCallPutDataOut")),
    // Containers, from outside
    clients(yes("TaskList")),
    clients(yes("TaskGetInfo")),
    yes("ContainerStop"),
});

}  // namespace

std::span<const RpcEntry> rpc_table() { return kTable; }

const RpcEntry* find_rpc(std::string_view service, std::string_view name) {
  const auto found = std::find_if(kTable.begin(), kTable.end(), [&](const RpcEntry& entry) { return entry.service == service && entry.name == name; });
  return found == kTable.end() ? nullptr : &*found;
}

}  // namespace proa::api
