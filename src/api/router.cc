// SPDX-License-Identifier: Apache-2.0
#include "api/router.h"

#include <google/protobuf/descriptor.h>

#include <cstdio>
#include <cstdlib>

#include "base/check.h"

namespace proa::api {
namespace {

constexpr std::string_view kModalService = "modal.client.ModalClient";

[[noreturn]] void refuse_to_start(const std::string& why) {
  std::fprintf(stderr, "proa: the table of methods is wrong: %s\n", why.c_str());
  std::abort();
}

std::string full_name(std::string_view service, std::string_view name) { return "/" + std::string(service) + "/" + std::string(name); }

}  // namespace

void Router::check(const std::string& name, const google::protobuf::Descriptor* request, const google::protobuf::Descriptor* response, Shape shape) const {
  const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(std::string(kModalService));
  const auto* method = service != nullptr ? service->FindMethodByName(name) : nullptr;
  if (method == nullptr) refuse_to_start(name + " is no method of the wire");
  if (method->input_type() != request) refuse_to_start(name + " takes " + method->input_type()->full_name() + ", not " + request->full_name());
  if (method->output_type() != response) refuse_to_start(name + " answers " + method->output_type()->full_name() + ", not " + response->full_name());
  if (method->server_streaming() != (shape == Shape::kServerStream) || method->client_streaming()) refuse_to_start(name + " streams otherwise");
}

void Router::bind(const std::string& name, Method method) {
  method.entry = find_rpc(kModalService, name);
  if (method.entry == nullptr || method.entry->served == Served::kNo) refuse_to_start(name + " has a handler, and the table says that it is not served");
  if (!methods_.emplace(full_name(kModalService, name), std::move(method)).second) refuse_to_start(name + " has two handlers");
}

void Router::check_complete() const {
  for (const RpcEntry& entry : rpc_table()) {
    if (entry.served != Served::kNo && !methods_.contains(full_name(entry.service, entry.name))) {
      refuse_to_start(std::string(entry.name) + " is said to be served, and has no handler");
    }
  }
}

Async<Result<void>> Router::handle(rpc::ServerCall& call) {
  const std::string method_name = call.method();
  for (const auto& [prefix, service] : services_) {
    if (method_name.starts_with(prefix)) co_return co_await service->handle(call);
  }
  // Anybody may make names up.
  constexpr std::size_t kNamesMax = 2000;
  constexpr std::size_t kNameBytesMax = 200;
  const bool counted = methods_.contains(method_name) || (stats_.size() < kNamesMax && method_name.size() <= kNameBytesMax);
  MethodStats& stats = stats_[counted ? method_name : "others"];
  ++stats.calls;
  const auto found = methods_.find(method_name);
  if (found == methods_.end()) {
    ++stats.failures;
    parts_.log.debug("call.unimplemented", {{"method", method_name}});
    co_return unimplemented("this server does not implement " + method_name.substr(method_name.rfind('/') + 1));
  }
  const Method& method = found->second;
  auto caller = parts_.authenticator.authenticate(call, method.entry->auth == Auth::kToken);
  if (!caller.ok()) {
    ++stats.failures;
    co_return caller.error();
  }
  if (method.entry->from == From::kContainers && caller->kind != Caller::Kind::kContainer) co_return permission_denied("only containers call " + std::string(method.entry->name));
  if (method.entry->from == From::kClients && caller->kind == Caller::Kind::kContainer) co_return permission_denied("containers may not call " + std::string(method.entry->name));
  if (method.entry->grows) PROA_CO_TRY_VOID(parts_.space.check());
  call.set_budget(budget_of(caller->identity()));
  Result<std::optional<Bytes>> request = co_await call.read(std::chrono::seconds(120));
  if (!request.ok()) co_return request.error();
  if (!request->has_value()) co_return invalid_argument("the request is missing");
  const auto warnings = caller->warnings;
  Result<void> result;
  if (method.stream) {
    result = co_await method.stream(*caller, std::move(**request), call);
  } else {
    result = co_await serve_unary(call, method, *caller, std::move(**request));
  }
  if (!result.ok()) {
    ++stats.failures;
    parts_.log.debug("call.failed", {{"method", method.entry->name}, {"code", code_name(result.error().code)}, {"message", result.error().message}});
  }
  for (const std::string& warning : *warnings) call.add_trailer("x-modal-warning", percent_encode(warning));
  co_return result;
}

std::shared_ptr<rpc::ByteBudget> Router::budget_of(const std::string& identity) {
  if (const auto found = budgets_.find(identity); found != budgets_.end()) {
    if (auto budget = found->second.lock()) return budget;
  }
  std::erase_if(budgets_, [](const auto& entry) { return entry.second.expired(); });
  auto budget = std::make_shared<rpc::ByteBudget>(parts_.loop, identity.empty() ? kNobodyBytesMax : kCallerBytesMax);
  budgets_[identity] = budget;
  return budget;
}

Async<Result<void>> Router::serve_unary(rpc::ServerCall& call, const Method& method, Caller caller, Bytes request) {
  Result<Bytes> response = method.entry->idempotent && !caller.idempotency_key.empty() ? co_await once(method, std::move(caller), std::move(request))
                                                                                       : co_await method.unary(std::move(caller), std::move(request));
  co_await parts_.gate.durable();
  if (!response.ok()) co_return response.error();
  call.write_last(std::move(*response));
  co_return Result<void>();
}

Async<Result<Bytes>> Router::once(const Method& method, Caller caller, Bytes request) {
  const std::string identity = caller.identity();
  const std::string name(method.entry->name);
  const std::string key = caller.idempotency_key;
  const std::string place = identity + "/" + name + "/" + key;
  while (true) {
    if (const Bytes* remembered = parts_.idempotency.find(identity, name, key)) co_return *remembered;
    const auto running = under_way_.find(place);
    if (running == under_way_.end()) break;
    const std::shared_ptr<Signal> signal = running->second;
    co_await signal->wait();
  }
  struct Running {
    Router* router;
    std::string place;
    std::shared_ptr<Signal> signal;
    ~Running() {
      router->under_way_.erase(place);
      signal->notify();
    }
  };
  auto signal = std::make_shared<Signal>(parts_.loop);
  under_way_.emplace(place, signal);
  const Running running{this, place, signal};
  Result<Bytes> response = co_await method.unary(std::move(caller), std::move(request));
  if (response.ok()) parts_.idempotency.remember(identity, name, key, *response);
  co_return response;
}

}  // namespace proa::api
