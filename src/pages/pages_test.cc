// SPDX-License-Identifier: Apache-2.0
#include "pages/pages.h"

#include <nlohmann/json.hpp>
#include <regex>

#include "control/rooms_testing.h"
#include "pages/html.h"
#include "store/memory/memory_log_store.h"

namespace proa::pages {
namespace {

using gateway::HttpRequest;
using gateway::HttpResponse;
using std::chrono::minutes;
using std::chrono::seconds;

class NoPlanner final : public sched::TaskPlanner {
 public:
  Async<Result<sched::TaskOrder>> plan(TaskId, FunctionId) override {
    co_return not_found("no task is planned in this test");
  }
};

class PagesTest : public testing::Test {
 protected:
  PagesTest() {
    access.emplace(world.loop, world.random, *world.ledger, world.log, world.key, control::Access::Config{});
    environments.emplace(world.loop, world.random, *world.ledger, control::Environments::Config{});
    apps.emplace(world.loop, world.random, *world.ledger, world.log,
                 control::Apps::Config{.heartbeat_expiry = std::chrono::hours(1000)});
    logs.emplace(world.loop, *world.ledger, log_store, *apps, world.log, control::Logs::Config{});
    calls.emplace(world.loop, world.random, *world.ledger, *world.store, *apps, world.log, control::CallLimits{});
    scheduler.emplace(world.loop, world.random, *world.ledger, *apps, *calls, planner, world.log,
                      sched::SchedulerConfig{});
    calls->set_dispatch(*scheduler);
    apps->listen(*scheduler);
    apps->listen(*logs);
    EXPECT_TRUE(access->load(*world.store).ok());
    EXPECT_TRUE(environments->load(*world.store).ok());
    EXPECT_TRUE(apps->load(*world.store).ok());
    EXPECT_TRUE(logs->load(*world.store).ok());
    EXPECT_TRUE(calls->load().ok());
    pages.emplace(Pages::Parts{world.loop, world.random, *world.ledger, *access, *apps, *calls, *environments, *logs,
                               *scheduler, world.log});
    app =
        apps->create({.environment = environments->default_id(), .description = "my <b>app</b>", .created_by = "owner"})
            .value();
    world.settle();
  }

  static HttpRequest request(std::string method, const std::string& target, gateway::HttpFields fields = {},
                             Bytes body = {}) {
    HttpRequest out;
    out.head.method = std::move(method);
    out.head.target = target;
    out.head.path = target.substr(0, target.find('?'));
    if (target.size() > out.head.path.size()) out.head.query = target.substr(out.head.path.size() + 1);
    out.head.fields = std::move(fields);
    out.head.fields.emplace_back("host", "127.0.0.1:7100");
    out.connection.address = "10.0.0.1:5000";
    out.body = std::move(body);
    return out;
  }
  HttpResponse ask(HttpRequest asked) { return world.run(pages->handle(std::move(asked))).value(); }
  HttpResponse get(const std::string& target, const std::string& cookie = "") {
    return ask(
        request("GET", target, cookie.empty() ? gateway::HttpFields() : gateway::HttpFields{{"cookie", cookie}}));
  }
  static std::string field(const HttpResponse& response, const std::string& name) {
    for (const auto& [key, value] : response.fields) {
      if (key == name) return value;
    }
    return "";
  }
  // "name=value" as a browser sends it back.
  static std::string cookie_of(const HttpResponse& response) {
    const std::string all = field(response, "Set-Cookie");
    return all.substr(0, all.find(';'));
  }
  static std::string form_of(const HttpResponse& response) {
    std::smatch found;
    const std::string html = response.body;
    return std::regex_search(html, found, std::regex("name=\"form\" value=\"([^\"]+)\"")) ? found[1].str() : "";
  }

  // --- Logging in
  static std::string path(const control::Login& login) { return "/login/" + login.id.text(); }
  HttpResponse post(const control::Login& login, const std::string& cookie, const std::string& body,
                    gateway::HttpFields more = {}, const std::string& from = "10.0.0.1:5000") {
    more.emplace_back("content-type", "application/x-www-form-urlencoded");
    more.emplace_back("cookie", cookie);
    HttpRequest asked = request("POST", path(login), std::move(more), body);
    asked.connection.address = from;
    return ask(std::move(asked));
  }
  // Fills in the form as a browser that was just shown it.
  HttpResponse submit(const control::Login& login, const std::string& typed,
                      const std::string& from = "10.0.0.1:5000") {
    const HttpResponse shown = get(path(login));
    return post(login, cookie_of(shown), "form=" + form_of(shown) + "&" + typed, {}, from);
  }
  bool approved(const control::Login& login) { return !access->login_code_shown(login.id); }

  // --- Apps
  std::string page() const { return "/apps/" + app.text(); }
  std::string cookie() { return cookie_of(get(page() + "?key=" + pages->view_key(app))); }
  void print(const std::string& text, control::LogStream stream = control::LogStream::kStdout) {
    control::LogEntry entry;
    entry.task = TaskId(IdBits{7, 7});
    entry.stream = stream;
    entry.time = world.loop.now();
    entry.text = text;
    ASSERT_TRUE(world.run(logs->append(app, {entry})).ok());
  }
  FunctionId publish(const std::string& name) {
    control::FunctionSpec spec;
    spec.name = name;
    const control::Declared declared = apps->declare_function(app, spec, {}).value();
    control::Publication publication;
    publication.app = app;
    publication.functions[name] = declared.function;
    EXPECT_TRUE(apps->publish(publication).ok());
    return declared.function;
  }
  static Async<> forget(Async<Result<void>> work) { (void)co_await std::move(work); }
  nlohmann::json live(const std::string& after, const std::string& as) {
    const HttpResponse response = get(page() + "/live?after=" + after, as);
    EXPECT_EQ(response.status, 200) << response.body;
    return nlohmann::json::parse(response.body);
  }

  control::World world;
  store::LogDisk log_disk;
  store::MemoryLogStore log_store{log_disk};
  NoPlanner planner;
  std::optional<control::Access> access;
  std::optional<control::Environments> environments;
  std::optional<control::Apps> apps;
  std::optional<control::Logs> logs;
  std::optional<control::Calls> calls;
  std::optional<sched::Scheduler> scheduler;
  std::optional<Pages> pages;
  AppId app;
};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Html, WhatCouldBeMarkupIsEscapedAndControlCharactersAreGone) {
  EXPECT_EQ(escape("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(escape(std::string("a\0b\x7f\x1b\tc\n", 8)), "ab\tc\n");
}

TEST(Html, ColoursOfATerminalBecomeSpansAndEverythingElseOfItIsLeftOut) {
  EXPECT_EQ(terminal_html("plain\n"), "plain");
  EXPECT_EQ(terminal_html("\x1b[31mred\x1b[0m and \x1b[1;92mbold\x1b[m\r\n"),
            "<span class=\"c1\">red</span> and <span class=\"b c10\">bold</span>");
  EXPECT_EQ(terminal_html("\x1b[38;5;4mblue\x1b[39m \x1b[38;2;1;2;3mtrue\x1b[48;5;200m."),
            "<span class=\"c4\">blue</span> true.");
  EXPECT_EQ(terminal_html("\x1b]8;;http://x\x1b\\link\x1b]8;;\a\x1b[2K\x1b[?25l!"), "link!");
  EXPECT_EQ(terminal_html(" 10%\r 50%\r100%\n"), "100%");
  EXPECT_EQ(terminal_html("\x1b[31m<i>\x1b["), "<span class=\"c1\">&lt;i&gt;</span>");
  for (const char* broken :
       {"\x1b", "\x1b[", "\x1b]", "\x1b[38;5", "\x1b[999999999999999999m", "\x1b[;;;m", "\r", "\n"})
    EXPECT_EQ(terminal_html(broken), "");
}

TEST(Html, WhateverIsPrintedTheMarkupIsOurs) {
  constexpr std::string_view kPieces[] = {"\x1b", "[", "]",      "m",  ";",  "31", "1",    "<",    ">",  "&",
                                          "\"",   "'", "script", "\r", "\a", "\\", "\xc3", "\xa4", "8;;"};
  SeededRandom random{7};
  const std::regex ours("</?span( class=\"[a-z0-9 ]+\")?>|&(amp|lt|gt|quot|#39);");
  for (int i = 0; i < 500; ++i) {
    std::string line;
    for (std::uint64_t left = random.below(40); left > 0; --left) line += kPieces[random.below(std::size(kPieces))];
    const std::string rest = std::regex_replace(terminal_html(line), ours, "");
    EXPECT_EQ(rest.find_first_of("<>&\"'\x1b\a\r"), std::string::npos) << line << " became " << terminal_html(line);
  }
}

TEST(Html, ALongLineIsCutBetweenCharacters) {
  std::string line(kLineBytesMax - 1, 'a');
  line += "ä and more";
  const std::string html = terminal_html(line);
  EXPECT_EQ(html.substr(0, kLineBytesMax - 1), std::string(kLineBytesMax - 1, 'a'));
  EXPECT_FALSE(has(html, "\xc3"));
  EXPECT_TRUE(has(html, std::to_string(line.size()) + " bytes"));
}

TEST_F(PagesTest, APageRunsNoScriptButItsOwnAndFitsInNoFrame) {
  const std::string as = cookie();
  const HttpResponse first = get(page(), as);
  std::smatch nonce;
  const std::string policy = field(first, "Content-Security-Policy");
  ASSERT_TRUE(std::regex_search(policy, nonce, std::regex("script-src 'nonce-([^']+)'"))) << policy;
  EXPECT_TRUE(has(policy, "default-src 'none'") && has(policy, "frame-ancestors 'none'"));
  EXPECT_FALSE(has(policy, "unsafe"));
  EXPECT_TRUE(has(first.body, "<script nonce=\"" + nonce[1].str() + "\">"));
  EXPECT_EQ(field(first, "X-Frame-Options"), "DENY");
  EXPECT_EQ(field(first, "Cache-Control"), "no-store");
  EXPECT_NE(policy, field(get(page(), as), "Content-Security-Policy")) << "a nonce is used once";
}

TEST_F(PagesTest, ALoginShowsItsCodeAndIsApprovedByAOneTimeCode) {
  const control::Login login = access->begin_login({}).value();
  const HttpResponse shown = get(path(login));
  EXPECT_EQ(shown.status, 200);
  EXPECT_TRUE(has(shown.body, login.code));
  EXPECT_TRUE(has(field(shown, "Set-Cookie"), "HttpOnly; SameSite=Strict"));
  const std::string code = access->create_login_code();
  const HttpResponse done = submit(login, "code=+" + code + "+");
  EXPECT_EQ(done.status, 200) << done.body;
  EXPECT_TRUE(world.ledger->settled()) << "the token is on the disk before anybody is told";
  const auto credentials = world.run(access->wait_login(login.id, login.wait_secret, world.loop.now())).value();
  ASSERT_TRUE(credentials.has_value());
  EXPECT_TRUE(access->authenticate(credentials->id.text(), credentials->secret).ok());
  EXPECT_EQ(get(path(login)).status, 404);
  const control::Login second = access->begin_login({}).value();
  EXPECT_EQ(submit(second, "code=" + code).status, 401) << "a code is good for one login";
}

TEST_F(PagesTest, ALoginIsApprovedByATokenWithItsSecret) {
  const control::Credentials token = access->create_token("first", "owner", {}).value();
  const control::Login login = access->begin_login({}).value();
  EXPECT_EQ(submit(login, "token_id=" + token.id.text() + "&token_secret=as-wrong").status, 401);
  EXPECT_FALSE(approved(login));
  const HttpResponse empty = submit(login, "code=&token_id=");
  EXPECT_EQ(empty.status, 400);
  EXPECT_EQ(submit(login, "token_id=" + token.id.text() + "&token_secret=" + token.secret).status, 200);
  EXPECT_TRUE(approved(login));
}

TEST_F(PagesTest, LoginsThatAreUnknownOrTooOldAreNotFound) {
  EXPECT_EQ(get("/login/tf-0000000000000000000001").status, 404);
  EXPECT_EQ(get("/login/").status, 404);
  EXPECT_EQ(get("/login/../x").status, 404);
  const control::Login login = access->begin_login({}).value();
  EXPECT_EQ(ask(request("PUT", path(login))).status, 405);
  world.loop.run_for(minutes(11));
  EXPECT_EQ(get(path(login)).status, 404);
}

TEST_F(PagesTest, AFormIsGoodInItsBrowserAndForItsLoginOnly) {
  const control::Login login = access->begin_login({}).value();
  const control::Login other = access->begin_login({}).value();
  const HttpResponse shown = get(path(login));
  const HttpResponse shown_other = get(path(other));
  const std::string code = "code=" + access->create_login_code();
  EXPECT_EQ(post(login, cookie_of(shown), code).status, 403) << "no form";
  EXPECT_EQ(post(login, "", "form=" + form_of(shown) + "&" + code).status, 403) << "no cookie";
  EXPECT_EQ(post(login, cookie_of(shown_other), "form=" + form_of(shown) + "&" + code).status, 403)
      << "another browser";
  EXPECT_EQ(post(login, cookie_of(shown_other), "form=" + form_of(shown_other) + "&" + code).status, 403)
      << "another login";
  const std::string good = "form=" + form_of(shown) + "&" + code;
  EXPECT_EQ(post(login, cookie_of(shown), good, {{"origin", "http://evil.example"}}).status, 403);
  EXPECT_EQ(post(login, cookie_of(shown), good, {{"origin", "null"}}).status, 403);
  EXPECT_EQ(post(login, cookie_of(shown), good, {{"sec-fetch-site", "cross-site"}}).status, 403);
  EXPECT_EQ(post(login, cookie_of(shown), good, {{"sec-fetch-site", "same-site"}}).status, 403);
  EXPECT_FALSE(approved(login));
  EXPECT_EQ(
      post(login, cookie_of(shown), good, {{"origin", "http://127.0.0.1:7100"}, {"sec-fetch-site", "same-origin"}})
          .status,
      200);
}

TEST_F(PagesTest, WrongAnswersRunOutForTheLoginAndForWhoGaveThem) {
  const control::Login login = access->begin_login({}).value();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(submit(login, "code=WRONG").status, 401) << i;
  const HttpResponse refused = submit(login, "code=WRONG");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(field(refused, "Retry-After"), "600");
  const std::string code = "code=" + access->create_login_code();
  EXPECT_EQ(submit(login, code, "10.0.0.2:1").status, 429) << "the login";
  const control::Login other = access->begin_login({}).value();
  EXPECT_EQ(submit(other, code, "10.0.0.1:999").status, 429) << "the address, whatever its port";
  EXPECT_EQ(submit(other, code, "10.0.0.2:1").status, 200);
  world.loop.run_for(minutes(10));
  const control::Login later = access->begin_login({}).value();
  EXPECT_EQ(submit(later, "code=" + access->create_login_code()).status, 200);
}

TEST_F(PagesTest, AFormThatIsNoneOrTooLongIsRefused) {
  const control::Login login = access->begin_login({}).value();
  EXPECT_EQ(ask(request("POST", path(login), {{"content-type", "application/json"}}, "{}")).status, 415);
  EXPECT_EQ(post(login, "", std::string(20'000, 'x')).status, 413);
}

TEST_F(PagesTest, AnAppIsShownToWhoHasItsKey) {
  const AppId other = apps->create({.environment = environments->default_id()}).value();
  const HttpResponse closed = get(page());
  EXPECT_EQ(closed.status, 401);
  EXPECT_FALSE(has(closed.body, "my "));
  EXPECT_EQ(get(page() + "?key=guess").status, 401);
  EXPECT_EQ(get(page() + "?key=" + pages->view_key(other)).status, 401);
  EXPECT_EQ(get("/apps/ap-0000000000000000000001").status, 401) << "which apps there are is not told";
  const HttpResponse let_in = get(page() + "?key=" + pages->view_key(app));
  EXPECT_EQ(let_in.status, 303);
  EXPECT_EQ(field(let_in, "Location"), page());
  EXPECT_TRUE(has(field(let_in, "Set-Cookie"), "; Path=" + page() + "; HttpOnly; SameSite=Lax; Max-Age=25"));
  EXPECT_EQ(get(page(), cookie_of(let_in)).status, 200);
  EXPECT_EQ(get("/apps/" + other.text(), cookie_of(let_in)).status, 401) << "the cookie is for one app";
  EXPECT_EQ(get(page() + "/live?after=0&key=" + pages->view_key(app)).status, 401);
  const std::string brief = "proa_view=" + access->stamp(control::kPurposeView, app.text(), minutes(10));
  EXPECT_EQ(get(page(), brief).status, 200);
  world.loop.run_for(minutes(10));
  EXPECT_EQ(get(page(), brief).status, 401);
  EXPECT_EQ(get("/apps/nonsense").status, 404);
  EXPECT_EQ(get("/elsewhere").status, 404);
  EXPECT_EQ(ask(request("POST", page())).status, 405);
}

TEST_F(PagesTest, AnAppThatWasForgottenIsNotFoundByWhoHasItsKey) {
  const AppId gone = AppId(IdBits{5, 5});
  const std::string as = "proa_view=" + pages->view_key(gone);
  EXPECT_EQ(get("/apps/" + gone.text(), as).status, 404);
  EXPECT_EQ(get("/apps/" + gone.text() + "/live?after=0", as).status, 404);
}

TEST_F(PagesTest, NamesAndLinesAreTextAndNothingElse) {
  print("<img src=x onerror=alert(1)>\n");
  print("\x1b[31mred\x1b[0m \xff\n", control::LogStream::kStderr);
  publish("<script>f</script>");
  const HttpResponse shown = get(page(), cookie());
  EXPECT_EQ(shown.status, 200);
  EXPECT_TRUE(has(shown.body, "my &lt;b&gt;app&lt;/b&gt;"));
  EXPECT_TRUE(has(shown.body, "&lt;img src=x onerror=alert(1)&gt;"));
  EXPECT_TRUE(has(shown.body, "&lt;script&gt;f&lt;/script&gt;"));
  EXPECT_FALSE(has(shown.body, "<img") || has(shown.body, "<b>app") || has(shown.body, "<script>"));
  EXPECT_TRUE(has(shown.body, "<span class=\"c1\">red</span>"));
  const auto news = live("0", cookie());
  EXPECT_TRUE(has(news["lines"], "&lt;img") && has(news["tables"], "&lt;script&gt;"));
}

TEST_F(PagesTest, ThePageSaysWhatWaitsAndWhatBecameOfCalls) {
  const FunctionId function = publish("square");
  control::NewCall about;
  about.function = function;
  about.kind = control::CallKind::kMap;
  const CallId call = calls->create(about).value();
  std::vector<control::NewInput> inputs(3);
  for (std::uint32_t i = 0; i < 3; ++i) inputs[i].index = i;
  ASSERT_TRUE(calls->put_inputs(call, std::move(inputs)).ok());
  world.settle();
  const HttpResponse shown = get(page(), cookie());
  EXPECT_TRUE(has(shown.body, "<td>square</td><td class=\"n\">3</td><td class=\"n\">0</td>")) << shown.body;
  EXPECT_TRUE(has(shown.body, call.text() + "</td><td>square</td><td>under way</td>")) << shown.body;
  ASSERT_TRUE(calls->cancel(call, "no need").ok());
  const std::string after = get(page(), cookie()).body;
  EXPECT_TRUE(has(after, "<td class=\"bad\">cancelled</td>")) << after;
  EXPECT_TRUE(has(after, "<td class=\"n\">3</td><td class=\"n\">3</td><td class=\"n\">3</td></tr>")) << after;
}

TEST_F(PagesTest, NewLinesComeAsSoonAsTheyAreThereAndTheEndIsTold) {
  print("first\n");
  const std::string as = cookie();
  const std::string shown = get(page(), as).body;
  std::smatch after;
  ASSERT_TRUE(std::regex_search(shown, after, std::regex("data-after=\"([0-9]+)\"")));
  EXPECT_TRUE(has(shown, ">first</div>"));
  const Time begun = world.loop.now();
  control::LogEntry entry;
  entry.time = begun;
  entry.text = "second\n";
  Scope scope;
  world.loop.at(begun + seconds(3), [&] { scope.spawn(forget(logs->append(app, {entry}))); });
  auto news = live(after[1], as);
  EXPECT_TRUE(has(news["lines"], ">second</div>"));
  EXPECT_FALSE(has(news["lines"], "first"));
  EXPECT_FALSE(news["done"].get<bool>());
  EXPECT_LT(world.loop.now() - begun, seconds(4));
  news = live(news["after"], as);
  EXPECT_EQ(news["lines"], "") << "nothing came, and it answered all the same";
  EXPECT_LT(world.loop.now() - begun, seconds(20));
  ASSERT_TRUE(apps->stop(app, "<enough>").ok());
  apps->stopped(app);
  news = live(news["after"], as);
  EXPECT_TRUE(news["done"].get<bool>());
  EXPECT_TRUE(has(news["tables"], "stopped") && has(news["tables"], "&lt;enough&gt;"));
  EXPECT_EQ(get(page() + "/live?after=x", as).status, 400);
  EXPECT_EQ(get(page() + "/live?after=-1", as).status, 400);
  EXPECT_EQ(get(page() + "/live?after=0").status, 401);
}

TEST_F(PagesTest, ALogOfAnySizeMakesAPageOfABoundedOne) {
  const std::string line(60'000, '<');
  for (int i = 0; i < 150; ++i) print(line);
  print("the last\n");
  const std::string shown = get(page(), cookie()).body;
  EXPECT_TRUE(has(shown, "the last"));
  EXPECT_LT(shown.size(), 4U << 20);
}

}  // namespace
}  // namespace proa::pages
