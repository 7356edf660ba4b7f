// The GGUF container: what is read of right files, and that wrong ones are
// errors that name what is wrong.
#include "runtime/model/format/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "base/files.h"
#include "kernels/numbers/ggml_block.h"
#include "tests/model/gguf_fuzz.h"
#include "tests/model/gguf_writer.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

constexpr uint32_t kF32 = 0, kQ8 = 8, kUnknownType = 29;

// A file with a value of each kind and tensors of three types.
GgufWriter Sample() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama");
  writer.Count("llama.block_count", 2);
  writer.Raw("small", GgufType::kInt8, BytesOfValue<int8_t>(-3));
  writer.Raw("large", GgufType::kUint64,
             BytesOfValue<uint64_t>(uint64_t{1} << 40));
  writer.Number("epsilon", 0.5f);
  writer.Raw("double", GgufType::kFloat64, BytesOfValue(0.25));
  writer.Flag("yes", true);
  writer.Texts("words", {"a", "", "bcd"});
  writer.Array("numbers", GgufType::kInt16,
               {BytesOfValue<int16_t>(7), BytesOfValue<int16_t>(-7)});
  writer.Tensor("matrix", kF32, {2, 3}, std::string(24, '\1'));
  writer.Tensor("blocks", kQ8, {3, 64}, std::string(6 * 34, '\2'));
  writer.Tensor("other", kUnknownType, {7}, std::string(5, '\3'));
  return writer;
}

class GgufTest : public testing::Test {
 protected:
  Result<GgufFile> OpenBytes(const std::string& bytes) {
    WriteAll(path_, bytes);
    return GgufFile::Open(path_);
  }
  // The message of a file that must not open.
  std::string ErrorOf(const std::string& bytes) {
    const Result<GgufFile> file = OpenBytes(bytes);
    EXPECT_FALSE(file.ok());
    if (file.ok()) return "";
    EXPECT_TRUE(file.status().message().starts_with(path_));
    return file.status().message().substr(path_.size());
  }
  void ExpectError(const std::string& bytes, const std::string& part) {
    const std::string error = ErrorOf(bytes);
    EXPECT_NE(error.find(part), std::string::npos) << error;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("model.gguf");
};

TEST_F(GgufTest, ReadsValuesAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer = Sample();
    writer.version = version;
    const Result<GgufFile> file = OpenBytes(writer.Build());
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(*file->Text("general.architecture"), "llama");
    EXPECT_EQ(*file->Count("llama.block_count"), 2u);
    EXPECT_EQ(*file->Count("large"), uint64_t{1} << 40);
    EXPECT_EQ(*file->Number("small"), -3);
    EXPECT_EQ(*file->Number("epsilon"), 0.5);
    EXPECT_EQ(*file->Number("double"), 0.25);
    EXPECT_EQ(*file->Flag("yes"), true);
    EXPECT_EQ(*file->Flag("no"), std::nullopt);
    using Words = std::vector<std::string_view>;
    EXPECT_EQ(**file->Texts("words"), (Words{"a", "", "bcd"}));
    EXPECT_EQ(**file->Numbers("numbers"), (std::vector<double>{7, -7}));
    ASSERT_EQ(file->tensors().size(), 3u);
    const GgufTensor& blocks = file->tensors().at("blocks");
    EXPECT_EQ(blocks.shape, (std::vector<size_t>{3, 64}));
    EXPECT_EQ(blocks.bytes.size(), 6u * 34);
    EXPECT_EQ(blocks.bytes.front(), std::byte{2});
    EXPECT_EQ(blocks.bytes.back(), std::byte{2});
    EXPECT_EQ(file->tensors().at("other").format, nullptr);
  }
}

TEST_F(GgufTest, ValuesOfAnotherTypeAreErrors) {
  const Result<GgufFile> file = OpenBytes(Sample().Build());
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->Count("small").ok());  // -3
  EXPECT_FALSE(file->Count("epsilon").ok());
  EXPECT_FALSE(file->Count("words").ok());
  EXPECT_FALSE(file->Count("yes").ok());
  EXPECT_FALSE(file->Number("general.architecture").ok());
  EXPECT_FALSE(file->Flag("llama.block_count").ok());
  EXPECT_FALSE(file->Text("words").ok());
  EXPECT_FALSE(file->Texts("numbers").ok());
  EXPECT_FALSE(file->Numbers("words").ok());
  EXPECT_FALSE(file->Numbers("small").ok());
  const std::string error = file->Count("words").status().message();
  EXPECT_NE(error.find("'words' is no integer"), std::string::npos) << error;
}

TEST_F(GgufTest, EveryTruncationIsAnError) {
  const std::string whole = Sample().Build();
  // The last tensor is of no type that is read, so its bytes may be missing.
  const size_t needed = 2 * 32 - 8 + 224;
  for (size_t size = 0; size + needed < whole.size(); ++size) {
    EXPECT_FALSE(OpenBytes(whole.substr(0, size)).ok()) << size;
  }
}

TEST_F(GgufTest, NamesWhatIsWrong) {
  ExpectError("", "magic number");
  ExpectError("GGML\3\0\0\0", "does not begin with 'GGUF'");
  GgufWriter writer = Sample();
  writer.version = 1;
  ExpectError(writer.Build(), "field 'version' is 1");
  writer.version = 0x03000000;
  ExpectError(writer.Build(), "big endian");

  writer = Sample();
  writer.Count("llama.block_count", 2);
  ExpectError(writer.Build(), "metadata 'llama.block_count' stands twice");

  writer = Sample();
  writer.Tensor("blocks", kF32, {1}, "1234");
  ExpectError(writer.Build(), "tensor 'blocks' stands twice");

  writer = Sample();
  writer.Raw("odd", static_cast<GgufType>(13), "");
  ExpectError(writer.Build(), "metadata 'odd' has the unknown type 13");

  writer = Sample();
  writer.Array("nested", GgufType::kArray, {});
  ExpectError(writer.Build(), "'nested' is an array of arrays");

  writer = Sample();
  writer.Count("general.alignment", 12);
  ExpectError(writer.Build(), "field 'general.alignment' is 12");
}

TEST_F(GgufTest, SizesBeyondTheFileAreErrors) {
  constexpr uint64_t kHuge = uint64_t{1} << 63;
  GgufWriter writer = Sample();
  writer.Raw("text", GgufType::kString, BytesOfValue(kHuge) + "x");
  ExpectError(writer.Build(), "metadata 'text' has a string of 92233720368");

  for (const GgufType type : {GgufType::kInt64, GgufType::kString}) {
    writer = Sample();
    writer.Raw("list", GgufType::kArray,
               BytesOfValue(static_cast<uint32_t>(type)) + BytesOfValue(kHuge));
    ExpectError(writer.Build(), "metadata 'list' has");
  }

  // Products of dimensions that overflow, or are zero where one is huge.
  const std::vector<std::vector<uint64_t>> shapes = {
      {kHuge, 2},
      {kHuge, kHuge},
      {uint64_t{1} << 33, uint64_t{1} << 33},
      {1000},
      {2, kHuge, 0, kHuge}};
  for (const auto& shape : shapes) {
    writer = Sample();
    writer.Tensor("large", kF32, shape, "");
    const Result<GgufFile> file = OpenBytes(writer.Build());
    if (std::ranges::count(shape, 0u) > 0 && file.ok()) {
      EXPECT_TRUE(file->tensors().at("large").bytes.empty());
    } else {
      EXPECT_FALSE(file.ok());
    }
  }

  writer = Sample();
  writer.Tensor("rank", kF32, {1, 1, 1, 1, 1}, "");
  ExpectError(writer.Build(), "tensor 'rank' has 5 dimensions");
  writer = Sample();
  writer.Tensor("line", kQ8, {2, 33}, std::string(100, '\0'));
  ExpectError(writer.Build(), "tensor 'line' has lines of 33 weights, Q8_0");
}

// Counts of a header of nothing else.
TEST_F(GgufTest, CountsBeyondTheFileAreErrors) {
  for (const uint64_t count : {uint64_t{1}, ~uint64_t{0}}) {
    const std::string begin = "GGUF" + BytesOfValue<uint32_t>(3);
    const std::string none = BytesOfValue<uint64_t>(0);
    ExpectError(begin + BytesOfValue(count) + none, "list of tensors");
    ExpectError(begin + none + BytesOfValue(count), "metadata");
  }
}

TEST_F(GgufTest, OffsetsAreChecked) {
  std::string bytes = Sample().Build();
  // The offset of "blocks" follows its name, dimensions and type.
  const size_t at = bytes.find("blocks") + 6 + 4 + 2 * 8 + 4;
  for (const uint64_t offset : {uint64_t{1} << 62, ~uint64_t{0} - 31,
                                uint64_t{1} << 12, uint64_t{33}}) {
    std::memcpy(&bytes[at], &offset, sizeof(offset));
    ExpectError(bytes, "tensor 'blocks' lies");
  }
}

// Names come from the file and go to a terminal.
TEST_F(GgufTest, MessagesArePrintable) {
  GgufWriter writer = Sample();
  writer.Raw(std::string("\x1b[2J\xff") + std::string(1000, 'x'),
             static_cast<GgufType>(99), "");
  const std::string error = ErrorOf(writer.Build());
  EXPECT_LT(error.size(), 400u);
  for (const char c : error) EXPECT_TRUE(c >= ' ' && c <= '~') << error;
}

class SplitGgufTest : public GgufTest {
 protected:
  // Part `number` of two, from 0.
  void Write(size_t number, const GgufWriter& writer) {
    WriteAll(folder_.File(number == 0 ? "m-00001-of-00002.gguf"
                                      : "m-00002-of-00002.gguf"),
             writer.Build());
  }
  static GgufWriter Part(uint16_t number) {
    GgufWriter writer;
    writer.Raw("split.no", GgufType::kUint16, BytesOfValue(number));
    writer.Raw("split.count", GgufType::kUint16, BytesOfValue<uint16_t>(2));
    writer.Raw("split.tensors.count", GgufType::kInt32,
               BytesOfValue<int32_t>(2));
    writer.Tensor(number == 0 ? "first" : "second", kF32, {1},
                  BytesOfValue(1.0f + number));
    return writer;
  }
  std::string Error() {
    const auto file = GgufFile::Open(folder_.File("m-00001-of-00002.gguf"));
    return file.ok() ? "" : file.status().message();
  }
};

TEST_F(SplitGgufTest, PartsAreOneFile) {
  Write(0, Part(0));
  Write(1, Part(1));
  const auto file = GgufFile::Open(folder_.File("m-00001-of-00002.gguf"));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->parts().size(), 2u);
  float second;
  std::memcpy(&second, file->tensors().at("second").bytes.data(), 4);
  EXPECT_EQ(second, 2);
  EXPECT_EQ(file->tensors().size(), 2u);
}

TEST_F(SplitGgufTest, PartsThatDoNotFitAreErrors) {
  Write(0, Part(0));
  EXPECT_NE(Error().find("m-00002-of-00002.gguf: is missing; "),
            std::string::npos)
      << Error();
  EXPECT_NE(Error().find("m-00001-of-00002.gguf is the first of 2 files"),
            std::string::npos)
      << Error();
  Write(1, Part(0));
  EXPECT_NE(Error().find("'split.no' is 0, not 1"), std::string::npos);
  GgufWriter twice = Part(1);
  twice.Tensor("first", kF32, {1}, "1234");
  Write(1, twice);
  EXPECT_NE(Error().find("tensor 'first' stands in an earlier file"),
            std::string::npos);
  GgufWriter more = Part(1);
  more.Tensor("third", kF32, {1}, "1234");
  Write(1, more);
  EXPECT_NE(Error().find("'split.tensors.count' is 2, the files have 3"),
            std::string::npos);
  Write(1, Part(1));
  const auto later = GgufFile::Open(folder_.File("m-00002-of-00002.gguf"));
  ASSERT_FALSE(later.ok());
  EXPECT_NE(later.status().message().find("'-00001-of-00002.gguf'"),
            std::string::npos);
}

// Reads everything that a file has.
size_t ReadEverything(const GgufFile& file) {
  size_t read = 0;
  for (const auto& [key, value] : file.metadata()) {
    read += file.Count(key).ok() + file.Number(key).ok() + file.Flag(key).ok() +
            file.Text(key).ok() + file.Texts(key).ok() + file.Numbers(key).ok();
  }
  for (const auto& [name, tensor] : file.tensors()) {
    if (tensor.format == nullptr) continue;
    float widened[kMaxGgmlWeights];
    const size_t step = tensor.format->bytes;
    for (size_t i = 0; i + step <= tensor.bytes.size(); i += step) {
      tensor.format->widen(&tensor.bytes[i], widened);
      ++read;
    }
  }
  return read;
}

// Headers with wrong bytes are errors, or files whose parts lie inside of them.
TEST_F(GgufTest, MutatedHeadersAreSafe) {
  const size_t runs = FuzzRuns(20000);
  const std::string whole = Sample().Build();
  const MemoryFile memory;
  std::mt19937 random(1);
  size_t opened = 0, read = 0;
  for (size_t run = 0; run < runs; ++run) {
    const std::string bytes = Mutated(whole, random);
    ASSERT_TRUE(memory.Write(bytes));
    const Result<GgufFile> file = GgufFile::Open(memory.path());
    if (!file.ok()) continue;
    ++opened;
    read += ReadEverything(*file);
  }
  EXPECT_GT(opened, runs / 100);
  EXPECT_LT(opened, runs);
  EXPECT_GT(read, opened);
}

// Every type of blocks against gguf.quants of the gguf package, bit for bit
// (scripts/gguf_fixtures.py).
TEST(GgmlBlockTest, WidensAsTheGgufPackage) {
  const auto file =
      GgufFile::Open(RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/blocks.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  for (const GgmlFormat& format : GgmlFormats()) {
    const std::string name(format.name);
    ASSERT_TRUE(file->tensors().contains(name)) << name;
    const GgufTensor& blocks = file->tensors().at(name);
    const GgufTensor& widened = file->tensors().at(name + ".widened");
    ASSERT_EQ(blocks.format, &format);
    ASSERT_EQ(blocks.shape, widened.shape);
    const size_t count = blocks.bytes.size() / format.bytes;
    ASSERT_GT(count, 0u);
    std::vector<float> values(count * format.weights);
    for (size_t i = 0; i < count; ++i) {
      format.widen(&blocks.bytes[i * format.bytes],
                   &values[i * format.weights]);
    }
    ASSERT_EQ(widened.bytes.size(), values.size() * sizeof(float));
    EXPECT_EQ(
        std::memcmp(values.data(), widened.bytes.data(), widened.bytes.size()),
        0)
        << name;
  }
}

}  // namespace
}  // namespace rankforge
