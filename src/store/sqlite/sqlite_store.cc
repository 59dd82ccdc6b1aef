// SPDX-License-Identifier: Apache-2.0
#include "store/sqlite/sqlite_store.h"

#include <sqlite3.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/check.h"

namespace proa::store {
namespace {

// DO NOT CHANGE: these names are in users' files. A table is added at the end, with a new schema version.
constexpr std::array<const char*, kTables> kTableNames = {
    "meta",  "environment", "app",        "function", "definition", "class",  "call",  "input",       "arguments",  "output", "chunk",
    "image", "image_step",  "mount",      "secret",   "token",      "idempotency", "content", "deployment", "task",   "base",
    "call_blob"};
constexpr int kSchemaVersion = 2;
constexpr std::size_t kGroupBytesMax = 16 << 20;
constexpr std::chrono::seconds kFullDiskPatience(30);
constexpr std::chrono::milliseconds kFullDiskPause(200);

Error sqlite_error(sqlite3* db, const std::string& what) {
  const int code = db == nullptr ? SQLITE_NOMEM : sqlite3_errcode(db);
  const std::string message = what + ": " + (db == nullptr ? "out of memory" : sqlite3_errmsg(db));
  if (code == SQLITE_FULL) return resource_exhausted(message + " (the disk is full)");
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) return {Code::kDataLoss, message};
  return internal_error(message);
}

class Statement {
 public:
  Statement() = default;
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  int prepare(sqlite3* db, const std::string& sql) {
    return sqlite3_prepare_v3(db, sql.c_str(), -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
  }
  void bind(int at, BytesView bytes) {
    // SQLite makes NULL of a null pointer; an empty key or value is an empty blob.
    static constexpr char kEmpty = 0;
    const char* data = bytes.empty() ? &kEmpty : bytes.data();
    PROA_CHECK(sqlite3_bind_blob64(statement_, at, data, bytes.size(), SQLITE_STATIC) == SQLITE_OK);
  }
  void bind(int at, std::int64_t number) { PROA_CHECK(sqlite3_bind_int64(statement_, at, number) == SQLITE_OK); }
  int step() { return sqlite3_step(statement_); }
  void reset() { sqlite3_reset(statement_); }
  BytesView column(int at) {
    const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, at));
    return {data, static_cast<std::size_t>(sqlite3_column_bytes(statement_, at))};
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

class Connection {
 public:
  ~Connection() { sqlite3_close_v2(db_); }
  Result<void> open(const std::string& path) {
    if (sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr) != SQLITE_OK) {
      return sqlite_error(db_, "cannot open " + path);
    }
    sqlite3_busy_timeout(db_, 10'000);
    return run("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16000; PRAGMA journal_size_limit=67108864;");
  }
  Result<void> run(const std::string& sql) {
    if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return sqlite_error(db_, "store");
    return {};
  }
  sqlite3* get() const { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

class SqliteStore final : public Store {
 public:
  SqliteStore(Loop& loop, std::function<bool()> free_space) : loop_(loop), free_space_(std::move(free_space)) {}
  ~SqliteStore() override;
  Result<void> open(const std::string& path);

  void commit(Batch batch, std::function<void(Result<void>)> done) override;
  Async<Result<std::optional<Bytes>>> get(Table table, Bytes key) override;
  Async<Result<std::vector<Row>>> scan(Table table, Bytes from, Bytes to, std::size_t rows_max) override;
  Result<void> load(Table table, const std::function<void(BytesView, BytesView)>& row) override;

 private:
  struct Pending {
    Batch batch;
    std::size_t bytes = 0;
    std::function<void(Result<void>)> done;
  };
  // A queue and the thread that empties it.
  template <class Item>
  struct Lane {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Item> queue;
    bool stopping = false;
    std::thread thread;

    void push(Item item) {
      {
        const std::lock_guard lock(mutex);
        queue.push_back(std::move(item));
      }
      wake.notify_one();
    }
    void stop() {
      {
        const std::lock_guard lock(mutex);
        stopping = true;
      }
      wake.notify_one();
      if (thread.joinable()) thread.join();
    }
  };

  Result<void> migrate();
  Result<void> apply(const std::deque<Pending>& group);
  Result<void> apply_patiently(const std::deque<Pending>& group);
  void write_groups();
  void read_requests();
  Result<std::optional<Bytes>> read_one(Table table, const Bytes& key);
  Result<std::vector<Row>> read_range(Table table, const Bytes& from, const Bytes& to, std::size_t rows_max);

  Loop& loop_;
  const std::function<bool()> free_space_;
  Connection writer_;
  Connection reader_;
  std::array<Statement, kTables> put_;
  std::array<Statement, kTables> erase_;
  std::array<Statement, kTables> get_;
  std::array<Statement, kTables> scan_;
  Lane<Pending> writes_;
  Lane<std::function<void()>> reads_;
};

SqliteStore::~SqliteStore() {
  writes_.stop();
  reads_.stop();
}

Result<void> SqliteStore::open(const std::string& path) {
  PROA_TRY_VOID(writer_.open(path));
  PROA_TRY_VOID(migrate());
  PROA_TRY_VOID(reader_.open(path));
  for (std::size_t i = 0; i < kTables; ++i) {
    const std::string name = kTableNames[i];
    const bool ready =
        put_[i].prepare(writer_.get(), "INSERT INTO " + name + "(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2") == SQLITE_OK &&
        erase_[i].prepare(writer_.get(), "DELETE FROM " + name + " WHERE key = ?1") == SQLITE_OK &&
        get_[i].prepare(reader_.get(), "SELECT value FROM " + name + " WHERE key = ?1") == SQLITE_OK &&
        scan_[i].prepare(reader_.get(), "SELECT key, value FROM " + name + " WHERE key >= ?1 AND (?2 = x'' OR key < ?2) ORDER BY key LIMIT ?3") == SQLITE_OK;
    if (!ready) return sqlite_error(writer_.get(), "cannot use the table " + name + " of " + path);
  }
  writes_.thread = std::thread([this] { write_groups(); });
  reads_.thread = std::thread([this] { read_requests(); });
  return {};
}

Result<void> SqliteStore::migrate() {
  Statement version;
  if (version.prepare(writer_.get(), "PRAGMA user_version") != SQLITE_OK || version.step() != SQLITE_ROW) {
    return sqlite_error(writer_.get(), "cannot read the store's version");
  }
  const int found = std::stoi("0" + std::string(version.column(0)));
  version.reset();
  if (found > kSchemaVersion) {
    return failed_precondition("the store was written by a newer proa (schema " + std::to_string(found) + ", this program knows " +
                               std::to_string(kSchemaVersion) + "): use that version, or an older backup");
  }
  if (found == kSchemaVersion) return {};  // Nothing to write: it may be that nothing can be.
  std::string sql = "BEGIN IMMEDIATE;";
  for (const char* name : kTableNames) {
    sql += "CREATE TABLE IF NOT EXISTS " + std::string(name) + "(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;";
  }
  sql += "PRAGMA user_version=" + std::to_string(kSchemaVersion) + ";COMMIT;";
  return writer_.run(sql);
}

void SqliteStore::commit(Batch batch, std::function<void(Result<void>)> done) {
  std::size_t bytes = 0;
  for (const Write& write : batch) bytes += write.key.size() + (write.value ? write.value->size() : 0);
  writes_.push({std::move(batch), bytes, std::move(done)});
}

Result<void> SqliteStore::apply(const std::deque<Pending>& group) {
  PROA_TRY_VOID(writer_.run("BEGIN IMMEDIATE"));
  for (const Pending& pending : group) {
    for (const Write& write : pending.batch) {
      Statement& statement = (write.value ? put_ : erase_)[static_cast<std::size_t>(write.table)];
      statement.bind(1, write.key);
      if (write.value) statement.bind(2, *write.value);
      const int code = statement.step();
      statement.reset();
      if (code != SQLITE_DONE) {
        Error error = sqlite_error(writer_.get(), "cannot write to the store");
        (void)writer_.run("ROLLBACK").ok();
        return error;
      }
    }
  }
  if (auto committed = writer_.run("COMMIT"); !committed.ok()) {
    (void)writer_.run("ROLLBACK").ok();
    return committed;
  }
  return {};
}

// A transaction that found the disk full has left nothing behind and can be tried again.
Result<void> SqliteStore::apply_patiently(const std::deque<Pending>& group) {
  const auto give_up = std::chrono::steady_clock::now() + kFullDiskPatience;
  while (true) {
    Result<void> result = apply(group);
    if (result.ok() || result.error().code != Code::kResourceExhausted || std::chrono::steady_clock::now() > give_up) return result;
    if (free_space_ && free_space_()) continue;
    std::unique_lock lock(writes_.mutex);
    writes_.wake.wait_for(lock, kFullDiskPause, [this] { return writes_.stopping; });
    if (writes_.stopping) return result;
  }
}

void SqliteStore::write_groups() {
  std::optional<Error> broken;  // Order is promised: after one failure nothing later may become durable.
  while (true) {
    std::deque<Pending> group;
    {
      std::unique_lock lock(writes_.mutex);
      writes_.wake.wait(lock, [this] { return writes_.stopping || !writes_.queue.empty(); });
      if (writes_.queue.empty()) return;
      std::size_t bytes = 0;
      while (!writes_.queue.empty() && (group.empty() || bytes + writes_.queue.front().bytes <= kGroupBytesMax)) {
        bytes += writes_.queue.front().bytes;
        group.push_back(std::move(writes_.queue.front()));
        writes_.queue.pop_front();
      }
    }
    Result<void> result = broken ? Result<void>(*broken) : apply_patiently(group);
    if (!result.ok()) broken = result.error();
    loop_.post([group = std::make_shared<std::deque<Pending>>(std::move(group)), result] {
      for (Pending& pending : *group) pending.done(result);
    });
  }
}

void SqliteStore::read_requests() {
  while (true) {
    std::function<void()> next;
    {
      std::unique_lock lock(reads_.mutex);
      reads_.wake.wait(lock, [this] { return reads_.stopping || !reads_.queue.empty(); });
      if (reads_.queue.empty()) return;
      next = std::move(reads_.queue.front());
      reads_.queue.pop_front();
    }
    next();
  }
}

Result<std::optional<Bytes>> SqliteStore::read_one(Table table, const Bytes& key) {
  Statement& statement = get_[static_cast<std::size_t>(table)];
  statement.bind(1, key);
  const int code = statement.step();
  std::optional<Bytes> value;
  if (code == SQLITE_ROW) value = Bytes(statement.column(0));
  statement.reset();
  if (code != SQLITE_ROW && code != SQLITE_DONE) return sqlite_error(reader_.get(), "cannot read from the store");
  return value;
}

Result<std::vector<Row>> SqliteStore::read_range(Table table, const Bytes& from, const Bytes& to, std::size_t rows_max) {
  Statement& statement = scan_[static_cast<std::size_t>(table)];
  statement.bind(1, BytesView(from));
  statement.bind(2, BytesView(to));
  statement.bind(3, static_cast<std::int64_t>(std::min<std::size_t>(rows_max, 1U << 30)));
  std::vector<Row> rows;
  int code = SQLITE_ROW;
  while ((code = statement.step()) == SQLITE_ROW) rows.emplace_back(statement.column(0), statement.column(1));
  statement.reset();
  if (code != SQLITE_DONE) return sqlite_error(reader_.get(), "cannot read from the store");
  return rows;
}

Async<Result<std::optional<Bytes>>> SqliteStore::get(Table table, Bytes key) {
  using Answer = Result<std::optional<Bytes>>;
  co_return co_await suspend<Answer>(loop_, [&](Resumer<Answer> resume) {
    reads_.push([this, table, key, resume] {
      auto answer = std::make_shared<Answer>(read_one(table, key));
      loop_.post([resume, answer] { resume(std::move(*answer)); });
    });
  });
}

Async<Result<std::vector<Row>>> SqliteStore::scan(Table table, Bytes from, Bytes to, std::size_t rows_max) {
  using Answer = Result<std::vector<Row>>;
  co_return co_await suspend<Answer>(loop_, [&](Resumer<Answer> resume) {
    reads_.push([this, table, from, to, rows_max, resume] {
      auto answer = std::make_shared<Answer>(read_range(table, from, to, rows_max));
      loop_.post([resume, answer] { resume(std::move(*answer)); });
    });
  });
}

Result<void> SqliteStore::load(Table table, const std::function<void(BytesView, BytesView)>& row) {
  Statement all;
  const std::string name = kTableNames[static_cast<std::size_t>(table)];
  if (all.prepare(reader_.get(), "SELECT key, value FROM " + name + " ORDER BY key") != SQLITE_OK) {
    return sqlite_error(reader_.get(), "cannot read the table " + name);
  }
  int code = SQLITE_ROW;
  while ((code = all.step()) == SQLITE_ROW) row(all.column(0), all.column(1));
  if (code != SQLITE_DONE) return sqlite_error(reader_.get(), "cannot read the table " + name);
  return {};
}

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite(Loop& loop, const std::string& path, std::function<bool()> free_space) {
  auto store = std::make_unique<SqliteStore>(loop, std::move(free_space));
  PROA_TRY_VOID(store->open(path));
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace proa::store
