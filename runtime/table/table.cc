// Reads and writes the file of a dispatch table. docs/table.md describes it.
#include "runtime/table/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/json_fields.h"
#include "kernels/registry.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

constexpr const char* kSchema = "rankforge-table/1";
constexpr const char* kNextStep = "run `rankforge tune` again";

// Bounds beyond which a number can only be damage. 2^31 rows or columns, 1024
// threads or tokens.
constexpr size_t kMaxExtent = size_t{1} << 31;
constexpr size_t kMaxThreads = 1024;
// The largest real table is under 1 MB; more is not a table.
constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxDepth = 16;

// Three decimals are below every noise and keep files short and diffs small.
double Rounded(double value) { return std::round(value * 1000) / 1000; }

std::string HashText(uint64_t hash) { return fmt::format("{:016x}", hash); }

// ---------------------------------------------------------------------------
// The text

// "rows is 0, expected an integer from 1 to 5".
std::string TextOf(const FieldError& error) {
  if (error.empty()) return "";
  return fmt::format("{} is {}, {}", PathOf(error.where, error.field),
                     error.value, error.reason);
}

Result<std::string> ReadTable(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    return ReadTextFile(path, kMaxFileBytes);
  }
  return Failed(fmt::format(
      "{}: no such table; run `rankforge tune --out {}` first", path, path));
}

// ---------------------------------------------------------------------------
// The fields of the file

// Fills fields from an object of the file.
class Reader {
 public:
  explicit Reader(JsonFields fields) : fields_(std::move(fields)) {}

  void Text(const char* key, std::string& value) { value = fields_.Text(key); }
  void Texts(const char* key, std::vector<std::string>& value) {
    value = fields_.Texts(key);
  }
  void Flag(const char* key, bool& value) { value = fields_.Flag(key); }
  void Hash(const char* key, uint64_t& value) { value = fields_.Hash(key); }
  void Share(const char* key, double& value) {
    value = fields_.Number(key, 0, 1);
  }
  void Number(const char* key, double& value,
              double high = JsonFields::kMaxNumber) {
    value = fields_.Number(key, 0, high);
  }
  template <class Int>
  void Count(const char* key, Int& value, uint64_t low = 0,
             uint64_t high = std::numeric_limits<Int>::max()) {
    value = static_cast<Int>(fields_.Count(key, low, high));
  }
  template <class Enum, size_t n>
  void OneOf(const char* key, Enum& value, const std::array<Enum, n>& values) {
    value = fields_.OneOf(key, values);
  }
  void ByThreads(const char* key, std::map<size_t, double>& values) {
    JsonFields numbers = fields_.Object(key);
    for (const auto& item : numbers.json().items()) {
      size_t threads = 0;
      const std::string& text = item.key();
      std::from_chars(text.data(), text.data() + text.size(), threads);
      if (threads > 0) values[threads] = numbers.Number(text);
    }
  }
  template <class Visit>
  void Object(const char* key, Visit visit) {
    Reader inner(fields_.Object(key));
    visit(inner);
  }
  template <class T, class Visit>
  void List(const char* key, std::vector<T>& list, Visit visit) {
    for (const Json& element : fields_.Array(key)) {
      Reader inner(fields_.Inner(
          element, fmt::format("{}[{}]", fields_.PathOf(key), list.size())));
      visit(inner, list.emplace_back());
    }
  }
  // Fields that may be absent together: `key` is one of them.
  template <class Visit>
  void Optional(const char* key, bool, Visit visit) {
    if (fields_.Has(key)) visit(*this);
  }

 private:
  JsonFields fields_;
};

// Writes fields to an object of the file.
class Writer {
 public:
  explicit Writer(Json* object) : object_(*object) {}

  void Text(const char* key, const std::string& value) { object_[key] = value; }
  void Texts(const char* key, const std::vector<std::string>& value) {
    object_[key] = value;
  }
  void Flag(const char* key, bool value) { object_[key] = value; }
  void Hash(const char* key, uint64_t value) { object_[key] = HashText(value); }
  // As it is: a bound that a look-up compares with.
  void Share(const char* key, double value) { object_[key] = value; }
  // Rounded: a measurement.
  void Number(const char* key, double value, double = 0) {
    object_[key] = Rounded(value);
  }
  template <class Int>
  void Count(const char* key, Int value, uint64_t = 0, uint64_t = 0) {
    object_[key] = value;
  }
  template <class Enum, size_t n>
  void OneOf(const char* key, Enum value, const std::array<Enum, n>&) {
    object_[key] = Name(value);
  }
  void ByThreads(const char* key, const std::map<size_t, double>& values) {
    Json& object = object_[key] = Json::object();
    for (const auto& [threads, value] : values) {
      object[std::to_string(threads)] = Rounded(value);
    }
  }
  template <class Visit>
  void Object(const char* key, Visit visit) {
    Writer inner(&object_[key]);
    visit(inner);
  }
  template <class T, class Visit>
  void List(const char* key, const std::vector<T>& list, Visit visit) {
    Json& array = object_[key] = Json::array();
    for (const T& element : list) {
      Writer inner(&array.emplace_back());
      visit(inner, element);
    }
  }
  template <class Visit>
  void Optional(const char*, bool present, Visit visit) {
    if (present) visit(*this);
  }

 private:
  Json& object_;
};

// The list of the fields of each object: `file` is a Reader or a Writer, the
// other argument what it fills or writes.

void VisitCpu(auto& file, auto& cpu) {
  file.Object("cpu", [&](auto& identity) {
    identity.Text("vendor", cpu.vendor);
    identity.Count("family", cpu.family);
    identity.Count("model", cpu.model);
    identity.Count("stepping", cpu.stepping);
    identity.Optional("microcode", !cpu.microcode.empty(), [&](auto& optional) {
      optional.Text("microcode", cpu.microcode);
    });
    identity.Text("brand", cpu.brand);
  });
  file.Texts("targets", cpu.targets);
  file.Object("caches", [&](auto& caches) {
    caches.Count("l1d_bytes", cpu.l1d_bytes);
    caches.Count("l2_bytes", cpu.l2_bytes);
    caches.Count("l3_bytes", cpu.l3_bytes);
  });
  file.Count("cores", cpu.cores);
  file.Flag("hypervisor", cpu.hypervisor);
}

// Of the whole document.
void VisitBuild(auto& file, auto& build) {
  file.Object("library", [&](auto& library) {
    library.Text("version", build.library_version);
  });
  file.Object("build", [&](auto& fields) {
    fields.Text("compiler", build.compiler);
    fields.Text("flags", build.flags);
    fields.Hash("registry_hash", build.registry_hash);
  });
}

void VisitEnvironment(auto& file, auto& environment) {
  file.Text("governor", environment.governor);
  file.Number("load", environment.load_average);
  file.Number("steal", environment.steal_share);
  file.Text("thp", environment.huge_pages);
  file.Text("confidence", environment.confidence);
  file.Text("confidence_reason", environment.confidence_reason);
  // Not every table of this schema says these.
  file.Optional("cpus", !environment.cpus.empty(), [&](auto& optional) {
    optional.Text("boost", environment.boost);
    optional.Text("cpus", environment.cpus);
    optional.Flag("shared_cores", environment.shared_cores);
    optional.Number("cpu_share", environment.cpu_share, 1);
  });
  file.ByThreads("read_gbps", environment.read_gbps);
}

void VisitPolicy(auto& file, auto& policy) {
  file.Text("rigor", policy.rigor);
  file.Count("seed", policy.seed);
  file.Share("margin", policy.margin);
  file.Flag("cold", policy.cold);
}

void VisitProblem(auto& file, auto& problem) {
  file.OneOf("operation", problem.operation, kOperations);
  file.Count("rows", problem.rows, 1, kMaxExtent);
  file.Count("cols", problem.cols, 1, kMaxExtent);
  file.OneOf("type", problem.type, kWeightTypes);
  file.Count("granularity", problem.granularity, 1, kMaxGranularity);
  file.Count("batch", problem.batch, 1, kMaxThreads);
  file.Count("threads", problem.threads, 1, kMaxThreads);
  // Not said where inputs are exact, as in tables of builds that knew no
  // others.
  file.Optional("activations", problem.activations != Activations::kF32,
                [&](auto& optional) {
                  optional.OneOf("activations", problem.activations,
                                 kActivations);
                });
}

void VisitBucket(auto& file, auto& bucket) {
  file.Share("max", bucket.max_density);
  file.Text("variant", bucket.variant);
  file.Hash("spec", bucket.spec_hash);
  file.Object("ns", [&](auto& ns) {
    ns.Number("median", bucket.ns.median);
    ns.Number("mad", bucket.ns.mad);
    ns.Number("min", bucket.ns.min);
    ns.Count("n", bucket.ns.n);
  });
  file.Number("useful_gbps", bucket.useful_gbps);
  file.Number("roofline", bucket.roofline);
  file.Number("vs_default", bucket.vs_default);
  file.Optional("runner_up", !bucket.runner_up.empty(), [&](auto& optional) {
    optional.Object("runner_up", [&](auto& runner_up) {
      runner_up.Text("variant", bucket.runner_up);
      runner_up.Number("ns", bucket.runner_up_ns);
    });
  });
}

void VisitEntry(auto& file, auto& entry) {
  file.Object("problem",
              [&](auto& problem) { VisitProblem(problem, entry.problem); });
  file.Texts("layers", entry.layers);
  file.Optional("masks", !entry.masks.empty(),
                [&](auto& optional) { optional.Text("masks", entry.masks); });
  auto& decision = entry.decision;
  file.OneOf("layout", decision.layout, kLayouts);
  file.Count("threads", decision.threads, 1, kMaxThreads);
  file.Text("default", decision.default_variant);
  file.Share("crossover_to_dense", decision.crossover_to_dense);
  file.List("by_density", decision.by_density,
            [](auto& item, auto& bucket) { VisitBucket(item, bucket); });
}

// ---------------------------------------------------------------------------
// Reading

// One entry as it stands in the file; what it names is not yet resolved.
TableEntry ReadEntry(const Json& json, const std::string& name,
                     std::string* error) {
  FieldError wrong;
  JsonFields fields(json, name, &wrong);
  TableEntry entry;
  Reader reader(fields);
  VisitEntry(reader, entry);
  *error = TextOf(wrong);
  if (!error->empty()) return entry;

  const Decision& decision = entry.decision;
  const std::vector<Bucket>& buckets = decision.by_density;
  const bool ascends = std::is_sorted(buckets.begin(), buckets.end(),
                                      [](const Bucket& a, const Bucket& b) {
                                        return a.max_density <= b.max_density;
                                      });
  if (buckets.empty() || !ascends || buckets.back().max_density != 1) {
    *error =
        fmt::format("{} does not ascend to max 1", fields.PathOf("by_density"));
  } else if (decision.threads > entry.problem.threads) {
    *error = fmt::format("{} is {}, more than problem.threads",
                         fields.PathOf("threads"), decision.threads);
  }
  return entry;
}

std::string Dropped(const std::string& name, const std::string& error) {
  return fmt::format("{}: entry dropped: {}; {}", name, error, kNextStep);
}

// A table without entries, as one tuned here would be.
DispatchTable ThisCpuAndBuild() {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  return table;
}

}  // namespace

TableBuild TableBuild::Current() {
  TableBuild build;
  build.library_version = RANKFORGE_VERSION;
#if defined(__clang__)
  build.compiler = "clang " __clang_version__;
#else
  build.compiler = "gcc " __VERSION__;
#endif
  build.flags = RANKFORGE_BUILD_FLAGS;
  build.registry_hash = Registry::Get().hash();
  return build;
}

std::vector<CpuDifference> Differences(const DispatchTable& a,
                                       const DispatchTable& b) {
  std::vector<CpuDifference> differences = Differences(a.cpu, b.cpu);
  const auto compare = [&](const char* field, const std::string& value_a,
                           const std::string& value_b) {
    if (value_a == value_b) return;
    differences.push_back({Match::kExact, field, value_a, value_b});
  };
  compare("compiler", a.build.compiler, b.build.compiler);
  compare("flags", a.build.flags, b.build.flags);
  compare("registry_hash", HashText(a.build.registry_hash),
          HashText(b.build.registry_hash));
  return differences;
}

Result<DispatchTable> DispatchTable::Read(const std::string& name,
                                          const std::string& text) {
  const Result<Json> parsed = ParseJson(text, {.depth = kMaxDepth});
  if (!parsed.ok()) {
    return Failed(
        fmt::format("{}: {}; {}", name, parsed.status().message(), kNextStep));
  }
  const Json& document = *parsed;
  DispatchTable table;

  FieldError wrong;
  JsonFields fields(document, "", &wrong);
  const std::string schema = fields.Text("schema");
  if (fields.ok() && schema != kSchema) {
    fields.Fail("schema", Shown(schema),
                fmt::format("this build reads \"{}\"", kSchema));
  }
  Reader document_reader(fields);
  document_reader.Object("fingerprint",
                         [&](auto& file) { VisitCpu(file, table.cpu); });
  const Json& entries = fields.Array("entries");
  if (!fields.ok()) {
    return Failed(fmt::format("{}: {}; {}", name, TextOf(wrong), kNextStep));
  }

  // For information only: damage here costs a note.
  VisitBuild(document_reader, table.build);
  document_reader.Object("environment", [&](auto& file) {
    VisitEnvironment(file, table.environment);
  });
  document_reader.Object("policy",
                         [&](auto& file) { VisitPolicy(file, table.policy); });
  if (!fields.ok()) {
    table.notes_.push_back(
        fmt::format("{}: {}; it is only shown", name, TextOf(wrong)));
  }

  std::set<Problem> seen;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string where = fmt::format("entries[{}]", i);
    std::string error;
    TableEntry entry = ReadEntry(entries[i], where, &error);
    if (error.empty() && !seen.insert(entry.problem).second) {
      error = fmt::format("{}.problem is there twice", where);
    }
    if (error.empty()) {
      table.entries.push_back(std::move(entry));
    } else {
      table.notes_.push_back(Dropped(name, error));
    }
  }
  table.differences_ = Differences(table, ThisCpuAndBuild());
  return table;
}

void DispatchTable::Bind(const std::string& name, Match needed) {
  usable_ = match() >= needed;
  if (!usable_) {
    // Nothing of this table will run, so nothing else about it matters.
    notes_ = {
        fmt::format("{}: measured on another CPU ({}); it is not used, run "
                    "`rankforge tune` here",
                    name, Listed(differences_, needed))};
    return;
  }
  std::erase_if(entries, [&](TableEntry& entry) {
    std::string note;
    Result<Choice> choice = Resolve(entry.problem, entry.decision, note);
    if (!choice.ok()) {
      notes_.push_back(Dropped(name, choice.status().message()));
      return true;
    }
    entry.choice = std::move(*choice);
    if (!note.empty()) {
      notes_.push_back(fmt::format("{}: {}: {}; {}", name,
                                   entry.problem.ToString(), note, kNextStep));
    }
    return false;
  });
}

Result<DispatchTable> DispatchTable::Parse(const std::string& name,
                                           const std::string& text,
                                           Match needed) {
  RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table, Read(name, text));
  table.Bind(name, needed);
  return table;
}

Result<DispatchTable> DispatchTable::Load(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text, ReadTable(path));
  return Parse(path, text, Match::kCompatible);
}

Result<DispatchTable> DispatchTable::LoadUnbound(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text, ReadTable(path));
  return Read(path, text);
}

Status DispatchTable::Save(const std::string& path) const {
  // By problem, so that tuning the same model in another order gives the same
  // file.
  std::vector<TableEntry> sorted = entries;
  std::sort(sorted.begin(), sorted.end(),
            [](const TableEntry& a, const TableEntry& b) {
              return a.problem < b.problem;
            });
  Json document = {{"schema", kSchema}};
  Writer writer(&document);
  VisitBuild(writer, build);
  document["library"]["name"] = "rankforge";
  writer.Object("fingerprint", [&](auto& file) { VisitCpu(file, cpu); });
  writer.Object("environment",
                [&](auto& file) { VisitEnvironment(file, environment); });
  writer.Object("policy", [&](auto& file) { VisitPolicy(file, policy); });
  writer.List("entries", sorted, [](auto& file, const TableEntry& entry) {
    VisitEntry(file, entry);
  });
  return WriteFileAtomically(
      path,
      document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace rankforge
