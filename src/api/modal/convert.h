// SPDX-License-Identifier: Apache-2.0
//
// Functions, apps and small things between the Modal wire and the core. Translation only.
//
// A function's definition is kept as the wire's own Function message; what the core must know of it is read
// out of it here, once, when it is declared.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "api/modal/pb.h"
#include "api/router.h"
#include "base/result.h"
#include "control/apps.h"
#include "control/environments.h"
#include "control/secrets.h"
#include "sched/scheduler.h"

namespace proa::api::modal {

constexpr std::string_view kFace = "modal";  // FunctionSpec::face of what came by this wire.

// --- Functions

struct ReadFunction {
  control::FunctionSpec spec;
  std::vector<std::string> warnings;  // What was asked for and is not honoured.
};
// kInvalidArgument (what cannot be), kUnimplemented (what we do not do yet), each naming the function.
Result<ReadFunction> read_function(pb::Function function);
// A request in its other form: what all choices of GPU share at the top, and the choices in order.
Result<pb::Function> read_function_data(const pb::FunctionData& data);
// The form in which newer clients read functions.
pb::FunctionData write_function_data(const pb::Function& function);
// The Function that a spec of this face was read from.
Result<pb::Function> definition_of(const control::FunctionSpec& spec);

// What FunctionBindParams may change. Messages that change nothing are dropped, so that clients that write
// them out and clients that do not mean the same variant; "" if nothing is left.
Result<Bytes> read_options(pb::FunctionOptions options);

class ModalOptions final : public control::VariantOptions {
 public:
  Result<control::FunctionSpec> apply(const control::FunctionSpec& base, BytesView options) const override;
};

control::Autoscaling read_autoscaling(const pb::AutoscalerSettings& settings);
pb::AutoscalerSettings write_autoscaling(const control::Autoscaling& settings);

// The web address of a function or method of an app, "" if there is none.
using WebAddress =
    std::function<std::string(const control::App& app, const std::string& name, const pb::WebhookConfig& web)>;

// What clients and containers are told of functions and apps.
class Handles {
 public:
  Handles(const control::Apps& apps, const control::Environments& environments, WebAddress web_address)
      : apps_(apps), environments_(environments), web_address_(std::move(web_address)) {}

  enum class Which { kCurrent, kLatest };  // What runs, or what was declared last.

  // kNotFound if the function is unknown, or was never declared nor reserved.
  Result<pb::FunctionHandleMetadata> function(FunctionId function, Which which) const;
  // The definition as it was given, with web addresses filled in.
  Result<pb::Function> definition(FunctionId function, Which which) const;
  pb::AppLayout layout(const control::App& app) const;
  pb::AppHandleMetadata app(const control::App& app) const;
  pb::AppLifecycle lifecycle(const control::App& app) const;

 private:
  std::string web_address(const control::App* app, const std::string& name, const pb::WebhookConfig& web) const;
  template <class Source>
  void fill(pb::FunctionHandleMetadata& metadata, const Source& source, const control::App* app, bool bound) const;

  const control::Apps& apps_;
  const control::Environments& environments_;
  WebAddress web_address_;
};

// --- Who asks, and from where

// A container that names no environment means its app's.
Result<EnvironmentId> environment_of(const Caller& caller, const std::string& name,
                                     const control::Environments& environments, const control::Apps& apps,
                                     const sched::Scheduler& scheduler);
// For a person: who made something.
std::string author(const Caller& caller);
// "http://host/path" as this caller reaches us.
std::string page_url(const Caller& caller, const std::string& path);

// --- Small things

Result<control::Creation> read_creation(pb::ObjectCreationType type);
pb::AppState write_app_state(control::AppState state);
double write_time(Time time);  // 0 for none.
void write_timestamp(Time time, google::protobuf::Timestamp& out);
Time read_timestamp(const google::protobuf::Timestamp& timestamp);
Time read_seconds(double seconds);  // kNever for 0 and what is beyond.
Duration read_poll(double seconds, Duration max);
std::map<std::string, std::string> read_map(const google::protobuf::Map<std::string, std::string>& map);
Bytes serialize(const google::protobuf::MessageLite& message);  // The same bytes for equal messages.

// An id, or kNotFound naming it: what is no id names nothing.
template <class T>
Result<T> read_id(const std::string& what, const std::string& text) {
  auto id = T::parse(text);
  if (!id.ok()) return not_found(what + " '" + text.substr(0, 100) + "' not found");
  return std::move(id).value();
}
// The same where "" means none.
template <class T>
Result<T> read_optional_id(const std::string& what, const std::string& text) {
  if (text.empty()) return T();
  return read_id<T>(what, text);
}

}  // namespace proa::api::modal
