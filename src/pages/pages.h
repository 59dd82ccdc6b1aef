// SPDX-License-Identifier: Apache-2.0
//
// Pages: what the server shows in a browser, each as a whole answer: logins and apps.
//
// How requests come here and answers go out is the gateway's business. On the server's loop; an answer that waits
// (for an app's next lines) does so for some seconds at most.
#pragma once

#include "pages/app_page.h"
#include "pages/login_page.h"

namespace proa::pages {

class Pages {
 public:
  struct Parts {
    Loop& loop;
    Random& random;  // Fit for keys.
    control::Ledger& ledger;
    control::Access& access;
    const control::Apps& apps;
    const control::Calls& calls;
    const control::Environments& environments;
    control::Logs& logs;
    const sched::Scheduler& scheduler;
    Logger& log;
  };
  explicit Pages(Parts parts);

  // The prefixes of the paths that are answered here.
  static constexpr const char* kLogin = "/login/";
  static constexpr const char* kApps = "/apps/";

  // Any request; a path that is none of ours is answered with 404.
  Async<Result<gateway::HttpResponse>> handle(gateway::HttpRequest request);
  // What opens the page of `app`: "/apps/ID?key=" and this.
  std::string view_key(AppId app) const { return app_page_.view_key(app); }

 private:
  Random& random_;
  LoginPage login_page_;
  AppPage app_page_;
};

}  // namespace proa::pages
