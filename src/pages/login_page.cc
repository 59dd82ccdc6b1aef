// SPDX-License-Identifier: Apache-2.0
#include "pages/login_page.h"

#include <algorithm>
#include <cctype>

#include "pages/html.h"

namespace proa::pages {
namespace {

using gateway::HttpHead;
using gateway::HttpRequest;
using gateway::HttpResponse;

constexpr std::string_view kPath = "/login/";
constexpr std::string_view kCookie = "proa_login";
constexpr Duration kFormLife = std::chrono::minutes(15);
constexpr std::size_t kFormBytesMax = 16 << 10;
constexpr std::size_t kBrowserBytes = 18;  // 24 characters, without padding.
constexpr int kFailuresMax = 10;           // Then no answer is looked at until kFailuresKept after the first.
constexpr Duration kFailuresKept = std::chrono::minutes(10);
constexpr std::size_t kFailuresKnownMax = 4096;

std::string address_of(const HttpRequest& request) {
  return request.connection.address.substr(0, request.connection.address.rfind(':'));
}

// Names the browser, for the time of a login. Whatever else is in the cookie is not ours.
std::string browser_of(const HttpHead& head) {
  const std::string text = head.cookie(kCookie).value_or("");
  const bool good = text.size() == kBrowserBytes / 3 * 4 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_';
                    });
  return good ? text : "";
}

std::string form_identity(TokenFlowId login, const std::string& browser) { return login.text() + " " + browser; }

// What browsers say of where a form came from; others say nothing, and have no user to be misled.
bool from_this_site(const HttpHead& head) {
  if (const auto site = head.field("sec-fetch-site"); site && *site != "same-origin" && *site != "none") return false;
  const auto origin = head.field("origin");
  if (!origin) return true;
  const auto slashes = origin->find("://");
  return slashes != std::string_view::npos && origin->substr(slashes + 3) == head.field("host").value_or("");
}

std::string value_of(const std::vector<std::pair<std::string, std::string>>& form, std::string_view name) {
  for (const auto& [key, value] : form) {
    if (key == name) return value;
  }
  return "";
}

std::string trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return std::string(text);
}

int status_of(Code code) {
  switch (code) {
    case Code::kUnauthenticated: return 401;
    case Code::kNotFound: return 404;
    case Code::kFailedPrecondition: return 409;
    case Code::kResourceExhausted: return 429;
    default: return 500;
  }
}

}  // namespace

Async<Result<HttpResponse>> LoginPage::handle(HttpRequest request) {
  const auto login = TokenFlowId::parse(request.head.path.substr(std::min(kPath.size(), request.head.path.size())));
  if (!login.ok() || !parts_.access.login_code_shown(*login)) {
    co_return message_response(404, "This login is not under way",
                               "It was approved already, or it is too old: a login is open for ten minutes. Begin "
                               "again in the terminal, with `modal token new`.",
                               parts_.random);
  }
  if (request.head.method == "POST") co_return co_await approve(*login, std::move(request));
  if (request.head.method == "GET") co_return show(*login, request, 200, "");
  HttpResponse refused{405, {{"Allow", "GET, POST"}}, ""};
  co_return refused;
}

HttpResponse LoginPage::show(TokenFlowId login, const HttpRequest& request, int status, const std::string& problem) {
  std::string browser = browser_of(request.head);
  if (browser.empty()) browser = to_base64url(parts_.random.bytes(kBrowserBytes));
  const std::string stamp = parts_.access.stamp(control::kPurposeLoginForm, form_identity(login, browser), kFormLife);
  const std::string begin = "<form method=\"post\" autocomplete=\"off\"><input type=\"hidden\" name=\"form\" value=\"" +
                            escape(stamp) + "\">";
  std::string body = "<h1>Log in to Proa</h1><p>A client asks for a token of the workspace <b>" +
                     escape(parts_.access.workspace().name) + "</b>. Its terminal shows this code:</p>";
  body += "<p class=\"code\" id=\"code\">" + escape(parts_.access.login_code_shown(login).value_or("")) + "</p>";
  body +=
      "<p class=\"soft\">If yours shows another one, or you began no login, close this page: somebody else would get "
      "the token.</p>";
  if (!problem.empty()) body += "<p class=\"bad\" id=\"problem\" role=\"alert\">" + escape(problem) + "</p>";
  body += begin +
          "<label>One-time code, from <code>proa login-code</code> on the server's machine<input name=\"code\" "
          "maxlength=\"40\" autofocus placeholder=\"XXXX-XXXX-XXXX\"></label><button>Approve</button></form>";
  body += "<details><summary>With a token that you have already</summary>" + begin +
          "<label>Token id<input name=\"token_id\" maxlength=\"100\" placeholder=\"ak-…\"></label><label>Token "
          "secret<input name=\"token_secret\" type=\"password\" maxlength=\"100\" placeholder=\"as-…\"></label>"
          "<button>Approve</button></form></details>";
  HttpResponse response =
      page_response({.status = status, .title = "Log in to Proa", .body = std::move(body)}, parts_.random);
  response.fields.emplace_back("Set-Cookie", std::string(kCookie) + "=" + browser + "; Path=" + std::string(kPath) +
                                                 login.text() + "; HttpOnly; SameSite=Strict; Max-Age=900" +
                                                 (request.connection.secure ? "; Secure" : ""));
  if (status == 429) response.fields.emplace_back("Retry-After", "600");
  return response;
}

bool LoginPage::form_is_ours(TokenFlowId login, const HttpHead& head, const std::string& stamp) const {
  const std::string browser = browser_of(head);
  return !browser.empty() &&
         parts_.access.check_stamp(stamp, control::kPurposeLoginForm, form_identity(login, browser)).ok();
}

Async<Result<HttpResponse>> LoginPage::approve(TokenFlowId login, HttpRequest request) {
  if (!from_this_site(request.head))
    co_return message_response(403, "This form came from another site",
                               "A login is approved on its own page only: open the address that the terminal shows.",
                               parts_.random);
  const std::string type = std::string(request.head.field("content-type").value_or(""));
  if (!type.starts_with("application/x-www-form-urlencoded"))
    co_return message_response(415, "This is not a form", "Send the fields of the page's form, as a browser does.",
                               parts_.random);
  if (request.body.size() > kFormBytesMax)
    co_return message_response(413, "This is too long", "A token or a code has fewer than a hundred characters.",
                               parts_.random);
  const auto form = gateway::parse_form(request.body);
  if (!form_is_ours(login, request.head, value_of(form, "form"))) {
    co_return show(login, request, 403,
                   "This form is too old, or was shown to another browser, or the browser takes no cookies from this "
                   "page. Here is a new one: type it again.");
  }
  const std::string from = address_of(request);
  if (failed_too_often(login.text()) || failed_too_often(from)) {
    co_return show(login, request, 429,
                   "There were too many wrong answers: nothing more is looked at for ten minutes. `modal token new` "
                   "begins another login.");
  }
  const std::string code = trimmed(value_of(form, "code"));
  const std::string token = trimmed(value_of(form, "token_id"));
  if (code.empty() && token.empty())
    co_return show(login, request, 400, "Nothing was typed: it takes a one-time code, or a token's id and secret.");
  const Result<void> approved = code.empty()
                                    ? parts_.access.approve_login(login, token, trimmed(value_of(form, "token_secret")))
                                    : parts_.access.approve_login(login, code);
  if (!approved.ok()) {
    if (approved.error().code == Code::kUnauthenticated) {
      count_failure(login.text());
      count_failure(from);
      parts_.log.warning("login.refused", {{"login", login.text()}, {"from", request.connection.address}});
    }
    co_return show(login, request, status_of(approved.error().code), approved.error().message);
  }
  parts_.log.info("login.approved", {{"login", login.text()}, {"from", request.connection.address}});
  co_await parts_.ledger.durable();
  HttpResponse done = message_response(
      200, "The login is approved",
      "The client has its token now. You may close this page and go back to the terminal.", parts_.random);
  done.fields.emplace_back("Set-Cookie", std::string(kCookie) + "=; Path=" + std::string(kPath) + login.text() +
                                             "; HttpOnly; SameSite=Strict; Max-Age=0");
  co_return done;
}

bool LoginPage::failed_too_often(const std::string& who) {
  const auto found = failures_.find(who);
  if (found == failures_.end()) return false;
  if (found->second.since + kFailuresKept <= parts_.loop.now()) {
    failures_.erase(found);
    return false;
  }
  return found->second.count >= kFailuresMax;
}

void LoginPage::count_failure(const std::string& who) {
  if (failures_.size() >= kFailuresKnownMax) {
    std::erase_if(failures_,
                  [this](const auto& item) { return item.second.since + kFailuresKept <= parts_.loop.now(); });
    if (failures_.size() >= kFailuresKnownMax) failures_.erase(failures_.begin());
  }
  Failures& failures = failures_[who];
  if (failures.count++ == 0) failures.since = parts_.loop.now();
}

}  // namespace proa::pages
