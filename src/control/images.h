// SPDX-License-Identifier: Apache-2.0
//
// Images: which there are, what is known of them, and the builds under way.
//
// The same recipe is the same image: it has one id, and is built once however many ask for it. An image that
// is asked for again by `force` gets a new id; what was declared with the old one goes on using that. A build
// goes on when nobody waits; one that a restart interrupted begins anew when somebody asks for its image.
//
// How an image is built is ImageBuilder's business. What a build prints is kept in memory for those who
// follow it, and for a while after.
//
// On the server's loop. Pointers are valid until the next call that changes images.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/result.h"
#include "control/keys.h"
#include "control/ledger.h"
#include "control/types.h"
#include "image/config.h"
#include "image/recipe.h"
#include "rt/loop.h"

namespace proa::control {

// Stored. DO NOT CHANGE numbers.
enum class ImageState : std::uint8_t { kBuilding = 1, kBuilt = 2, kFailed = 3 };

struct Image {
  ImageId id;
  Digest key;
  ImageState state = ImageState::kBuilding;
  image::Recipe recipe;
  std::vector<SecretId> secrets;  // Whose values RUN may see.
  SecretId registry_secret;       // Empty for none.
  image::ImageRecord record;      // Once it is built.
  Code error_code = Code::kOk;    // Of the last build, if it failed.
  std::string error;
  Time created;
  bool force = false;  // Steps of earlier builds are not taken over.

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.key), visit(3, self.state), visit(4, self.recipe), visit(5, self.secrets);
    visit(6, self.registry_secret), visit(7, self.record), visit(8, self.error_code), visit(9, self.error);
    visit(10, self.created), visit(11, self.force);
  }
  friend bool operator==(const Image&, const Image&) = default;
};

// A line that a build printed.
struct BuildLine {
  std::uint64_t position = 0;  // Grows, over restarts too.
  Time time;
  LogStream stream = LogStream::kStdout;
  std::string text;  // With its newline, if it had one.
};

// Where a build's lines go. On the loop.
class BuildLines {
 public:
  virtual ~BuildLines() = default;
  virtual void line(LogStream stream, std::string text) = 0;
};

class ImageBuilder {
 public:
  virtual ~ImageBuilder() = default;
  // Builds `image`, whose parents are built. `lines` outlives the call.
  virtual Async<Result<image::ImageRecord>> build(Image image, BuildLines& lines) = 0;
};

struct ImageRequest {
  Digest key;
  image::Recipe recipe;
  std::vector<SecretId> secrets;
  SecretId registry_secret;
  bool force = false;
};

struct BuildPage {
  std::vector<BuildLine> lines;
  std::uint64_t position = 0;  // To go on from.
  // Set with the last lines: how it ended is in the image.
  bool ended = false;
};

class Images {
 public:
  struct Config {
    std::size_t builds_max = 64;            // At once; more are refused.
    std::size_t lines_bytes_max = 4 << 20;  // Of one build, the last ones.
    std::size_t lines_kept = 32;            // Of so many builds that have ended.
    std::size_t images_max = 200'000;
    std::size_t steps_max = 1'000'000;
  };

  Images(Loop& loop, Random& random, Ledger& ledger, ImageBuilder& builder, Logger& log, Config config);
  ~Images();
  Images(const Images&) = delete;
  Images& operator=(const Images&) = delete;

  // Once, before anything else.
  Result<void> load(store::Store& store);

  // The image of this recipe; its build begins unless it is built or being built.
  //   kResourceExhausted   too many builds, or images.
  Result<ImageId> get_or_build(ImageRequest request);
  const Image* find(ImageId image) const;
  Result<const Image*> require(ImageId image) const;
  // What is known of a built image.
  //   kNotFound            no such image.
  //   kFailedPrecondition  it is not built; the message says why.
  Result<image::ImageRecord> record(ImageId image) const;
  // An image that was made in another way, as from a container's file system.
  ImageId add(image::ImageRecord record);
  // Its record goes; functions that use it cannot start any more. kNotFound.
  Result<void> remove(ImageId image);

  // Lines of the build after `after`, as soon as there are any; none at `deadline`. A build that was
  // interrupted begins anew. kNotFound, kResourceExhausted.
  Async<Result<BuildPage>> follow(ImageId image, std::uint64_t after, Time deadline);

  // What each step of earlier builds made, by its key.
  std::optional<Digest> find_step(const Digest& key) const;
  void remember_step(const Digest& key, const Digest& tree);

  std::size_t builds_under_way() const { return under_way_; }

 private:
  // Lines of one build, for as long as the build goes on or they are kept.
  class Build final : public BuildLines {
   public:
    Build(Images& images, Loop& loop) : changed(loop), images_(images) {}
    void line(LogStream stream, std::string text) override;

    Signal changed;
    std::deque<BuildLine> lines;
    std::size_t bytes = 0;
    bool ended = false;

   private:
    Images& images_;
  };

  Result<void> begin(ImageId image);
  Async<> run(ImageId image, std::shared_ptr<Build> build);
  void put(const Image& image) { ledger_.put(store::Table::kImage, key_of(image.id), image); }

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  ImageBuilder& builder_;
  Logger& log_;
  Config config_;
  std::unordered_map<ImageId, Image> images_;
  std::unordered_map<Digest, ImageId> by_key_;
  std::unordered_map<Digest, Digest> steps_;
  std::unordered_map<ImageId, std::shared_ptr<Build>> builds_;
  std::deque<ImageId> ended_;
  std::size_t under_way_ = 0;
  UniqueTimes positions_;
  Scope scope_;
};

}  // namespace proa::control
