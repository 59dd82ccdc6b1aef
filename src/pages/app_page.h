// SPDX-License-Identifier: Apache-2.0
//
// AppPage: "/apps/ap-…", where clients send people who want to see their app: what runs, what waits, what it prints.
//
// Shown to who has the key that is part of the address that clients are given. The first visit puts the key into a
// cookie for this app alone and leaves it out of the address. "/apps/ap-…/live" is what the page's script asks: it
// answers as soon as there are new lines, and after some seconds anyway.
//
// On the server's loop.
#pragma once

#include <span>
#include <string>

#include "control/access.h"
#include "control/apps.h"
#include "control/calls.h"
#include "control/environments.h"
#include "control/logs.h"
#include "gateway/http.h"
#include "sched/scheduler.h"

namespace proa::pages {

class AppPage {
 public:
  struct Parts {
    Loop& loop;
    Random& random;  // Fit for keys.
    control::Access& access;
    const control::Apps& apps;
    const control::Calls& calls;
    const control::Environments& environments;
    control::Logs& logs;
    const sched::Scheduler& scheduler;
  };
  explicit AppPage(Parts parts) : parts_(parts) {}

  // The path begins with "/apps/".
  Async<Result<gateway::HttpResponse>> handle(gateway::HttpRequest request);
  // What opens the page of `app`, as its parameter "key".
  std::string view_key(AppId app) const;

 private:
  Async<Result<gateway::HttpResponse>> show(AppId app);
  Async<Result<gateway::HttpResponse>> live(AppId app, gateway::HttpRequest request);
  gateway::HttpResponse let_in(AppId app, const std::string& key, Time until,
                               const gateway::HttpRequest& request) const;
  std::string tables(const control::App& app) const;
  std::string functions_table(const control::App& app) const;
  std::string containers_table(const control::App& app) const;
  std::string calls_table(const control::App& app) const;
  std::string function_name(FunctionId function) const;
  bool busy(AppId app) const;

  Parts parts_;
};

}  // namespace proa::pages
