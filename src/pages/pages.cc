// SPDX-License-Identifier: Apache-2.0
#include "pages/pages.h"

#include "pages/html.h"

namespace proa::pages {

Pages::Pages(Parts parts)
    : random_(parts.random),
      login_page_({parts.loop, parts.random, parts.ledger, parts.access, parts.log}),
      app_page_({parts.loop, parts.random, parts.access, parts.apps, parts.calls, parts.environments, parts.logs,
                 parts.scheduler}) {}

Async<Result<gateway::HttpResponse>> Pages::handle(gateway::HttpRequest request) {
  if (request.head.path.starts_with(kLogin)) co_return co_await login_page_.handle(std::move(request));
  if (request.head.path.starts_with(kApps)) co_return co_await app_page_.handle(std::move(request));
  co_return message_response(404, "There is no such page",
                             "This server shows logins and apps, at the addresses that its clients print.", random_);
}

}  // namespace proa::pages
