// SPDX-License-Identifier: Apache-2.0
//
// ObjectStore: whole files under the SHA-256 of their bytes, in a directory. Trees are objects too.
//
// Layout (docs/formats/objects.md, DO NOT CHANGE): DIR/ab/cdef… with the digest's 64 hex digits split 2 + 62,
// mode 0444; DIR/tmp holds what is being written. An object's name appears only after its bytes are on the disk, so
// what is there is whole, whatever died when. Several processes may use one directory at once.
//
// Blocking and thread safe: called from pool threads, or from programs without a loop. It knows nothing of rights:
// who may know that an object exists, and use it, is for whoever calls.
//
// Errors everywhere: kResourceExhausted "disk full: …" when there is no room (nothing torn is left behind);
// kDataLoss when bytes that were read are not those that the name promises.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/result.h"
#include "cas/tree.h"

namespace proa::cas {

class ObjectStore;

// What became of a file: its size is the number of bytes that were read, whatever the file says later.
struct Stored {
  Digest digest;
  std::uint64_t size_bytes = 0;
};

// Objects on their way to the disk together: one flush for all of them instead of one for each. They can be seen
// only after commit(). Thread safe. Dropped without a commit it leaves nothing behind.
class Batch {
 public:
  explicit Batch(ObjectStore& store);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  Result<Digest> put_bytes(BytesView bytes);
  // The bytes of a regular file from its beginning to its end, whatever they are while they are read.
  Result<Stored> put_fd(int fd);
  // Makes all of it durable and visible. After an error some of the objects may be there, each of them whole.
  Result<void> commit();

 private:
  friend class ObjectWriter;
  struct Pending {
    std::string temporary;
    Digest digest;
    std::uint64_t size_bytes = 0;
  };
  Result<void> add(Pending pending);

  ObjectStore& store_;
  std::mutex mutex_;
  std::vector<Pending> pending_;
};

// One object, written as a stream. Not thread safe. Dropped before finish() it leaves nothing behind.
class ObjectWriter {
 public:
  ~ObjectWriter();
  ObjectWriter(const ObjectWriter&) = delete;
  ObjectWriter& operator=(const ObjectWriter&) = delete;

  Result<void> write(BytesView bytes);
  std::uint64_t size_bytes() const { return size_bytes_; }
  // Once. The object is durable and visible, or nothing is left of it.
  Result<Digest> finish();
  // Once, likewise. kDataLoss, and nothing is left, if the bytes were not those that `expected` names.
  Result<void> finish_as(const Digest& expected);
  // Once. Durable and visible when `batch`, of the same store, is committed.
  Result<Digest> finish_into(Batch& batch);

 private:
  friend class ObjectStore;
  friend class Batch;
  ObjectWriter(ObjectStore& store, std::string temporary, OwnedFd fd)
      : store_(store), temporary_(std::move(temporary)), fd_(std::move(fd)) {}
  Result<Digest> seal();

  ObjectStore& store_;
  std::string temporary_;  // "" once it is somebody else's.
  OwnedFd fd_;
  Hasher hasher_{Hasher::Kind::kSha256};
  std::uint64_t size_bytes_ = 0;
};

struct ObjectInfo {
  Digest digest;
  std::uint64_t size_bytes = 0;
  Time written;  // When it was written, or last asked for by a put: what garbage collection goes by.
};

class ObjectStore {
 public:
  // Opens or makes it, and removes what writers that died more than a day ago left in tmp.
  static Result<std::unique_ptr<ObjectStore>> open(const std::string& directory);
  ~ObjectStore();
  ObjectStore(const ObjectStore&) = delete;
  ObjectStore& operator=(const ObjectStore&) = delete;

  // A put of what is there already writes nothing but the time of the object.
  Result<Digest> put_bytes(BytesView bytes);
  Result<Stored> put_fd(int fd);
  Result<Stored> put_file(const std::string& path);
  Result<std::unique_ptr<ObjectWriter>> write();
  // Of many: makes each durable, with one flush.
  Result<std::vector<Digest>> put_many(const std::vector<BytesView>& contents);

  Result<bool> has(const Digest& digest) const;
  // kNotFound naming the digest, like all below.
  Result<std::uint64_t> size(const Digest& digest) const;
  // For reading. Unverified: verify() or read() are for who has not checked before.
  Result<OwnedFd> open_object(const Digest& digest) const;
  // All of it, its hash checked. kOutOfRange if it is longer than `bytes_max`.
  Result<Bytes> read(const Digest& digest, std::size_t bytes_max) const;
  // Up to `length` bytes from `offset`; unverified.
  Result<Bytes> read_range(const Digest& digest, std::uint64_t offset, std::size_t length) const;
  // Reads it through and checks its hash.
  Result<void> verify(const Digest& digest) const;

  Result<Digest> put_tree(const Tree& tree);
  // Checked: hash, canonical form, and the rules of trees.
  Result<Tree> get_tree(const Digest& digest) const;

  // Calls `each` for every object, in no order, until it returns false.
  Result<void> for_each(const std::function<bool(const ObjectInfo&)>& each) const;
  // Works on what is not there too.
  Result<void> remove(const Digest& digest);

  const std::string& directory() const { return directory_; }
  // "ab/cdef…": the object's name relative to directory().
  static std::string name_of(const Digest& digest);

 private:
  friend class Batch;
  friend class ObjectWriter;
  ObjectStore(std::string directory, OwnedFd root, OwnedFd tmp)
      : directory_(std::move(directory)), root_(std::move(root)), tmp_(std::move(tmp)) {}

  // True if it is there with the right size; its time is set to now.
  Result<bool> touch(const Digest& digest, std::uint64_t size_bytes);
  // Gives a file of tmp its name. It and its bytes must be on the disk.
  Result<void> publish(const std::string& temporary, const Digest& digest, std::uint64_t size_bytes);
  Result<void> sync_shard(unsigned shard);
  void discard(const std::string& temporary);

  std::string directory_;
  OwnedFd root_;
  OwnedFd tmp_;
  // Shards whose own names are known to be on the disk. Made when first needed.
  std::array<std::atomic<bool>, 256> durable_shards_{};
};

}  // namespace proa::cas
