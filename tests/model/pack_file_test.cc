// A pack file gives back the bits that were written, and is hostile until
// parsed: each damage is one line that names the file.
#include "runtime/model/format/pack_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "base/content_hash.h"
#include "meta/packing.h"
#include "tests/model/model_testing.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

using nlohmann::json;

constexpr size_t kHeaderBytes = 72;
const PackOrigin kOrigin = {"0123", "4567"};

PackedMatrix RandomMatrix(size_t rows, size_t cols, WeightType type,
                          Layout layout) {
  const std::vector<float> w = RandomVector(rows * cols, 1);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  return PackedMatrix::Pack({&source, 1}, type, layout).value();
}

// All of a matrix that a kernel can see.
void ExpectEqual(const PackedMatrix& a, const PackedMatrix& b) {
  ASSERT_EQ(a.rows(), b.rows());
  ASSERT_EQ(a.cols(), b.cols());
  ASSERT_EQ(a.type(), b.type());
  ASSERT_EQ(a.layout(), b.layout());
  EXPECT_EQ(a.stride(), b.stride());
  ASSERT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(
      std::memcmp(std::as_const(a).data(), std::as_const(b).data(), a.bytes()),
      0);
  EXPECT_EQ(a.run_scales() == nullptr, b.run_scales() == nullptr);
  EXPECT_EQ(a.quantization_error().Relative(),
            b.quantization_error().Relative());
  std::vector<float> tile(a.rows() * a.cols()), other(tile.size());
  a.WidenTile(0, a.rows(), tile.data());
  b.WidenTile(0, b.rows(), other.data());
  EXPECT_EQ(tile, other);
}

class PackFileTest : public testing::Test {
 protected:
  // Two small matrices.
  std::string Example() {
    auto writer = PackWriter::Create(path_, kOrigin);
    EXPECT_TRUE(writer.ok()) << writer.status().message();
    const PackedMatrix first =
        RandomMatrix(5, 33, WeightType::kI8, Layout::kInOut);
    const PackedMatrix second =
        RandomMatrix(3, 4, WeightType::kBf16, Layout::kPanel64);
    EXPECT_TRUE(writer->Append({"a", "b"}, first).ok());
    EXPECT_TRUE(writer->Append({"c"}, second).ok());
    EXPECT_TRUE(writer->Commit().ok());
    return ReadAll(path_);
  }
  // The message of opening `contents`, which must fail as wrong usage, or
  // nothing if it opens.
  std::string Refusal(const std::string& contents) {
    WriteAll(path_, contents);
    const auto file = PackFile::Open(path_);
    if (file.ok()) return "";
    const std::string& message = file.status().message();
    EXPECT_EQ(file.status().code(), StatusCode::kFailed) << message;
    EXPECT_NE(message.find(path_), std::string::npos) << message;
    EXPECT_NE(message.find("rankforge pack"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  void ExpectRefusal(const std::string& contents, const std::string& part) {
    const std::string message = Refusal(contents);
    EXPECT_NE(message.find(part), std::string::npos)
        << part << " in: " << message;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("x.pack");
};

uint64_t Word(const std::string& file, size_t offset) {
  uint64_t word = 0;
  std::memcpy(&word, file.data() + offset, sizeof(word));
  return word;
}

std::string Directory(const std::string& file) {
  return file.substr(Word(file, 24));
}

// `file` with another directory, and the header that belongs to it.
std::string WithDirectory(std::string file, const std::string& directory) {
  const uint64_t begin = Word(file, 24);
  file = file.substr(0, begin) + directory;
  const uint64_t words[] = {file.size(), begin, directory.size()};
  std::memcpy(file.data() + 16, words, sizeof(words));
  const std::string hash = HashBytes(std::as_bytes(std::span(directory)));
  std::copy(hash.begin(), hash.end(), file.begin() + 40);
  return file;
}

std::string Edited(const std::string& file,
                   const std::function<void(json&)>& edit) {
  json directory = json::parse(Directory(file));
  edit(directory);
  return WithDirectory(file, directory.dump());
}

TEST_F(PackFileTest, GivesBackEveryTypeAndLayout) {
  std::vector<std::pair<TensorNames, PackedMatrix>> written;
  for (const auto& [rows, cols] : {std::pair<size_t, size_t>{1, 1},
                                   {5, 33},
                                   {64, 96},
                                   {130, 47},
                                   {200, 129}}) {
    for (const WeightType type : kWeightTypes) {
      for (const Layout layout : kLayouts) {
        if (!Offers(layout, type)) continue;
        written.emplace_back(
            TensorNames{std::to_string(written.size()), "stacked"},
            RandomMatrix(rows, cols, type, layout));
      }
    }
  }
  auto writer = PackWriter::Create(path_, kOrigin);
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const auto& [names, matrix] : written) {
    ASSERT_TRUE(writer->Append(names, matrix).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(folder_.Files(), std::vector<std::string>{"x.pack"});

  std::vector<PackedMatrix> read;
  {
    const auto file = PackFile::Open(path_);
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(file->origin(), kOrigin);
    ASSERT_EQ(file->matrices().size(), written.size());
    for (const auto& [names, matrix] : written) {
      auto adopted = file->Adopt(file->matrices().at(names));
      ASSERT_TRUE(adopted.ok()) << adopted.status().message();
      read.push_back(std::move(adopted).value());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(std::as_const(read.back()).data()) %
                    kSmallPage,
                0u);
    }
  }
  // The mapping outlives the file object, and the file its name.
  std::filesystem::remove(path_);
  for (size_t i = 0; i < read.size(); ++i) {
    ExpectEqual(read[i], written[i].second);
  }
}

TEST_F(PackFileTest, KeepsAnErrorThatIsNoNumber) {
  const std::vector<float> w = {1, std::numeric_limits<float>::infinity()};
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, 1, 2, false};
  const PackedMatrix matrix =
      PackedMatrix::Pack({&source, 1}, WeightType::kI8, Layout::kOutIn).value();
  auto writer = PackWriter::Create(path_, kOrigin);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->Append({"a"}, matrix).ok());
  ASSERT_TRUE(writer->Commit().ok());
  const auto file = PackFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(std::isfinite(matrix.quantization_error().Relative()),
            std::isfinite(file->matrices().at({"a"}).error.Relative()));
}

TEST_F(PackFileTest, NothingIsLeftWithoutCommit) {
  {
    auto writer = PackWriter::Create(path_, kOrigin);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer
                    ->Append({"a"}, RandomMatrix(3, 4, WeightType::kF32,
                                                 Layout::kOutIn))
                    .ok());
  }
  EXPECT_TRUE(folder_.Files().empty());
  const auto nowhere = PackWriter::Create(folder_.File("none/x"), kOrigin);
  ASSERT_FALSE(nowhere.ok());
  EXPECT_NE(nowhere.status().message().find("none/x"), std::string::npos);
}

// A file that may not grow is what a full disk looks like.
TEST_F(PackFileTest, NothingIsLeftOnAFullDisk) {
  const std::string before = Example();
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {.rlim_cur = 6000, .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status status;
  {
    auto writer = PackWriter::Create(path_, kOrigin);
    EXPECT_TRUE(writer.ok());
    status = writer->Append(
        {"a"}, RandomMatrix(64, 64, WeightType::kF32, Layout::kOutIn));
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::kFailed);
  EXPECT_NE(status.message().find(path_), std::string::npos);
  EXPECT_EQ(folder_.Files(), std::vector<std::string>{"x.pack"});
  EXPECT_EQ(ReadAll(path_), before);
}

TEST_F(PackFileTest, EveryTruncationAndExtensionIsRefused) {
  const std::string whole = Example();
  for (size_t size = 0; size < whole.size();
       size += size < kHeaderBytes + 8 || size + 900 > whole.size() ? 1 : 97) {
    EXPECT_NE(Refusal(whole.substr(0, size)), "") << size;
  }
  EXPECT_NE(Refusal(whole + '\n'), "");
  EXPECT_EQ(Refusal(whole), "");
}

TEST_F(PackFileTest, FlippedBitsOfHeaderAndDirectoryAreRefused) {
  const std::string whole = Example();
  const size_t directory = Word(whole, 24);
  for (size_t byte = 0; byte < whole.size(); ++byte) {
    if (byte == kHeaderBytes) byte = directory;
    // All of the header, one a byte of the directory.
    for (size_t bit = 0; bit < 8; ++bit) {
      if (byte >= directory && bit != byte % 8) continue;
      std::string flipped = whole;
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << bit));
      EXPECT_NE(Refusal(flipped), "") << byte << " " << bit;
    }
  }
}

TEST_F(PackFileTest, HostileHeaders) {
  const std::string whole = Example();
  const auto with = [&](size_t offset, uint64_t value, size_t bytes) {
    std::string file = whole;
    std::memcpy(file.data() + offset, &value, bytes);
    return file;
  };
  ExpectRefusal("", "no pack file");
  ExpectRefusal(std::string(100, '\0'), "no pack file");
  ExpectRefusal(with(8, 2, 4), "field 'version' is 2, expected 1");
  ExpectRefusal(with(12, 0x04030201, 4), "byte_order");
  ExpectRefusal(with(16, 1, 8), "field 'file_bytes' is 1");
  for (const uint64_t value : {uint64_t{0}, uint64_t{71}, ~uint64_t{0}}) {
    ExpectRefusal(with(24, value, 8), "directory_begin");
    ExpectRefusal(with(32, value, 8), "directory_bytes");
  }
  ExpectRefusal(with(40, 0, 8), "directory_hash");
}

// Directories with the right hash.
TEST_F(PackFileTest, HostileDirectories) {
  const std::string whole = Example();
  for (const char* text : {"", "{", "[]", "3", "{}", "\xff\xfe"}) {
    ExpectRefusal(WithDirectory(whole, text), "packing");
  }
  ExpectRefusal(WithDirectory(whole, std::string(100000, '[')), "packing");
  for (const std::string number : {"1e999", "18446744073709551617", "-1"}) {
    ExpectRefusal(WithDirectory(whole, "{\"packing\":" + number + "}"),
                  "packing");
  }
  const auto expect = [&](const std::string& part, auto edit) {
    ExpectRefusal(Edited(whole, edit), part);
  };
  expect("field 'packing' is 2, expected 1",
         [](json& root) { root["packing"] = 2; });
  for (const char* field : {"packing", "checkpoint", "adapter", "matrices"}) {
    expect(field, [&](json& root) { root.erase(field); });
    expect(field, [&](json& root) { root[field] = -1.5; });
  }
  for (const char* field : {"tensors", "rows", "cols", "type", "layout",
                            "stride", "offset", "bytes", "squares", "error"}) {
    expect(field, [&](json& root) { root["matrices"][1].erase(field); });
    for (const json& value : {json(-1), json(false), json("x"), json({1})}) {
      expect("matrix 1",
             [&](json& root) { root["matrices"][1][field] = value; });
    }
  }
  for (const char* field : {"rows", "cols", "stride", "offset", "bytes"}) {
    for (const uint64_t value :
         {uint64_t{0}, uint64_t{200}, uint64_t{1} << 31, uint64_t{1} << 33,
          uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 4095}) {
      expect("matrix 0",
             [&](json& root) { root["matrices"][0][field] = value; });
    }
  }
  expect("matrix 0", [](json& root) { root["matrices"][0] = "x"; });
  expect("names",
         [](json& root) { root["matrices"][0]["tensors"] = json::array(); });
  expect("'offset'", [](json& root) {  // on top of the first
    root["matrices"][1]["offset"] = root["matrices"][0]["offset"];
  });
  expect("'offset'", [](json& root) {
    root["matrices"][1]["offset"] =
        root["matrices"][1]["offset"].get<size_t>() + 64;
  });
  expect("panel64", [](json& root) { root["matrices"][1]["type"] = "i8"; });
  expect("stands twice", [](json& root) {
    root["matrices"][1]["tensors"] = root["matrices"][0]["tensors"];
  });
}

// Whatever stands in a directory is refused or describes bytes of the file.
TEST_F(PackFileTest, RandomDirectoriesDoNoHarm) {
  const std::string whole = Example();
  const std::string directory = Directory(whole);
  std::mt19937 random(1);
  for (int round = 0; round < 1000; ++round) {
    std::string changed = directory;
    for (size_t i = random() % 4; i < 4; ++i) {
      changed[random() % changed.size()] = static_cast<char>(random());
    }
    WriteAll(path_, WithDirectory(whole, changed));
    const auto file = PackFile::Open(path_);
    if (!file.ok()) continue;
    for (const auto& [names, matrix] : file->matrices()) {
      const auto adopted = file->Adopt(matrix);
      ASSERT_TRUE(adopted.ok());
      std::vector<float> tile(adopted->rows() * adopted->cols());
      adopted->WidenTile(0, adopted->rows(), tile.data());
    }
  }
}

TEST_F(PackFileTest, MissingOrNoFile) {
  const auto missing = PackFile::Open(folder_.File("missing"));
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("missing"), std::string::npos);
  EXPECT_FALSE(PackFile::Open(folder_.path()).ok());
}

}  // namespace
}  // namespace rankforge
