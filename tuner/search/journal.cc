#include "tuner/search/journal.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace rankforge {
namespace {

using Json = nlohmann::json;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string HeaderLine(const JournalHeader& header) {
  return Line({{"schema", "rankforge-journal/2"},
               {"cpu",
                {{"vendor", header.cpu.vendor},
                 {"family", header.cpu.family},
                 {"model", header.cpu.model}}},
               {"cold", header.cold}});
}

// Every field of a candidate and of a trial, for writing and reading alike.
template <class Key, class Visitor>
void VisitCandidate(Key& candidate, const Visitor& visit) {
  visit("variant", candidate.variant);
  visit.Hash("spec", candidate.spec_hash);
  visit("layout", candidate.layout);
  visit("threads", candidate.threads);
}

template <class Trial, class Visitor>
void VisitTrial(Trial& trial, const Visitor& visit) {
  VisitCandidate(trial.candidate, visit);
  visit("density", trial.density);
  visit("ns", trial.sample.ns);
}

struct FieldWriter {
  void operator()(const char* key, const auto& value) const {
    json[key] = value;
  }
  void Hash(const char* key, uint64_t hash) const {
    json[key] = fmt::format("{:016x}", hash);
  }
  Json& json;
};

// Throws where a field is missing or of another type.
struct FieldReader {
  void operator()(const char* key, auto& value) const {
    json.at(key).get_to(value);
  }
  void Hash(const char* key, uint64_t& hash) const {
    const std::string text = json.at(key);
    std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  }
  const Json& json;
};

Json Event(const char* event, const std::string& workload) {
  return {{"event", event}, {"workload", workload}};
}

Json Event(const char* event, const std::string& workload,
           const CandidateKey& candidate) {
  Json json = Event(event, workload);
  VisitCandidate(candidate, FieldWriter{json});
  return json;
}

// Up to 11 days; more is damage. Written so that NaN is no time.
bool IsTime(double ns) { return ns > 0 && ns <= 1e15; }

// More is never written (MeasureAnchors).
bool IsDrift(double factor) { return factor > 0.8 && factor < 1.25; }

// Events that count when a run is resumed; others are for people to read.
constexpr char kTrial[] = "trial";
constexpr char kDiscard[] = "discard";
constexpr char kAnchor[] = "anchor";
constexpr char kDrift[] = "drift";
constexpr char kFinished[] = "finished";

void OnTrial(const Json& json, const std::string& workload,
             JournalState& state) {
  TrialRecord trial;
  VisitTrial(trial, FieldReader{json});
  if (IsTime(trial.sample.ns)) state.trials[workload].push_back(trial);
}

void OnDiscard(const Json&, const std::string& workload, JournalState& state) {
  state.trials.erase(workload);
}

void OnAnchor(const Json& json, const std::string& workload,
              JournalState& state) {
  CandidateKey anchor;
  VisitCandidate(anchor, FieldReader{json});
  std::erase_if(state.trials[workload], [&](const TrialRecord& trial) {
    return trial.candidate == anchor;
  });
}

void OnDrift(const Json& json, const std::string& workload,
             JournalState& state) {
  const double factor = json.at("factor");
  if (!IsDrift(factor)) return;
  for (TrialRecord& trial : state.trials[workload]) trial.sample.ns *= factor;
}

void OnFinished(const Json& json, const std::string& workload,
                JournalState& state) {
  state.finished[workload] = json.at("search");
}

// What each event does to what is known.
constexpr std::pair<const char*,
                    void (*)(const Json&, const std::string&, JournalState&)>
    kEvents[] = {{kTrial, OnTrial},
                 {kDiscard, OnDiscard},
                 {kAnchor, OnAnchor},
                 {kDrift, OnDrift},
                 {kFinished, OnFinished}};

// All events of a journal that begins with `header_line`.
Result<JournalState> ReadBack(const std::string& path,
                              const std::string& header_line) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line != header_line) {
    return Failed(fmt::format(
        "{}: journal of another CPU, version or setting ({:.160}; expected "
        "{}); remove it or leave out --resume",
        path, line, header_line));
  }
  JournalState state;
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    // Cut off by a kill: what was not finished was not logged.
    if (!json.is_object()) continue;
    try {
      const std::string event = json.at("event");
      for (const auto& [name, apply] : kEvents) {
        if (event == name) apply(json, json.at("workload"), state);
      }
    } catch (const Json::exception&) {
      return Failed(fmt::format(
          "{}: not a line of a journal: {:.120}; remove it or leave out "
          "--resume",
          path, line));
    }
  }
  return state;
}

}  // namespace

Result<Journal> Journal::Open(const std::string& path,
                              const JournalHeader& header, bool resume) {
  Journal journal;
  if (path.empty()) return journal;
  const std::string header_line = HeaderLine(header);
  // Empty: the earlier run was killed before it wrote anything.
  std::error_code error;
  const bool continues =
      resume && std::filesystem::file_size(path, error) > 0 && !error;
  if (continues) {
    RANKFORGE_ASSIGN_OR_RETURN(journal.earlier_, ReadBack(path, header_line));
  }
  journal.file_.open(path, continues ? std::ios::app : std::ios::trunc);
  // A killed run may have left half a line; the next one must start afresh.
  journal.file_ << (continues ? "\n" : header_line + "\n") << std::flush;
  if (!journal.file_) {
    return Failed(fmt::format(
        "{}: journal cannot be written; choose a writable path", path));
  }
  return journal;
}

const std::vector<TrialRecord>& Journal::Trials(
    const std::string& workload) const {
  static const std::vector<TrialRecord> kNone;
  const auto found = earlier_.trials.find(workload);
  return found == earlier_.trials.end() ? kNone : found->second;
}

bool Journal::IsFinished(const std::string& workload,
                         const std::string& search) const {
  const auto found = earlier_.finished.find(workload);
  return found != earlier_.finished.end() && found->second == search;
}

void Journal::WriteLine(const std::string& line) {
  if (file_.is_open()) file_ << line << std::endl;
}

void Journal::WriteSession(const TableBuild& build,
                           const TableEnvironment& environment) {
  WriteLine(
      Line({{"event", "session"},
            {"version", build.library_version},
            {"compiler", build.compiler},
            {"flags", build.flags},
            {"registry_hash", fmt::format("{:016x}", build.registry_hash)},
            {"governor", environment.governor},
            {"load", environment.load_average},
            {"thp", environment.huge_pages},
            {"boost", environment.boost},
            {"cpus", environment.cpus},
            {"shared_cores", environment.shared_cores},
            {"cpu_share", environment.cpu_share}}));
}

void Journal::WriteTrial(const std::string& workload,
                         const TrialRecord& trial) {
  Json json = Event(kTrial, workload);
  VisitTrial(trial, FieldWriter{json});
  WriteLine(Line(json));
}

void Journal::WriteDrop(const std::string& workload,
                        const CandidateKey& candidate, double density,
                        size_t rounds, double ratio) {
  Json json = Event("drop", workload, candidate);
  json["density"] = density;
  json["rounds"] = rounds;
  json["times_best"] = ratio;
  WriteLine(Line(json));
}

void Journal::WriteRefusal(const std::string& workload,
                           const CandidateKey& candidate, double density) {
  Json json = Event("refused", workload, candidate);
  json["density"] = density;
  WriteLine(Line(json));
}

void Journal::WriteRejection(const std::string& workload,
                             const std::string& variant,
                             const std::string& layout,
                             const std::string& reason) {
  Json json = Event("rejected", workload);
  json["variant"] = variant;
  json["layout"] = layout;
  json["reason"] = reason;
  WriteLine(Line(json));
}

void Journal::WriteDiscard(const std::string& workload) {
  WriteLine(Line(Event(kDiscard, workload)));
}

void Journal::WriteAnchor(const std::string& workload,
                          const CandidateKey& candidate) {
  WriteLine(Line(Event(kAnchor, workload, candidate)));
}

void Journal::WriteDrift(const std::string& workload, double factor) {
  Json json = Event(kDrift, workload);
  json["factor"] = factor;
  WriteLine(Line(json));
}

void Journal::WriteFinished(const std::string& workload,
                            const std::string& search) {
  Json json = Event(kFinished, workload);
  json["search"] = search;
  WriteLine(Line(json));
}

}  // namespace rankforge
