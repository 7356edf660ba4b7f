// Documents name what exists: files, types, functions, and each other.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

std::string ReadText(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Files of the project with one of these endings; build folders and what is
// hidden left out.
std::vector<fs::path> FilesWith(const std::set<std::string>& endings) {
  std::vector<fs::path> files;
  for (auto entry = fs::recursive_directory_iterator(RANKFORGE_SOURCE_DIR);
       entry != fs::recursive_directory_iterator(); ++entry) {
    const fs::path& path = entry->path();
    const std::string name = path.filename().string();
    if (entry->is_directory() && (name == "build" || name.starts_with("."))) {
      entry.disable_recursion_pending();
    }
    if (endings.contains(path.extension().string())) files.push_back(path);
  }
  return files;
}

// Group `group` of every match.
std::vector<std::string> Matches(const std::string& text,
                                 const std::regex& pattern, size_t group) {
  std::vector<std::string> found;
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end;
       match != end; ++match) {
    found.push_back((*match)[group]);
  }
  return found;
}

// All words of the sources: what a document may call a name.
std::set<std::string> WordsOfSources() {
  static const std::regex kWord("[A-Za-z_][A-Za-z_0-9]+");
  std::set<std::string> words;
  for (const fs::path& path : FilesWith({".h", ".cc", ".py"})) {
    for (const std::string& word : Matches(ReadText(path), kWord, 0)) {
      words.insert(word);
    }
  }
  return words;
}

// Anchors of headings as GitHub makes them, and those written as <a id>.
std::set<std::string> Anchors(const std::string& text) {
  static const std::regex kHeading("(^|\n)#+ ([^\n]*)");
  static const std::regex kWritten("<a id=\"([^\"]*)\">");
  std::set<std::string> anchors;
  for (const std::string& heading : Matches(text, kHeading, 2)) {
    std::string anchor;
    for (const char c : heading) {
      if (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_') {
        anchor += static_cast<char>(std::tolower(c));
      } else if (c == ' ') {
        anchor += '-';
      }
    }
    anchors.insert(anchor);
  }
  for (const std::string& anchor : Matches(text, kWritten, 1)) {
    anchors.insert(anchor);
  }
  return anchors;
}

TEST(DocumentsTest, FilesThatTheyNameExist) {
  static const std::regex kFile(
      "(^|[^A-Za-z0-9_/.-])((adapt|base|bench|cli|cmake|docs|examples|"
      "generated|kernels|meta|runtime|scripts|tests|tuner)/[A-Za-z0-9_/.-]+"
      "\\.(cc|cmake|h|json|md|py|sh|svg|txt))");
  size_t seen = 0;
  for (const fs::path& document : FilesWith({".md"})) {
    for (const std::string& file : Matches(ReadText(document), kFile, 2)) {
      ++seen;
      EXPECT_TRUE(fs::exists(fs::path(RANKFORGE_SOURCE_DIR) / file))
          << document << " names " << file;
    }
  }
  EXPECT_GT(seen, 50u);
}

// Quoted names of more than one hump, of constants and of members.
TEST(DocumentsTest, NamesThatTheyUseAreInTheSources) {
  static const std::regex kQuoted(
      "`((k[A-Z]|[A-Z][a-z0-9]+[A-Z]|[A-Z][a-z]+::)[A-Za-z0-9]*(::[A-Za-z]+)*)"
      "`");
  static const std::regex kPart("[A-Za-z0-9]+");
  const std::set<std::string> words = WordsOfSources();
  size_t seen = 0;
  for (const fs::path& document : FilesWith({".md"})) {
    for (const std::string& name : Matches(ReadText(document), kQuoted, 1)) {
      for (const std::string& part : Matches(name, kPart, 0)) {
        ++seen;
        EXPECT_TRUE(words.contains(part)) << document << " names " << name;
      }
    }
  }
  EXPECT_GT(seen, 50u);
}

TEST(DocumentsTest, LinksLeadSomewhere) {
  static const std::regex kLink("\\]\\(([^)#: ]*)(#([^) ]*))?\\)");
  size_t seen = 0;
  for (const fs::path& document : FilesWith({".md"})) {
    const std::string text = ReadText(document);
    for (std::sregex_iterator match(text.begin(), text.end(), kLink), end;
         match != end; ++match) {
      ++seen;
      const std::string file = (*match)[1], anchor = (*match)[3];
      const fs::path target =
          file.empty() ? document : document.parent_path() / file;
      ASSERT_TRUE(fs::exists(target)) << document << " links to " << file;
      if (anchor.empty()) continue;
      EXPECT_TRUE(Anchors(ReadText(target)).contains(anchor))
          << document << " links to " << file << "#" << anchor;
    }
  }
  EXPECT_GT(seen, 20u);
}

}  // namespace
}  // namespace rankforge
