// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "app/doctor.h"
#include "cli/cli.h"

namespace proa::cli {

void add_doctor(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("doctor", "Say what of this machine Proa can use, and what to do about the rest");
  auto data_dir = std::make_shared<std::string>(default_data_dir());
  auto json = std::make_shared<bool>(false);
  verb->add_option("--data-dir", *data_dir, "Where everything would be kept")->capture_default_str();
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([=, &chosen] {
    chosen.run = [=, program_path = chosen.program] {
      const std::vector<app::Finding> findings = app::examine({.data_dir = *data_dir, .program = program_path});
      bool good = true;
      nlohmann::json all = nlohmann::json::array();
      for (const app::Finding& finding : findings) {
        good = good && finding.grade != app::Grade::kBad;
        if (*json) {
          all.push_back({{"subject", finding.subject}, {"grade", app::grade_name(finding.grade)}, {"found", finding.found}, {"advice", finding.advice}});
        } else {
          std::printf("%-8s %-12s %s\n", app::grade_name(finding.grade), finding.subject.c_str(), finding.found.c_str());
          if (!finding.advice.empty()) std::printf("%-21s → %s\n", "", finding.advice.c_str());
        }
      }
      if (*json) std::printf("%s\n", all.dump(2).c_str());
      return good ? 0 : 1;
    };
  });
}

}  // namespace proa::cli
