// SPDX-License-Identifier: Apache-2.0
//
// Fuzz target: any text through the Dockerfile's parser and planner. Its corpus is beside it.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "image/planner.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto file = proa::image::parse_dockerfile(text);
  if (!file.ok()) return 0;
  const std::map<std::string, std::string> build_args{{"A", "value"}, {"HTTP_PROXY", ""}};
  const auto plan = proa::image::plan_stages(file.value(), build_args);
  if (!plan.ok()) return 0;
  for (const auto& stage : plan.value().stages) {
    proa::image::StageState start;
    start.config.env = {"PATH=/usr/bin", "B=b"};
    (void)proa::image::plan_steps(plan.value(), stage, std::move(start), build_args);
  }
  return 0;
}
