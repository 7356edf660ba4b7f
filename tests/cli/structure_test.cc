// The rules about who may include whom (docs/architecture.md), checked on the
// sources: a wrong include of a header-only part would link.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

// The rooms that each room may include, besides itself.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"meta", {}},
    {"kernels", {"meta"}},
    {"runtime", {"meta", "kernels"}},
    {"runtime/model", {"meta", "kernels", "runtime"}},
    {"tuner", {"meta", "kernels", "runtime"}},
    {"adapt", {"meta", "kernels", "runtime", "runtime/model"}},
    {"cli", {"meta", "kernels", "runtime", "runtime/model", "tuner", "adapt"}},
};

bool IsSource(const fs::path& path) {
  return path.extension() == ".h" || path.extension() == ".cc";
}

std::vector<fs::path> SourcesOf(const std::string& room) {
  std::vector<fs::path> sources;
  for (const auto& entry :
       fs::directory_iterator(fs::path(RANKFORGE_SOURCE_DIR) / room)) {
    if (IsSource(entry.path())) sources.push_back(entry.path());
  }
  return sources;
}

std::string ReadWhole(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Everything a file includes, as written.
std::vector<std::string> IncludesOf(const fs::path& path) {
  static const std::regex kInclude(
      R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">])re");
  const std::string text = ReadWhole(path);
  std::vector<std::string> includes;
  for (std::sregex_iterator match(text.begin(), text.end(), kInclude), end;
       match != end; ++match) {
    includes.push_back((*match)[1]);
  }
  return includes;
}

TEST(StructureTest, IncludesFollowTheDataFlow) {
  for (const auto& [room, allowed] : kMayInclude) {
    const std::vector<fs::path> sources = SourcesOf(room);
    EXPECT_FALSE(sources.empty()) << room;
    for (const fs::path& source : sources) {
      for (const std::string& include : IncludesOf(source)) {
        const std::string from = fs::path(include).parent_path().string();
        if (!kMayInclude.contains(from) || from == room) continue;
        EXPECT_TRUE(allowed.contains(from))
            << source << " includes " << include;
      }
    }
  }
}

TEST(StructureTest, NoHeaderOfALibraryShowsJsonOrSimd) {
  for (const auto& [room, allowed] : kMayInclude) {
    if (room == "cli") continue;  // a program, not a library
    for (const fs::path& source : SourcesOf(room)) {
      const std::string name = source.filename().string();
      if (!name.ends_with(".h") || name.ends_with("-inl.h")) continue;
      for (const std::string& include : IncludesOf(source)) {
        EXPECT_FALSE(include.starts_with("nlohmann/") ||
                     include.starts_with("hwy/") ||
                     include.starts_with("xsimd/"))
            << source << " includes " << include;
      }
    }
  }
}

// Two rooms with a type of one name link without a word, and the members of one
// run on the other.
TEST(StructureTest, NoTwoHeadersDefineOneName) {
  static const std::regex kType(
      R"re((?:^|\n)(?:struct|class) (\w+)[^;\n]*\{)re");
  std::map<std::string, fs::path> seen;
  for (const auto& [room, allowed] : kMayInclude) {
    for (const fs::path& source : SourcesOf(room)) {
      const std::string name = source.filename().string();
      // Included once for each target, in a namespace of its own.
      if (!name.ends_with(".h") || name.ends_with("-inl.h")) continue;
      const std::string text = ReadWhole(source);
      for (std::sregex_iterator match(text.begin(), text.end(), kType), end;
           match != end; ++match) {
        const auto [first, added] = seen.try_emplace((*match)[1], source);
        EXPECT_TRUE(added) << (*match)[1] << ": " << first->second << " and "
                           << source;
      }
    }
  }
  EXPECT_GT(seen.size(), 100u);
}

TEST(StructureTest, HeadersHaveTheGuardOfTheirPath) {
  for (const auto& [room, allowed] : kMayInclude) {
    for (const fs::path& source : SourcesOf(room)) {
      const std::string name = source.filename().string();
      if (!name.ends_with(".h") || name.ends_with("-inl.h")) continue;
      std::string guard = "RANKFORGE_" + room + "_" + name + "_";
      for (char& c : guard) {
        c = std::isalnum(static_cast<unsigned char>(c))
                ? static_cast<char>(std::toupper(c))
                : '_';
      }
      const std::string text = ReadWhole(source);
      EXPECT_NE(text.find("#ifndef " + guard + "\n#define " + guard + "\n"),
                std::string::npos)
          << source << " lacks " << guard;
    }
  }
}

}  // namespace
}  // namespace rankforge
