// SPDX-License-Identifier: Apache-2.0
//
// HTML as text: escaping, what terminals print, and the frame of a page with the policy it is shown under.
//
// Pure functions; nothing here knows what a page is about.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "gateway/http.h"

namespace proa::pages {

// For an element's text or a quoted attribute. Control characters but tab and newline are left out.
std::string escape(std::string_view text);

// A line that a program printed for a terminal: colours and weights become spans, other sequences are left out, and
// of what was overprinted (by '\r') the last is shown. Without the newline at its end. Longer lines are cut.
constexpr std::size_t kLineBytesMax = 4096;
std::string terminal_html(std::string_view line);

// "14:03:59" or "2026-01-31 14:03:59", UTC, for a script to put into the reader's zone. "–" for no time.
enum class TimeForm { kClock, kDate };
std::string time_html(Time time, TimeForm form);

struct Page {
  int status = 200;
  std::string title;   // Not escaped yet.
  std::string body;    // HTML.
  std::string script;  // Ours; "" for none.
};
// The answer, with a policy that allows the page's own style and script and nothing else. `random` gives the nonce.
gateway::HttpResponse page_response(const Page& page, Random& random);
// A page with a heading and one paragraph.
gateway::HttpResponse message_response(int status, const std::string& heading, const std::string& text, Random& random);

}  // namespace proa::pages
