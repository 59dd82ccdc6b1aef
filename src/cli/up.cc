// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "app/supervisor.h"
#include "cli/cli.h"

namespace proa::cli {

void add_up(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("up", "Run Proa on this machine: server, worker and launcher, restarted when they die");
  auto options = std::make_shared<app::UpOptions>();
  options->data_dir = default_data_dir();
  auto address = std::make_shared<std::string>("127.0.0.1:7100");
  auto memory = std::make_shared<std::string>();
  auto no_worker = std::make_shared<bool>(false);
  auto insecure = std::make_shared<bool>(false);
  verb->add_option("--data-dir", options->data_dir, "Where everything is kept")->capture_default_str();
  verb->add_option("--listen", *address, "HOST:PORT of the one port that serves everything")->capture_default_str();
  verb->add_flag("--no-worker", *no_worker, "Run no containers here: workers join from elsewhere");
  auto mirrors = std::make_shared<std::string>();
  verb->add_option("--build-mirrors", *mirrors, "How image builds reach package mirrors, as tools/images/host_settings.py writes it; default: mirrors.json in the cache")->check(CLI::ExistingFile);
  auto own_tls = std::make_shared<bool>(false);
  verb->add_option("--url", options->public_url, "How clients reach it, if not by the address it listens on, as in https://proa.example.org");
  verb->add_flag("--tls", *own_tls, "Serve TLS with a certificate of Proa's own making; client.env tells clients to trust it");
  auto* certificate = verb->add_option("--tls-certificate", options->tls_certificate, "PEM file with the certificate chain to serve TLS with")->check(CLI::ExistingFile);
  auto* key = verb->add_option("--tls-key", options->tls_key, "PEM file with its key")->check(CLI::ExistingFile);
  certificate->needs(key);
  key->needs(certificate);
  verb->add_flag("--plaintext-off-loopback", *insecure, "Serve without TLS on an address that others can reach");
  verb->callback([=, &chosen] {
    chosen.run = [=, program = chosen.program] {
      const auto colon = address->rfind(':');
      if (colon == std::string::npos) {
        std::fprintf(stderr, "proa: --listen wants HOST:PORT, not '%s'\n", address->c_str());
        return 1;
      }
      options->host = address->substr(0, colon);
      char* end = nullptr;
      const unsigned long port = std::strtoul(address->c_str() + colon + 1, &end, 10);
      if (*end != '\0' || port > 65535) {
        std::fprintf(stderr, "proa: '%s' has no port between 0 and 65535\n", address->c_str());
        return 1;
      }
      options->port = static_cast<std::uint16_t>(port);
      const bool loopback = options->host == "localhost" || options->host.starts_with("127.") || options->host == "::1";
      using Tls = app::UpOptions::Tls;
      options->tls = !options->tls_certificate.empty() ? Tls::kFiles : *own_tls ? Tls::kOwn : Tls::kNone;
      if (!loopback && options->tls == Tls::kNone && !*insecure) {
        std::fprintf(stderr,
                     "proa: %s can be reached by others, and tokens and code would go over the network in the clear: add --tls for a certificate of Proa's own "
                     "making, or --tls-certificate and --tls-key, or ask for plaintext by name with --plaintext-off-loopback\n",
                     options->host.c_str());
        return 1;
      }
      if (!options->public_url.empty() && !options->public_url.starts_with("http://") && !options->public_url.starts_with("https://")) {
        std::fprintf(stderr, "proa: --url wants http://… or https://…, not '%s'\n", options->public_url.c_str());
        return 1;
      }
      while (options->public_url.ends_with('/')) options->public_url.pop_back();
      if (!mirrors->empty()) options->server_flags.insert(options->server_flags.end(), {"--build-mirrors", *mirrors});
      options->program = program;
      options->run_worker = !*no_worker;
      StreamLogger log(stderr, isatty(2) != 0 ? LogStyle::kPlain : LogStyle::kJson, Severity::kInfo, "up");
      return app::run_supervisor(*options, log);
    };
  });
}

}  // namespace proa::cli
