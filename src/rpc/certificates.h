// SPDX-License-Identifier: Apache-2.0
//
// Certificates of our own making, for machines that have none: a CA, made once and kept, and a certificate of it for the
// names by which this server is reached. ECDSA P-256, which every client accepts.
#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace proa::rpc {

struct CertificateFiles {
  std::string ca;           // PEM; clients are told to trust it.
  std::string certificate;  // PEM: the server's, then the CA's.
  std::string key;          // PEM, readable by its owner alone.
};

// Makes in `directory` what is not there, and the server's certificate anew when it is for other names than `names`
// (DNS names and addresses) or ends within a month. Blocking.
Result<CertificateFiles> own_certificates(const std::string& directory, const std::vector<std::string>& names, Time now);

}  // namespace proa::rpc
