// SPDX-License-Identifier: Apache-2.0
#include "pages/html.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <optional>
#include <vector>

namespace proa::pages {
namespace {

constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--soft:#667;--line:#e3e5e8;--card:#f6f7f8;--accent:#2f6f4f;--bad:#b3261e;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e8ea;--soft:#98a0a8;--line:#2a2f35;--card:#1b1f24;--accent:#6cc79a;--bad:#ff8a80;--warn:#e0b060}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1100px;padding:28px 20px 40px;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:13px;text-transform:uppercase;letter-spacing:.06em;color:var(--soft);margin:28px 0 8px}
p{margin:8px 0}code,.mono{font-family:ui-monospace,monospace;font-size:13px}
.soft{color:var(--soft)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.badge{display:inline-block;padding:1px 10px;border-radius:10px;font-size:13px;border:1px solid var(--line);background:var(--card);vertical-align:3px}
.badge.on{color:var(--accent);border-color:currentColor}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
th{font-weight:500;color:var(--soft);font-size:13px}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.wrap{white-space:normal;min-width:200px}
#log{height:52vh;min-height:220px;overflow:auto;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px;font:13px/1.5 ui-monospace,monospace}
#log div{white-space:pre-wrap;overflow-wrap:anywhere}#log time{color:var(--soft);margin-right:10px}#log .err{color:var(--warn)}#log .info{color:var(--soft)}
.b{font-weight:700}.d{opacity:.7}.i{font-style:italic}.u{text-decoration:underline}
.c0{color:#777}.c1,.c9{color:#d0473c}.c2,.c10{color:#2f8f4e}.c3,.c11{color:#a87900}.c4,.c12{color:#3b7bd8}.c5,.c13{color:#a05bc0}.c6,.c14{color:#1f8f95}.c8{color:#888}
form,.box{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin:16px 0;max-width:480px}
label{display:block;margin:0 0 10px}input{display:block;width:100%;margin-top:4px;padding:8px 10px;border:1px solid var(--line);border-radius:6px;background:var(--bg);color:var(--fg);font:14px ui-monospace,monospace}
button{padding:8px 18px;border:0;border-radius:6px;background:var(--accent);color:var(--bg);font:600 15px system-ui,sans-serif;cursor:pointer}
.code{font:600 30px ui-monospace,monospace;letter-spacing:.08em;margin:6px 0}summary{cursor:pointer}
)css";

// Of one character printed to a terminal.
struct Look {
  bool bold = false;
  bool dim = false;
  bool italic = false;
  bool underlined = false;
  std::optional<int> color;  // 0…15.

  std::string classes() const {
    std::string all;
    if (bold) all += " b";
    if (dim) all += " d";
    if (italic) all += " i";
    if (underlined) all += " u";
    if (color) all += " c" + std::to_string(*color);
    return all.empty() ? all : all.substr(1);
  }
};

std::vector<int> read_parameters(std::string_view text) {
  std::vector<int> all;
  while (true) {
    const std::size_t end = std::min(text.find_first_of(";:"), text.size());
    int number = 0;
    std::from_chars(text.data(), text.data() + end, number);
    all.push_back(number);
    if (end == text.size()) return all;
    text.remove_prefix(end + 1);
  }
}

void read_look(Look& look, const std::vector<int>& parameters) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const int number = parameters[i];
    switch (number) {
      case 0: look = {}; continue;
      case 1: look.bold = true; continue;
      case 2: look.dim = true; continue;
      case 3: look.italic = true; continue;
      case 4: look.underlined = true; continue;
      case 22: look.bold = look.dim = false; continue;
      case 23: look.italic = false; continue;
      case 24: look.underlined = false; continue;
      case 39: look.color.reset(); continue;
      default: break;
    }
    if (number >= 30 && number <= 37) look.color = number - 30;
    if (number >= 90 && number <= 97) look.color = number - 90 + 8;
    if (number != 38 && number != 48) continue;
    // One of 256 colours, or red, green and blue: only the first 16 have a name here.
    const int kind = i + 1 < parameters.size() ? parameters[i + 1] : 0;
    if (number == 38 && kind == 5 && i + 2 < parameters.size() && parameters[i + 2] >= 0 && parameters[i + 2] < 16)
      look.color = parameters[i + 2];
    i += kind == 5 ? 2 : kind == 2 ? 4 : 0;
  }
}

// After ESC: leaves `text` behind the sequence, whose meaning goes into `look`.
void read_sequence(std::string_view& text, Look& look) {
  if (text.starts_with('[')) {
    std::size_t end = 1;
    while (end < text.size() && (text[end] < 0x40 || text[end] > 0x7e)) ++end;
    if (end < text.size() && text[end] == 'm') read_look(look, read_parameters(text.substr(1, end - 1)));
    text.remove_prefix(std::min(end + 1, text.size()));
  } else if (text.starts_with(']')) {
    // A title or a link: up to BEL, or ESC and a backslash.
    const std::size_t end = std::min(text.find_first_of("\a\x1b"), text.size());
    const bool escaped = text.substr(end).starts_with("\x1b\\");
    text.remove_prefix(std::min(end + (escaped ? 2 : 1), text.size()));
  } else {
    text.remove_prefix(std::min<std::size_t>(1, text.size()));
  }
}

// Not in the middle of a character.
std::string_view cut(std::string_view text, std::size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  std::size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\t' || c == '\n') {
          if (c != 0x7f) out += c;
        }
    }
  }
  return out;
}

std::string terminal_html(std::string_view line) {
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  if (const auto over = line.rfind('\r'); over != std::string_view::npos) line.remove_prefix(over + 1);
  const std::size_t whole = line.size();
  line = cut(line, kLineBytesMax);
  const bool was_cut = line.size() < whole;
  std::string out;
  Look look;
  while (!line.empty()) {
    const std::size_t end = std::min(line.find('\x1b'), line.size());
    if (end > 0) {
      const std::string classes = look.classes();
      const std::string text = escape(line.substr(0, end));
      out += classes.empty() ? text : "<span class=\"" + classes + "\">" + text + "</span>";
    }
    line.remove_prefix(std::min(end + 1, line.size()));
    if (end < whole && !line.empty()) read_sequence(line, look);
  }
  if (was_cut) out += "<span class=\"soft\"> … (" + std::to_string(whole) + " bytes)</span>";
  return out;
}

std::string time_html(Time time, TimeForm form) {
  if (time == Time()) return "–";
  const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return "–";
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  std::string out =
      "<time datetime=\"" + std::string(text.data()) + "\"" + (form == TimeForm::kDate ? " data-date" : "") + ">";
  std::strftime(text.data(), text.size(), form == TimeForm::kDate ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &parts);
  return out + text.data() + "</time>";
}

gateway::HttpResponse page_response(const Page& page, Random& random) {
  const std::string nonce = to_base64url(random.bytes(16));
  const std::string attribute = " nonce=\"" + nonce + "\"";
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">";
  html += "<title>" + escape(page.title) + "</title><style" + attribute + ">" + std::string(kStyle) +
          "</style></head>\n<body>" + page.body;
  if (!page.script.empty()) html += "\n<script" + attribute + ">" + page.script + "</script>";
  html += "</body></html>\n";
  const std::string policy =
      "default-src 'none'; style-src 'nonce-" + nonce + "'; script-src 'nonce-" + nonce +
      "'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
  return {page.status,
          {{"Content-Type", "text/html; charset=utf-8"},
           {"Content-Security-Policy", policy},
           {"X-Content-Type-Options", "nosniff"},
           {"X-Frame-Options", "DENY"},
           // Not "no-referrer": a browser would send forms without their origin.
           {"Referrer-Policy", "same-origin"},
           {"Cross-Origin-Opener-Policy", "same-origin"},
           {"Cross-Origin-Resource-Policy", "same-origin"},
           {"Cache-Control", "no-store"}},
          std::move(html)};
}

gateway::HttpResponse message_response(int status, const std::string& heading, const std::string& text,
                                       Random& random) {
  return page_response(
      {.status = status, .title = heading, .body = "<h1>" + escape(heading) + "</h1><p>" + escape(text) + "</p>"},
      random);
}

}  // namespace proa::pages
