// SPDX-License-Identifier: Apache-2.0
#include "api/compatibility.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>

#include "api/rpc_table.h"

namespace proa::api {
namespace {

// On the wire, but no released SDK calls them: left out on purpose.
constexpr std::array<std::string_view, 26> kNobodyCalls = {
    "AppDeploy",
    "AppGetObjects",
    "AppLookup",
    "AppSetObjects",
    "CliCommandSuggest",
    "ContainerExec",
    "ContainerExecGetOutput",
    "ContainerExecWait",
    "ContainerFilesystemExec",
    "ContainerLog",
    "ContainerReloadVolumes",
    "EnvironmentGetBudget",
    "EnvironmentGetManaged",
    "EnvironmentSetBudget",
    "EnvironmentSetDefaultMemberRole",
    "EnvironmentSetManaged",
    "FlashSetTargetSlotsMetrics",
    "FunctionAsyncInvoke",
    "FunctionBlobGet",
    "FunctionCallList",
    "FunctionGetSerialized",
    "SharedVolumeListFiles",
    "TaskCurrentInputs",
    "TemplateList",
    "UserGroupEnvironmentSet",
    "VolumeGetFile",
};
// Only used when the server offers a second address for calls, which Proa does not.
constexpr std::array<std::string_view, 6> kInputPlane = {"AttemptAwait", "AttemptRetry",   "AttemptStart",
                                                         "MapAwait",     "MapCheckInputs", "MapStartOrContinue"};

std::string_view why_not(std::string_view name) {
  if (std::find(kNobodyCalls.begin(), kNobodyCalls.end(), name) != kNobodyCalls.end()) return "no SDK calls it";
  if (std::find(kInputPlane.begin(), kInputPlane.end(), name) != kInputPlane.end()) {
    return "only for a separate input plane, which Proa does not offer";
  }
  return "not yet";
}

std::string_view callers_of(const RpcEntry& entry) {
  if (entry.auth == Auth::kNone) return "anybody";
  switch (entry.from) {
    case From::kClients: return "clients";
    case From::kContainers: return "containers";
    case From::kAnywhere: return "both";
  }
  return "";
}

}  // namespace

std::string compatibility_table(const google::protobuf::ServiceDescriptor& service) {
  std::set<std::string> names;
  for (int i = 0; i < service.method_count(); ++i) names.insert(service.method(i)->name());
  std::map<Served, int> figures;
  std::string rows;
  for (const std::string& name : names) {
    const RpcEntry* entry = find_rpc(service.full_name(), name);
    const Served served = entry == nullptr ? Served::kNo : entry->served;
    ++figures[served];
    const std::string_view state = served == Served::kYes ? "served" : served == Served::kPartly ? "partly" : "refused";
    std::string_view note = entry != nullptr ? entry->note : "";
    if (served == Served::kNo && note.empty()) note = why_not(name);
    const std::string_view callers = served == Served::kNo ? "" : callers_of(*entry);
    for (const std::string_view cell : {std::string_view(name), state, callers}) rows += "| " + std::string(cell) + " ";
    rows += "| " + std::string(note) + " |\n";
  }
  return "### " + service.full_name() + "\n\n" + std::to_string(names.size()) +
         " methods: " + std::to_string(figures[Served::kYes]) + " served, " + std::to_string(figures[Served::kPartly]) +
         " partly, " + std::to_string(figures[Served::kNo]) +
         " refused.\n\n| method | state | open to | remark |\n|---|---|---|---|\n" + rows;
}

std::vector<std::string> table_faults(const google::protobuf::DescriptorPool& pool) {
  std::vector<std::string> faults;
  std::set<std::string> seen;
  for (const RpcEntry& entry : rpc_table()) {
    const std::string name(entry.name);
    const auto* service = pool.FindServiceByName(std::string(entry.service));
    if (service == nullptr || service->FindMethodByName(name) == nullptr) {
      faults.push_back(name + " is no method of " + std::string(entry.service));
    }
    if (!seen.insert(std::string(entry.service) + "/" + name).second) faults.push_back(name + " is there twice");
    if (entry.served == Served::kPartly && entry.note.empty())
      faults.push_back(name + " does not say how it is partly served");
  }
  return faults;
}

}  // namespace proa::api
