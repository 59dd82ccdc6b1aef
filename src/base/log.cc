// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <array>
#include <chrono>
#include <ctime>

namespace proa {
namespace {

std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 40> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text.data() + size, text.size() - size, ".%03dZ", static_cast<int>(millis));
  return text.data();
}

constexpr std::array<std::string_view, 4> kNames = {"debug", "info", "warning", "error"};

}  // namespace

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> code{};
      std::snprintf(code.data(), code.size(), "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += code.data();
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

void StreamLogger::write(Severity severity, std::string_view event, std::initializer_list<LogField> fields) {
  if (severity < least_) return;
  const std::string_view level = kNames[static_cast<std::size_t>(severity)];
  std::string line;
  if (style_ == LogStyle::kJson) {
    line = "{\"time\":" + json_quote(timestamp()) + ",\"level\":" + json_quote(level) +
           ",\"program\":" + json_quote(program_) + ",\"event\":" + json_quote(event);
    for (const LogField& field : fields) line += "," + json_quote(field.name) + ":" + json_quote(field.value);
    line += "}\n";
  } else {
    line = timestamp() + " " + std::string(level) + " " + program_ + " " + std::string(event);
    for (const LogField& field : fields) {
      const bool quote = field.value.find_first_of(" \"\n=") != std::string::npos || field.value.empty();
      line += " " + std::string(field.name) + "=" + (quote ? json_quote(field.value) : field.value);
    }
    line += "\n";
  }
  std::fwrite(line.data(), 1, line.size(), stream_);
  std::fflush(stream_);
}

}  // namespace proa
