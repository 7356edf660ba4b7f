// A safetensors file is hostile until parsed: each damage has its own message.
#include "runtime/model/format/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "base/content_hash.h"
#include "runtime/plan/source_weight.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

std::string Container(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file + header + std::string(data_bytes, '\1');
}

class SafetensorsTest : public testing::Test {
 protected:
  // The message of opening `contents`, which must fail and name the file.
  std::string ErrorOf(const std::string& contents) {
    WriteAll(path_, contents);
    const auto file = SafetensorsFile::Open(path_);
    EXPECT_FALSE(file.ok());
    const std::string& message = file.status().message();
    EXPECT_NE(message.find(path_), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  void ExpectError(const std::string& contents, const std::string& part) {
    const std::string message = ErrorOf(contents);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("x.safetensors");
};

TEST_F(SafetensorsTest, WritesWhatItReads) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> b = {0x3f80, 0xbf80};
  const std::vector<uint16_t> c = {0x3c00, 0x0001};
  const std::vector<SafetensorsWriter::Tensor> tensors = {
      {"b", "BF16", {2}}, {"a", "F32", {2, 3}}, {"c", "F16", {1, 2}}};
  auto writer = SafetensorsWriter::Create(path_, tensors, {{"key", "value"}});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(writer->Append(std::as_bytes(std::span(b))).ok());
  ASSERT_TRUE(writer->Append(std::as_bytes(std::span(a))).ok());
  ASSERT_TRUE(writer->Append(std::as_bytes(std::span(c))).ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(folder_.Files(), std::vector<std::string>{"x.safetensors"});

  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata().at("key"), "value");
  EXPECT_EQ(file->tensors().size(), 3);
  const auto matrix = file->Matrix("a", 2, 3);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(SourceAt(*matrix, 1, 1), 5);
  const auto vector = file->Matrix("b", 1, 2);
  ASSERT_TRUE(vector.ok());
  EXPECT_EQ(SourceAt(*vector, 0, 0), 1);
  EXPECT_EQ(SourceAt(*vector, 0, 1), -1);
  const auto halves = file->Matrix("c", 1, 2);
  ASSERT_TRUE(halves.ok());
  EXPECT_EQ(SourceAt(*halves, 0, 0), 1);
  EXPECT_EQ(SourceAt(*halves, 0, 1), 0x1p-24f);
  const std::vector<size_t> shape = {2, 3};
  EXPECT_EQ(*file->Floats("a", shape), a);
}

TEST_F(SafetensorsTest, NothingIsLeftWithoutCommit) {
  const std::vector<SafetensorsWriter::Tensor> tensors = {{"a", "F32", {4}}};
  const std::vector<float> data(5);
  {
    auto writer = SafetensorsWriter::Create(path_, tensors, {});
    ASSERT_TRUE(writer.ok());
    EXPECT_FALSE(writer->Commit().ok());  // bytes are missing
    EXPECT_FALSE(writer->Append(std::as_bytes(std::span(data))).ok());
  }
  EXPECT_TRUE(folder_.Files().empty());
}

TEST_F(SafetensorsTest, WriterErrors) {
  const std::vector<SafetensorsWriter::Tensor> twice = {{"a", "F32", {1}},
                                                        {"a", "F32", {1}}};
  EXPECT_FALSE(SafetensorsWriter::Create(path_, twice, {}).ok());
  const std::vector<SafetensorsWriter::Tensor> unknown = {{"a", "F31", {1}}};
  EXPECT_FALSE(SafetensorsWriter::Create(path_, unknown, {}).ok());
  const auto nowhere =
      SafetensorsWriter::Create(folder_.File("none/x.safetensors"), {}, {});
  ASSERT_FALSE(nowhere.ok());
  EXPECT_NE(nowhere.status().message().find("none/x.safetensors"),
            std::string::npos);
  const auto onto_folder = SafetensorsWriter::Create(folder_.path(), {}, {});
  EXPECT_FALSE(onto_folder.ok());
  EXPECT_TRUE(folder_.Files().empty());
}

TEST_F(SafetensorsTest, MissingOrNoFile) {
  const auto missing = SafetensorsFile::Open(folder_.File("missing"));
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("No such file"), std::string::npos);
  EXPECT_FALSE(SafetensorsFile::Open(folder_.path()).ok());
}

TEST_F(SafetensorsTest, HostileHeaders) {
  ExpectError("", "too short");
  ExpectError("1234567", "too short");
  std::string oversized = Container("{}", 0);
  const uint64_t huge = 100'000'001;
  std::memcpy(oversized.data(), &huge, sizeof(huge));
  ExpectError(oversized, "100000001");
  const uint64_t largest = std::numeric_limits<uint64_t>::max();
  std::memcpy(oversized.data(), &largest, sizeof(largest));
  ExpectError(oversized, "limit");
  const uint64_t beyond = 3;
  std::memcpy(oversized.data(), &beyond, sizeof(beyond));
  ExpectError(oversized, "beyond the end");
  ExpectError(Container("{", 0), "not JSON");
  ExpectError(Container("\xff\xfe{}", 0), "not JSON");
  ExpectError(Container("", 0), "not JSON");
  ExpectError(Container("[1]", 0), "not a JSON object");
  ExpectError(Container(std::string(100000, '['), 0), "not JSON");
  ExpectError(Container("{\"a\":" + std::string(1000, '1') + "}", 0),
              "not JSON");
  ExpectError(Container(R"({"__metadata__":{"a":1}})", 0), "__metadata__");
  ExpectError(Container(R"({"__metadata__":[]})", 0), "__metadata__");
}

TEST_F(SafetensorsTest, HostileTensors) {
  const auto expect = [&](const std::string& entry, const std::string& part) {
    ExpectError(Container("{\"t\":" + entry + "}", 8), part);
  };
  expect("3", "'t'");
  expect(R"({"shape":[2],"data_offsets":[0,8]})", "dtype");
  expect(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})", "dtype");
  expect(R"({"dtype":"F31","shape":[2],"data_offsets":[0,9]})", "outside");
  expect(R"({"dtype":"F32","data_offsets":[0,8]})", "'shape'");
  expect(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", "'shape'");
  expect(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "'shape'");
  expect(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "'shape'");
  expect(R"({"dtype":"F32","shape":[2]})", "'data_offsets'");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "'data_offsets'");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "outside");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", "outside");
  expect(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", "F32 (3)");
  expect(R"({"dtype":"BF16","shape":[2],"data_offsets":[0,8]})", "BF16 (2)");
  // The product of the shape overflows to 8 bytes, or to zero.
  expect(R"({"dtype":"F32","shape":[4611686018427387906],)"
         R"("data_offsets":[0,8]})",
         "8 bytes");
  expect(R"({"dtype":"F32","shape":[4294967296,4294967296],)"
         R"("data_offsets":[0,0]})",
         "0 bytes");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})",
         "twice");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("u":{"dtype":"F32","shape":[1],"data_offsets":[4,8]})",
         "overlap");
}

TEST_F(SafetensorsTest, EveryTruncationIsAnError) {
  const std::string whole =
      Container(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  WriteAll(path_, whole);
  ASSERT_TRUE(SafetensorsFile::Open(path_).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    ErrorOf(whole.substr(0, size));
  }
}

TEST_F(SafetensorsTest, WrongRequests) {
  WriteAll(path_,
           Container(R"({"i":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},)"
                     R"("f":{"dtype":"F32","shape":[2,1],)"
                     R"("data_offsets":[8,16]}})",
                     16));
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto expect = [&](const Result<SourceMatrix>& result,
                          const std::string& part) {
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.status().message().find(part), std::string::npos)
        << result.status().message();
  };
  expect(file->Matrix("none", 1, 2), "'none' is missing");
  expect(file->Matrix("i", 1, 2), "dtype I32");
  expect(file->Matrix("f", 1, 2), "F32 (2, 1), expected (2)");
  expect(file->Matrix("f", 3, 1), "expected (3, 1)");
  const std::vector<size_t> shape = {2};
  EXPECT_TRUE(file->Bytes("i", "I32", shape).ok());
  EXPECT_FALSE(file->Bytes("i", "I64", shape).ok());
  EXPECT_FALSE(file->Floats("f", shape).ok());
}

TEST(ContentHashTest, PartsAreThePiece) {
  std::vector<std::byte> data(1000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = std::byte(i * 7);
  for (const size_t part : {32, 96, 992}) {
    ContentHash hash;
    hash.Begin(data.size());
    for (size_t begin = 0; begin < data.size(); begin += part) {
      hash.Continue(
          std::span(data).subspan(begin, std::min(part, data.size() - begin)));
    }
    EXPECT_EQ(hash.Digest(), HashBytes(data)) << part;
  }
}

TEST(ContentHashTest, EveryByteCounts) {
  std::vector<std::byte> data(77);
  const std::string original = HashBytes(data);
  EXPECT_EQ(original.size(), 32);
  EXPECT_EQ(HashBytes(data), original);
  for (std::byte& value : data) {
    value = std::byte{1};
    EXPECT_NE(HashBytes(data), original);
    value = std::byte{0};
  }
  EXPECT_NE(HashBytes(std::span(data).first(76)), original);
}

}  // namespace
}  // namespace rankforge
