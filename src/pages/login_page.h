// SPDX-License-Identifier: Apache-2.0
//
// LoginPage: "/login/tf-…", which a client's login opens in a browser. It shows the code that the terminal shows too,
// and approves the login for whoever has a token or a one-time code; whether those are right says control::Access.
//
// A form is good for one login in the browser that was shown it, and is not taken from other sites. Wrong answers are
// counted by login and by address, in memory. On the server's loop.
#pragma once

#include <map>
#include <string>

#include "control/access.h"
#include "control/ledger.h"
#include "gateway/http.h"

namespace proa::pages {

class LoginPage {
 public:
  struct Parts {
    Loop& loop;
    Random& random;  // Fit for keys.
    control::Ledger& ledger;
    control::Access& access;
    Logger& log;
  };
  explicit LoginPage(Parts parts) : parts_(parts) {}

  // The path is "/login/" and the id of a login, or not.
  Async<Result<gateway::HttpResponse>> handle(gateway::HttpRequest request);

 private:
  struct Failures {
    int count = 0;
    Time since;
  };

  gateway::HttpResponse show(TokenFlowId login, const gateway::HttpRequest& request, int status,
                             const std::string& problem);
  Async<Result<gateway::HttpResponse>> approve(TokenFlowId login, gateway::HttpRequest request);
  bool form_is_ours(TokenFlowId login, const gateway::HttpHead& head, const std::string& stamp) const;
  bool failed_too_often(const std::string& who);
  void count_failure(const std::string& who);

  Parts parts_;
  std::map<std::string, Failures> failures_;  // By login and by address.
};

}  // namespace proa::pages
