// SPDX-License-Identifier: Apache-2.0
//
// The command line: a file for each verb. Each adds its subcommand to the program and says what to run.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace proa::cli {

// Chosen by the subcommand that was given; returns the exit status.
struct Chosen {
  std::function<int()> run;
  std::string program;  // Absolute path of this program.
};

void add_up(CLI::App& program, Chosen& chosen);
void add_server(CLI::App& program, Chosen& chosen);
void add_worker(CLI::App& program, Chosen& chosen);
void add_doctor(CLI::App& program, Chosen& chosen);
void add_login_code(CLI::App& program, Chosen& chosen);
void add_image(CLI::App& program, Chosen& chosen);
void add_modal(CLI::App& program, Chosen& chosen);

// /var/lib/proa for root, ~/.local/share/proa for others; PROA_DATA_DIR before both.
std::string default_data_dir();

}  // namespace proa::cli
