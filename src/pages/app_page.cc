// SPDX-License-Identifier: Apache-2.0
#include "pages/app_page.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "pages/html.h"

namespace proa::pages {
namespace {

using control::App;
using control::AppState;
using gateway::HttpRequest;
using gateway::HttpResponse;
using sched::TaskState;
using sched::TaskView;

constexpr std::string_view kPath = "/apps/";
constexpr std::string_view kLive = "/live";
constexpr std::string_view kCookie = "proa_view";
constexpr Duration kKeyLife = std::chrono::hours(24 * 30);
constexpr std::size_t kFunctionsMax = 100;
constexpr std::size_t kVariantsMax = 1000;  // Whose numbers are added up, of all functions shown.
constexpr std::size_t kTasksMax = 100;
constexpr std::size_t kEndedTasksMax = 10;
constexpr std::size_t kCallsMax = 30;
constexpr std::size_t kLinesMax = 500;  // At first; the script keeps more.
constexpr std::size_t kLinesBytesMax = 512 << 10;
constexpr std::size_t kTextMax = 300;  // Of a reason or a message.
// How long the script waits for lines until it is told the numbers anew.
constexpr Duration kBusyPoll = std::chrono::seconds(2);
constexpr Duration kQuietPoll = std::chrono::seconds(15);
// What containers printed by clocks that are not ours.
constexpr Duration kClocksApart = std::chrono::hours(1);

constexpr std::string_view kScript = R"js(
"use strict";
const log=document.getElementById("log"),tables=document.getElementById("tables"),note=document.getElementById("note");
const wait=ms=>new Promise(done=>setTimeout(done,ms));
let after=log.dataset.after,shown="";
function zone(){for(const t of document.querySelectorAll("time:not([data-z])")){const d=new Date(t.dateTime);
 t.textContent="date" in t.dataset?d.toLocaleString():d.toLocaleTimeString();t.title=t.dateTime;t.dataset.z=""}}
function add(html){const end=log.scrollHeight-log.scrollTop-log.clientHeight<40;
 if(html){const none=document.getElementById("none");if(none)none.remove()}
 log.insertAdjacentHTML("beforeend",html);while(log.childElementCount>5000)log.firstElementChild.remove();
 if(end)log.scrollTop=log.scrollHeight}
async function follow(){let pause=500;for(;;){
 while(document.hidden)await new Promise(done=>document.addEventListener("visibilitychange",done,{once:true}));
 try{const answer=await fetch(location.pathname+"/live?after="+after,{cache:"no-store",credentials:"same-origin"});
  if(answer.status===401||answer.status===404){note.textContent="This page may not be shown any more: its key is too old, or the app was forgotten.";return}
  if(!answer.ok)throw new Error(answer.status);
  const news=await answer.json();after=news.after;note.textContent="";pause=500;add(news.lines);
  if(news.tables!==shown){shown=news.tables;tables.innerHTML=news.tables}
  zone();if(news.done){note.textContent="The app has stopped; this is all.";return}
  await wait(200)}
 catch(error){note.textContent="The server does not answer; trying again.";await wait(pause);pause=Math.min(pause*2,10000)}}}
zone();log.scrollTop=log.scrollHeight;follow();
)js";

std::string_view state_text(AppState state) {
  switch (state) {
    case AppState::kInitializing: return "being deployed";
    case AppState::kEphemeral: return "running";
    case AppState::kDetached: return "running, detached";
    case AppState::kDetachedDisconnected: return "running on without its client";
    case AppState::kDeployed: return "deployed";
    case AppState::kStopping: return "stopping";
    case AppState::kStopped: return "stopped";
  }
  return "";
}

std::string_view state_text(const TaskView& task) {
  switch (task.state) {
    case TaskState::kAssigned: return "assigned";
    case TaskState::kLoading: return "loading its image";
    case TaskState::kStarting: return "starting";
    case TaskState::kReady: return task.draining ? "finishing" : task.running > 0 ? "running" : "idle";
    case TaskState::kEnded: break;
  }
  switch (task.reason) {
    case sched::EndReason::kFinished: return "finished";
    case sched::EndReason::kInitFailure: return "could not begin";
    case sched::EndReason::kCrashed: return "crashed";
    case sched::EndReason::kStartFailed: return "could not be started";
    case sched::EndReason::kStartTimeout: return "took too long to start";
    case sched::EndReason::kInputTimeout: return "stopped: an input took too long";
    case sched::EndReason::kLost: return "lost with its worker";
    case sched::EndReason::kNone: break;
  }
  return "ended";
}

std::string state_text(const control::CallView& call) {
  if (call.inputs == 0) return "no inputs yet";
  if (call.unfinished > 0) return "under way";
  if (call.failed + call.timed_out > 0) return "failed";
  return call.terminated > 0 ? "cancelled" : "done";
}

std::string limited(const std::string& text) {
  return escape(text.size() > kTextMax ? text.substr(0, kTextMax) + " …" : text);
}
std::string cell(const std::string& html, std::string_view classes = "") {
  return classes.empty() ? "<td>" + html + "</td>" : "<td class=\"" + std::string(classes) + "\">" + html + "</td>";
}
std::string number(std::size_t value) { return cell(std::to_string(value), "n"); }

// `head` is made of th elements.
std::string table(const std::string& title, const std::string& id, const std::string& head, const std::string& rows,
                  std::size_t left_out, const std::string& if_empty) {
  std::string out = "<h2>" + title + "</h2>";
  if (rows.empty()) return out + "<p class=\"soft\">" + if_empty + "</p>";
  out += "<div class=\"scroll\"><table id=\"" + id + "\"><thead><tr>" + head + "</tr></thead><tbody>" + rows +
         "</tbody></table></div>";
  if (left_out > 0) out += "<p class=\"soft\">and " + std::to_string(left_out) + " more</p>";
  return out;
}

std::string_view stream_class(control::LogStream stream) {
  switch (stream) {
    case control::LogStream::kStderr: return "err";
    case control::LogStream::kInfo: return "info";
    default: return "out";
  }
}

// Changes of a task's state come between the lines and are not shown as such.
std::string lines_html(std::span<const control::LogEntry> entries) {
  std::string out;
  for (const control::LogEntry& entry : entries) {
    if (entry.phase != control::TaskPhase::kNone) continue;
    out += "<div class=\"" + std::string(stream_class(entry.stream)) + "\" title=\"" + entry.task.text() + "\">" +
           time_html(entry.time, TimeForm::kClock) + terminal_html(entry.text) + "</div>";
  }
  return out;
}

// The last entries that fit.
std::span<const control::LogEntry> last_of(const std::vector<control::LogEntry>& entries) {
  std::size_t bytes = 0;
  std::size_t first = entries.size();
  while (first > 0 && bytes < kLinesBytesMax) bytes += std::min(entries[--first].text.size(), kLineBytesMax);
  return std::span(entries).subspan(first);
}

std::string title_of(const App& app) {
  return !app.name.empty() ? app.name : !app.description.empty() ? app.description : app.id.text();
}

HttpResponse json_response(int status, const nlohmann::json& json) {
  return {status,
          {{"Content-Type", "application/json"},
           {"Cache-Control", "no-store"},
           {"X-Content-Type-Options", "nosniff"},
           {"Cross-Origin-Resource-Policy", "same-origin"}},
          json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

}  // namespace

std::string AppPage::view_key(AppId app) const {
  return parts_.access.stamp(control::kPurposeView, app.text(), kKeyLife);
}

Async<Result<HttpResponse>> AppPage::handle(HttpRequest request) {
  std::string rest = request.head.path.substr(std::min(kPath.size(), request.head.path.size()));
  const bool live_asked = rest.ends_with(kLive);
  if (live_asked) rest.resize(rest.size() - kLive.size());
  const auto app = AppId::parse(rest);
  if (!app.ok())
    co_return message_response(404, "There is no such page",
                               "The address of an app's page ends in its id, as in /apps/ap-….", parts_.random);
  if (request.head.method != "GET") {
    HttpResponse refused{405, {{"Allow", "GET"}}, ""};
    co_return refused;
  }
  const std::string given = request.head.parameter("key").value_or("");
  if (const auto until = parts_.access.check_stamp(given, control::kPurposeView, app->text());
      until.ok() && !live_asked) {
    co_return let_in(*app, given, *until, request);
  }
  // Whether there is such an app is not told to who may not see it.
  if (!parts_.access.check_stamp(request.head.cookie(kCookie).value_or(""), control::kPurposeView, app->text()).ok()) {
    if (live_asked) co_return json_response(401, {{"error", "open the app's page with its key first"}});
    co_return message_response(
        401, "This page needs its key",
        "Open the whole address that the client printed (\"View run at …\" or \"View Deployment\"), with the key at "
        "its end. A key holds for 30 days, in the browser that opened it; "
        "`modal deploy` prints a new one.",
        parts_.random);
  }
  if (parts_.apps.find(*app) == nullptr) {
    if (live_asked) co_return json_response(404, {{"error", "there is no such app any more"}});
    co_return message_response(404, "There is no such app any more", "It stopped long ago and was forgotten.",
                               parts_.random);
  }
  if (live_asked) co_return co_await live(*app, std::move(request));
  co_return co_await show(*app);
}

HttpResponse AppPage::let_in(AppId app, const std::string& key, Time until, const HttpRequest& request) const {
  const std::string path = std::string(kPath) + app.text();
  const auto left = std::chrono::duration_cast<std::chrono::seconds>(until - parts_.loop.now()).count();
  return {303,
          {{"Location", path},
           {"Set-Cookie", std::string(kCookie) + "=" + key + "; Path=" + path + "; HttpOnly; SameSite=Lax; Max-Age=" +
                              std::to_string(left) + (request.connection.secure ? "; Secure" : "")},
           {"Referrer-Policy", "no-referrer"},
           {"Cache-Control", "no-store"}},
          ""};
}

Async<Result<HttpResponse>> AppPage::show(AppId id) {
  const Time now = parts_.loop.now();
  PROA_CO_TRY(
      const std::vector<control::LogEntry> entries,
      co_await parts_.logs.fetch(id, {}, parts_.apps.find(id)->created - kClocksApart, now + kClocksApart, kLinesMax));
  const App* const app = parts_.apps.find(id);
  if (app == nullptr) co_return not_found("App '" + id.text() + "' not found");
  std::uint64_t after = 0;
  for (const control::LogEntry& entry : entries) after = std::max(after, entry.position);
  const std::string title = title_of(*app);
  std::string body = "<div id=\"tables\">" + tables(*app) +
                     "</div><h2>Log</h2><div id=\"log\" tabindex=\"0\" data-after=\"" + std::to_string(after) + "\">";
  body +=
      entries.empty() ? "<div id=\"none\" class=\"soft\">Nothing was printed yet.</div>" : lines_html(last_of(entries));
  body += "</div><p id=\"note\" class=\"soft\" role=\"status\"></p>";
  co_return page_response({.title = title + " · Proa", .body = std::move(body), .script = std::string(kScript)},
                          parts_.random);
}

Async<Result<HttpResponse>> AppPage::live(AppId id, HttpRequest request) {
  const std::string text = request.head.parameter("after").value_or("0");
  std::uint64_t after = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), after);
  if (failure != std::errc() || end != text.data() + text.size())
    co_return json_response(400, {{"error", "after is to be a position, as an earlier answer gave it"}});
  const Time deadline = parts_.loop.now() + (busy(id) ? kBusyPoll : kQuietPoll);
  PROA_CO_TRY(const control::LogPage page, co_await parts_.logs.follow(id, {}, after, deadline));
  const App* const app = parts_.apps.find(id);
  if (app == nullptr) co_return json_response(404, {{"error", "there is no such app any more"}});
  // The position as text: a script's numbers are not whole beyond 2^53.
  co_return json_response(200, {{"after", std::to_string(page.position)},
                                {"lines", lines_html(page.entries)},
                                {"tables", tables(*app)},
                                {"done", page.done}});
}

bool AppPage::busy(AppId app) const {
  return parts_.calls.unfinished_of(app) > 0 || !parts_.scheduler.tasks(app).empty();
}

std::string AppPage::function_name(FunctionId id) const {
  const control::Function* const function = parts_.apps.function(id);
  return function == nullptr ? id.text() : function->name;
}

std::string AppPage::tables(const App& app) const {
  std::string out = "<h1>" + limited(title_of(app)) + " <span id=\"state\" class=\"badge" + (app.live() ? " on" : "") +
                    "\">" + std::string(state_text(app.state)) + "</span></h1>";
  out += "<p class=\"soft\"><span class=\"mono\">" + app.id.text() + "</span> · environment " +
         limited(parts_.environments.name_of(app.environment)) + " · created " +
         time_html(app.created, TimeForm::kDate);
  if (!app.created_by.empty()) out += " by " + limited(app.created_by);
  if (app.version > 0)
    out += " · version " + std::to_string(app.version) + ", " + time_html(app.published, TimeForm::kDate);
  if (app.stopped != Time()) out += " · stopped " + time_html(app.stopped, TimeForm::kDate);
  out += "</p>";
  if (!app.live() && !app.stop_reason.empty())
    out += "<p class=\"soft\">Stopped because: " + limited(app.stop_reason) + "</p>";
  return out + functions_table(app) + containers_table(app) + calls_table(app);
}

std::string AppPage::functions_table(const App& app) const {
  std::string rows;
  std::size_t shown = 0;
  std::size_t variants = 0;
  for (const auto& [name, id] : app.functions) {
    if (shown++ == kFunctionsMax) break;
    sched::FunctionStats all = parts_.scheduler.stats(id);
    std::string waits = parts_.scheduler.why_waiting(id);
    for (const FunctionId variant : parts_.apps.variants(id)) {
      if (variants++ == kVariantsMax) break;
      const sched::FunctionStats one = parts_.scheduler.stats(variant);
      all.backlog += one.backlog;
      all.running += one.running;
      all.tasks += one.tasks;
      if (waits.empty()) waits = parts_.scheduler.why_waiting(variant);
    }
    rows += "<tr>" + cell(limited(name)) + number(all.backlog) + number(all.running) + number(all.tasks) +
            cell(limited(waits), "wrap soft") + "</tr>";
  }
  const std::size_t left_out = app.functions.size() > kFunctionsMax ? app.functions.size() - kFunctionsMax : 0;
  return table("Functions", "functions",
               "<th>Name</th><th class=\"n\">Queued</th><th class=\"n\">Running</th><th "
               "class=\"n\">Containers</th><th>Waits for</th>",
               rows, left_out, app.code_forgotten ? "They were forgotten with the app's code." : "None yet.");
}

std::string AppPage::containers_table(const App& app) const {
  std::string rows;
  const std::vector<TaskView> live = parts_.scheduler.tasks(app.id);
  std::vector<TaskView> all(live.end() - static_cast<std::ptrdiff_t>(std::min(live.size(), kTasksMax)), live.end());
  std::reverse(all.begin(), all.end());
  for (TaskView& ended : parts_.scheduler.ended_tasks(app.id, kEndedTasksMax)) all.push_back(std::move(ended));
  for (const TaskView& task : all) {
    const Time since = task.ended != Time() ? task.ended : task.started != Time() ? task.started : task.created;
    const bool bad = task.state == TaskState::kEnded && task.reason != sched::EndReason::kFinished;
    rows += "<tr>" + cell(task.id.text(), "mono") + cell(limited(function_name(task.function))) +
            cell(std::string(state_text(task)), bad ? "bad" : "") + cell(time_html(since, TimeForm::kClock)) +
            number(task.running) + cell(limited(task.message), "wrap soft") + "</tr>";
  }
  return table("Containers", "containers",
               "<th>Container</th><th>Function</th><th>State</th><th>Since</th><th class=\"n\">Inputs</th><th></th>",
               rows, live.size() > kTasksMax ? live.size() - kTasksMax : 0, "None now.");
}

std::string AppPage::calls_table(const App& app) const {
  std::string rows;
  for (const control::CallView& call : parts_.calls.recent(app.id, kCallsMax)) {
    const std::size_t failed = std::size_t{call.failed} + call.timed_out + call.terminated;
    rows += "<tr>" + cell(call.id.text(), "mono") + cell(limited(function_name(call.function))) +
            cell(state_text(call), failed > 0 ? "bad" : "") + cell(time_html(call.created, TimeForm::kClock)) +
            number(call.inputs - call.unfinished) + number(failed) + number(call.inputs) + "</tr>";
  }
  return table("Last calls", "calls",
               "<th>Call</th><th>Function</th><th>State</th><th>Began</th><th class=\"n\">Done</th><th "
               "class=\"n\">Failed</th><th class=\"n\">Inputs</th>",
               rows, 0, "None that are still known.");
}

}  // namespace proa::pages
