// SPDX-License-Identifier: Apache-2.0
#include "gateway/blob_routes.h"

#include <algorithm>
#include <charconv>

namespace proa::gateway {
namespace {

constexpr std::size_t kPieceBytes = 256 << 10;
constexpr std::size_t kPartsMax = 10'000;
constexpr std::size_t kDocumentBytesMax = 2 << 20;

// User's bytes come from the address that also serves pages: a browser must not take them for one.
HttpFields blob_fields() {
  return {{"Content-Type", "application/octet-stream"},
          {"Content-Disposition", "attachment"},
          {"X-Content-Type-Options", "nosniff"},
          {"Cache-Control", "private, no-store"},
          {"Accept-Ranges", "bytes"}};
}

template <class Number>
bool read_number(std::string_view text, Number& into) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), into);
  return !text.empty() && failed == std::errc() && end == text.data() + text.size();
}

// The text between <name> and </name>, and what follows; nothing if there is none.
std::optional<std::string_view> take_element(std::string_view& xml, std::string_view name) {
  const std::string open = "<" + std::string(name) + ">";
  const std::string close = "</" + std::string(name) + ">";
  const auto begin = xml.find(open);
  if (begin == std::string_view::npos) return std::nullopt;
  const auto end = xml.find(close, begin);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view inside = xml.substr(begin + open.size(), end - begin - open.size());
  xml.remove_prefix(end + close.size());
  return inside;
}

// Clients sleep and try again on 503 only, and fail on everything else: a full disk does not pass by waiting.
HttpResponse blob_error(const Error& error) {
  HttpResponse response = error_response(error);
  if (error.code == Code::kResourceExhausted) response.status = 507;
  return response;
}

}  // namespace

std::optional<ByteRange> parse_range(std::string_view field, std::uint64_t size) {
  const ByteRange whole{0, size, true};
  constexpr std::string_view kUnit = "bytes=";
  if (!field.starts_with(kUnit) || field.find(',') != std::string_view::npos) return whole;
  field.remove_prefix(kUnit.size());
  const auto dash = field.find('-');
  if (dash == std::string_view::npos) return whole;
  const std::string_view from = field.substr(0, dash);
  const std::string_view to = field.substr(dash + 1);
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  if (from.empty()) {
    std::uint64_t count = 0;
    if (!read_number(to, count)) return whole;
    if (count == 0 || size == 0) return std::nullopt;
    count = std::min(count, size);
    return ByteRange{size - count, count, false};
  }
  if (!read_number(from, first)) return whole;
  if (to.empty()) {
    last = UINT64_MAX;
  } else if (!read_number(to, last) || last < first) {
    return whole;
  }
  if (first >= size) return std::nullopt;
  last = std::min(last, size - 1);
  return ByteRange{first, last - first + 1, false};
}

Result<std::vector<BlobAccess::Part>> parse_parts(std::string_view xml) {
  std::vector<BlobAccess::Part> parts;
  while (auto element = take_element(xml, "Part")) {
    std::string_view number_of = *element;
    std::string_view etag_of = *element;
    const auto number = take_element(number_of, "PartNumber");
    const auto etag = take_element(etag_of, "ETag");
    BlobAccess::Part part;
    if (!number || !etag || !read_number(*number, part.number) || part.number == 0 || part.number > kPartsMax) {
      return invalid_argument("a part of the upload lacks its PartNumber (1 to 10000) or its ETag");
    }
    part.etag = std::string(*etag);
    for (const std::string_view quote : {"&quot;", "&#34;", "\""}) {
      for (auto at = part.etag.find(quote); at != std::string::npos; at = part.etag.find(quote)) {
        part.etag.erase(at, quote.size());
      }
    }
    parts.push_back(std::move(part));
    if (parts.size() > kPartsMax) return invalid_argument("an upload has 10000 parts at most");
  }
  if (parts.empty()) return invalid_argument("the document names no parts: CompleteMultipartUpload is wanted");
  return parts;
}

Async<> BlobRoutes::handle(HttpExchange& exchange) {
  const std::string& method = exchange.head().method;
  Result<void> result;
  if (method == "PUT") {
    result = co_await put(exchange);
  } else if (method == "GET" || method == "HEAD") {
    result = co_await get(exchange);
  } else if (method == "POST") {
    result = co_await complete(exchange);
  } else {
    (void)co_await exchange.respond({405, {{"Allow", "GET, HEAD, PUT, POST"}}, {}});
    co_return;
  }
  if (!result.ok()) (void)co_await exchange.respond(blob_error(result.error()));
}

// An error is returned only before the answer has begun; later ones end the connection.
Async<Result<void>> BlobRoutes::put(HttpExchange& exchange) {
  const HttpHead& head = exchange.head();
  if (!head.content_length) {
    (void)co_await exchange.respond(text_response(411, "an upload needs a Content-Length\n"));
    co_return Result<void>();
  }
  PROA_CO_TRY(const auto upload, co_await access_.put(head.target, *head.content_length, exchange.connection()));
  while (true) {
    PROA_CO_TRY(std::optional<Bytes> piece, co_await exchange.read());
    if (!piece) break;
    PROA_CO_TRY_VOID(co_await upload->write(std::move(*piece)));
  }
  PROA_CO_TRY(BlobAccess::Upload::Stored stored, co_await upload->commit());
  HttpResponse response{200, {{"ETag", "\"" + to_hex(stored.md5) + "\""}}, std::move(stored.answer)};
  (void)co_await exchange.respond(std::move(response));
  co_return Result<void>();
}

Async<Result<void>> BlobRoutes::get(HttpExchange& exchange) {
  PROA_CO_TRY(const auto download, co_await access_.get(exchange.head().target, exchange.connection()));
  const std::uint64_t size = download->size();
  const auto range = parse_range(exchange.head().field("range").value_or(""), size);
  HttpFields fields = blob_fields();
  if (!range) {
    fields.emplace_back("Content-Range", "bytes */" + std::to_string(size));
    (void)co_await exchange.respond({416, std::move(fields), {}});
    co_return Result<void>();
  }
  std::uint64_t offset = range->first;
  const std::uint64_t end = range->first + range->count;
  if (!range->whole) {
    fields.emplace_back("Content-Range",
                        "bytes " + std::to_string(offset) + "-" + std::to_string(end - 1) + "/" + std::to_string(size));
  }
  const bool wanted = exchange.head().method == "GET";
  // The first piece before the answer begins, so that an error can still be told.
  Bytes piece;
  if (wanted && offset < end) {
    PROA_CO_TRY(piece, co_await download->read(offset, std::min<std::uint64_t>(kPieceBytes, end - offset)));
  }
  if (!(co_await exchange.start(range->whole ? 200 : 206, std::move(fields), range->count)).ok()) {
    co_return Result<void>();
  }
  while (!piece.empty()) {
    offset += piece.size();
    if (!(co_await exchange.write(std::move(piece))).ok()) co_return Result<void>();
    piece = Bytes();
    if (offset >= end) break;
    auto next = co_await download->read(offset, std::min<std::uint64_t>(kPieceBytes, end - offset));
    // The peer sees a body that is too short.
    if (!next.ok()) co_return Result<void>();
    piece = std::move(next).value();
  }
  if (!wanted || offset >= end) (void)co_await exchange.finish();
  co_return Result<void>();
}

Async<Result<void>> BlobRoutes::complete(HttpExchange& exchange) {
  PROA_CO_TRY(const Bytes document, co_await exchange.read_all(kDocumentBytesMax));
  PROA_CO_TRY(auto parts, parse_parts(document));
  PROA_CO_TRY(const std::string etag,
              co_await access_.complete(exchange.head().target, std::move(parts), exchange.connection()));
  HttpResponse response{200,
                        {{"Content-Type", "application/xml"}},
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<CompleteMultipartUploadResult><ETag>\"" + etag +
                            "\"</ETag></CompleteMultipartUploadResult>"};
  (void)co_await exchange.respond(std::move(response));
  co_return Result<void>();
}

}  // namespace proa::gateway
