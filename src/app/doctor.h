// SPDX-License-Identifier: Apache-2.0
//
// Doctor: looks at a machine and says what Proa can use of it. Reads and tries; changes nothing.
#pragma once

#include <string>
#include <vector>

namespace proa::app {

enum class Grade { kGood, kLess, kBad };  // kLess: it works, with something lost; `advice` says what.
const char* grade_name(Grade grade);

struct Finding {
  std::string subject;
  Grade grade = Grade::kGood;
  std::string found;
  std::string advice;
};

struct DoctorOptions {
  std::string data_dir;
  std::string program;  // This program's path; its launcher is beside it.
};

std::vector<Finding> examine(const DoctorOptions& options);

}  // namespace proa::app
