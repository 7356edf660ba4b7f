#include "python/src/mask.h"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <utility>

#include "python/src/library.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr size_t kWordBits = 64;

size_t DividedUp(size_t count, size_t by) { return (count + by - 1) / by; }

// Memory for the scratch of one call.
std::unique_ptr<std::byte[]> ScratchBytes(size_t size, void*& aligned) {
  constexpr size_t kAlignment = RANKFORGE_SCRATCH_ALIGNMENT;
  auto bytes = std::make_unique_for_overwrite<std::byte[]>(size + kAlignment);
  const auto begin = reinterpret_cast<uintptr_t>(bytes.get());
  aligned = bytes.get() + (kAlignment - begin % kAlignment) % kAlignment;
  return bytes;
}

// Mask.make: the bits in `bits`; returns how many groups are kept.
size_t MakeBits(const BoundMask& mask, nb::handle bits, nb::object values,
                size_t count, uint32_t granularity) {
  ReadableArray values_array;
  const float* given = nullptr;
  if (!values.is_none()) {
    values_array = ToReadable(values, "values");
    const std::span<const float> vector = ReadVector(values_array, "values", 0);
    if (count > 0) CheckCount("values", vector.size(), count, "count");
    count = vector.size();
    given = vector.data();
  }
  if (count == 0) throw BadArgument("count: is 0; give values, or their count");
  if (granularity == 0)
    throw BadArgument("granularity: is 0, expected 1, 8 or 32");
  mask.CheckFits(count, granularity);
  const WritableArray out = ToWritable(bits, "bits");
  const std::span<const uint64_t> words =
      ReadIntegers<uint64_t>(ReadableArray(out), "bits");
  CheckCount("bits", words.size(),
             DividedUp(DividedUp(count, granularity), kWordBits),
             "a word for 64 groups");
  const size_t scratch_size = rankforge_mask_scratch_size(count);
  void* scratch = nullptr;
  const auto memory = ScratchBytes(scratch_size, scratch);
  size_t kept = 0;
  CheckWithoutGil([&] {
    return rankforge_mask_make(&mask.mask(), given, count, granularity,
                               static_cast<uint64_t*>(out.data()), &kept,
                               scratch, scratch_size);
  });
  return kept;
}

}  // namespace

const float* BoundMask::Floats(nb::handle array, const char* name,
                               size_t& size) {
  if (array.is_none()) return nullptr;
  arrays_.push_back(ToReadable(array, name));
  const std::span<const float> values = ReadVector(arrays_.back(), name, 0);
  if (values.empty()) throw BadArgument(fmt::format("{}: is empty", name));
  size = values.size();
  return values.data();
}

BoundMask BoundMask::Threshold(nb::handle tau, nb::handle score, nb::handle mu,
                               bool strict, bool is_signed) {
  BoundMask made(RANKFORGE_MASK_THRESHOLD);
  // A number of NumPy is an array without dimensions, too.
  ReadableArray array;
  double common = 0;
  if (nb::try_cast(tau, array, /*convert=*/false) && array.ndim() > 0) {
    made.mask_.taus = made.Floats(tau, "tau", made.taus_size_);
  } else if (nb::try_cast(tau, common)) {
    made.mask_.tau = static_cast<float>(common);
  } else {
    throw BadArgument("tau: is neither a number nor a vector of float32");
  }
  made.mask_.score = made.Floats(score, "score", made.score_size_);
  made.mask_.mu = made.Floats(mu, "mu", made.mu_size_);
  made.mask_.strict = strict;
  made.mask_.signed_score = is_signed;
  return made;
}

BoundMask BoundMask::TopK(size_t k, nb::handle score, nb::handle mu,
                          bool is_signed) {
  BoundMask made(RANKFORGE_MASK_TOP_K);
  made.mask_.k = k;
  made.mask_.score = made.Floats(score, "score", made.score_size_);
  made.mask_.mu = made.Floats(mu, "mu", made.mu_size_);
  made.mask_.signed_score = is_signed;
  return made;
}

BoundMask BoundMask::Bits(nb::handle bits) {
  BoundMask made(RANKFORGE_MASK_BITS);
  made.arrays_.push_back(ToReadable(bits, "bits"));
  const auto words = ReadIntegers<uint64_t>(made.arrays_.back(), "bits");
  made.mask_.bits = words.data();
  made.entries_ = words.size();
  return made;
}

BoundMask BoundMask::Bytes(nb::handle bytes) {
  BoundMask made(RANKFORGE_MASK_BYTES);
  made.arrays_.push_back(ToReadable(bytes, "bytes"));
  const auto values = ReadIntegers<uint8_t>(made.arrays_.back(), "bytes");
  made.mask_.bytes = values.data();
  made.entries_ = values.size();
  return made;
}

BoundMask BoundMask::Indices(nb::handle indices) {
  BoundMask made(RANKFORGE_MASK_INDEX);
  made.arrays_.push_back(ToReadable(indices, "indices"));
  const auto values = ReadIntegers<uint32_t>(made.arrays_.back(), "indices");
  made.mask_.index = values.data();
  made.mask_.index_count = values.size();
  return made;
}

void BoundMask::CheckFits(size_t count, size_t granularity) const {
  const size_t groups = DividedUp(count, granularity);
  if (mask_.kind == RANKFORGE_MASK_BITS) {
    return CheckCount("mask.bits", entries_, DividedUp(groups, kWordBits),
                      "a word for 64 groups");
  }
  if (mask_.kind == RANKFORGE_MASK_BYTES) {
    return CheckCount("mask.bytes", entries_, groups, "one for each group");
  }
  const bool by_group = mask_.kind == RANKFORGE_MASK_TOP_K && granularity > 1;
  const size_t scores = by_group ? groups : count;
  const char* const what =
      by_group ? "one for each group" : "one for each channel";
  if (score_size_ > 0) CheckCount("mask.score", score_size_, scores, what);
  if (mu_size_ > 0) CheckCount("mask.mu", mu_size_, scores, what);
  if (taus_size_ > 0) {
    CheckCount("mask.tau", taus_size_, count, "one for each channel");
  }
}

void BindMasks(nb::module_& module) {
  nb::class_<BoundMask>(
      module, "Mask",
      "Which channels take part: inputs of a column mask, outputs of a row "
      "mask. Arrays are kept and read in each run, never copied.")
      .def_static(
          "threshold", &BoundMask::Threshold, "tau"_a, nb::kw_only(),
          "score"_a = nb::none(), "mu"_a = nb::none(), "strict"_a = false,
          "signed"_a = false,
          "Keeps channel j if |score_j - mu_j| >= tau_j. tau: a number, "
          "or float32 (count,). score: float32 (count,); None: the "
          "input itself, which row masks cannot have.")
      .def_static("top_k", &BoundMask::TopK, "k"_a, nb::kw_only(),
                  "score"_a = nb::none(), "mu"_a = nb::none(),
                  "signed"_a = false,
                  "Keeps the k groups with the largest |score - mu|, of equal "
                  "ones the first. score: float32 (groups,); None: the input.")
      .def_static("bits", &BoundMask::Bits, "bits"_a,
                  "uint64, a word for 64 groups: bit g % 64 of word g // 64.")
      .def_static("bytes", &BoundMask::Bytes, "bytes"_a,
                  "uint8 or bool (groups,): not 0 is kept.")
      .def_static("indices", &BoundMask::Indices, "indices"_a,
                  "uint32, ascending: the groups that are kept.")
      .def("make_into", &MakeBits, "bits"_a, "values"_a = nb::none(),
           "count"_a = 0, "granularity"_a = 1,
           "Writes the mask as bits, for several runs that share it, to uint64 "
           "`bits`; returns the number of groups that are kept. values: "
           "float32 (count,), in place of a score that is None.");
}

}  // namespace rankforge
