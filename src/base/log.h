// SPDX-License-Identifier: Apache-2.0
//
// Logger: events with fields. Passed by reference to whoever logs; there is no global one, so that the
// simulator can fail on an error line and a test can read what was said.
#pragma once

#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>

namespace proa {

enum class Severity { kDebug, kInfo, kWarning, kError };

struct LogField {
  LogField(std::string_view name, std::string_view text) : name(name), value(text) {}
  LogField(std::string_view name, const char* text) : name(name), value(text) {}
  LogField(std::string_view name, const std::string& text) : name(name), value(text) {}
  template <class Number>
    requires std::is_arithmetic_v<Number>
  LogField(std::string_view name, Number number) : name(name), value(std::to_string(number)) {}

  std::string_view name;
  std::string value;
};

class Logger {
 public:
  virtual ~Logger() = default;
  // Any thread. `event` is "noun.verb", as "task.started".
  virtual void write(Severity severity, std::string_view event, std::initializer_list<LogField> fields) = 0;

  void debug(std::string_view event, std::initializer_list<LogField> fields = {}) { write(Severity::kDebug, event, fields); }
  void info(std::string_view event, std::initializer_list<LogField> fields = {}) { write(Severity::kInfo, event, fields); }
  void warning(std::string_view event, std::initializer_list<LogField> fields = {}) { write(Severity::kWarning, event, fields); }
  void error(std::string_view event, std::initializer_list<LogField> fields = {}) { write(Severity::kError, event, fields); }
};

enum class LogStyle { kPlain, kJson };

// Writes whole lines to `stream`, which must outlive it.
class StreamLogger final : public Logger {
 public:
  StreamLogger(std::FILE* stream, LogStyle style, Severity least, std::string_view program)
      : stream_(stream), style_(style), least_(least), program_(program) {}
  void write(Severity severity, std::string_view event, std::initializer_list<LogField> fields) override;

 private:
  std::FILE* stream_;
  LogStyle style_;
  Severity least_;
  std::string program_;
};

class NullLogger final : public Logger {
 public:
  void write(Severity, std::string_view, std::initializer_list<LogField>) override {}
};

// "text" with quotes, backslashes and control characters escaped as JSON wants them, in quotes.
std::string json_quote(std::string_view text);

}  // namespace proa
