// RankForge for C++17 and later: rankforge.h with owners, views and results.
// Header only; what is said there about shapes, errors and threads holds here.
//
//   namespace rf = rankforge;
//   rf::Context context = rf::Context::Create().value();
//   rf::Problem problem(RANKFORGE_COLUMN_MASK, 4096, 11008, RANKFORGE_BF16);
//   rf::Weights weights =
//       rf::Weights::Pack(context, problem, rf::Source(w, 4096,
//       11008)).value();
//   rf::Plan plan = rf::Plan::Gemv(context, problem, weights).value();
//   rf::Scratch scratch = plan.MakeScratch().value();
//   rf::Result<void> ran = plan.Run(x, y, rf::Mask::Threshold(0.8f), scratch);
//   if (!ran) std::cerr << ran.error().message << "\n";
#ifndef RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_HPP_
#define RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "rankforge.h"

#if __cplusplus >= 202002L
#include <span>
#endif

namespace rankforge {
// In a namespace of its own for the linker: the library's own C++ has other
// types of these names.
inline namespace api {

#if __cplusplus >= 202002L
template <class T>
using Span = std::span<T>;
#else
// As std::span: a view of an array, from anything with data() and size().
template <class T>
class Span {
 public:
  Span() = default;
  Span(T* data, size_t size) : data_(data), size_(size) {}
  template <class Array, class = decltype(std::declval<Array&>().data())>
  Span(Array&& array)  // NOLINT: implicit on purpose
      : data_(array.data()), size_(array.size()) {}
  template <size_t n>
  Span(T (&array)[n]) : data_(array), size_(n) {}  // NOLINT: likewise

  T* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};
#endif

struct Error {
  rankforge_status status = RANKFORGE_ERROR_INTERNAL;
  std::string message;
};

// The error of the call that has just failed in this thread.
inline Error LastError(rankforge_status status) {
  return {status, rankforge_last_error()};
}

// A value or an error. Without a value, value() throws std::runtime_error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::move(error)) {}  // NOLINT: implicit

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  const Error& error() const { return std::get<1>(state_); }
  T& value() & { return Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() { return *std::get_if<0>(&state_); }
  T* operator->() { return std::get_if<0>(&state_); }

 private:
  T& Checked() {
    if (!has_value()) throw std::runtime_error(error().message);
    return *std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error)  // NOLINT: implicit on purpose
      : failed_(true), error_(std::move(error)) {}
  static Result Of(rankforge_status status) {
    return status == RANKFORGE_OK ? Result() : Result(LastError(status));
  }

  bool has_value() const { return !failed_; }
  explicit operator bool() const { return has_value(); }
  const Error& error() const { return error_; }
  void value() const {
    if (failed_) throw std::runtime_error(error_.message);
  }

 private:
  bool failed_ = false;
  Error error_;
};

// The structs of rankforge.h with their defaults.

struct ContextOptions : rankforge_context_options {
  ContextOptions()
      : rankforge_context_options(RANKFORGE_CONTEXT_OPTIONS_INIT) {}
};

struct Problem : rankforge_problem {
  Problem() : rankforge_problem(RANKFORGE_PROBLEM_INIT) {}
  Problem(int32_t of_operation, size_t of_rows, size_t of_cols, int32_t of_type)
      : Problem() {
    operation = of_operation;
    rows = of_rows;
    cols = of_cols;
    weight_type = of_type;
  }
};

struct Source : rankforge_source {
  Source() : rankforge_source(RANKFORGE_SOURCE_INIT) {}
  // Row by row, in `of_format`.
  Source(const void* of_data, size_t of_rows, size_t of_cols,
         int32_t of_format = RANKFORGE_SOURCE_F32)
      : Source() {
    data = of_data;
    rows = of_rows;
    cols = of_cols;
    format = of_format;
  }
};

struct Mask : rankforge_mask {
  Mask() : rankforge_mask(RANKFORGE_MASK_INIT) {}
  static Mask Threshold(float tau) {
    Mask mask;
    mask.kind = RANKFORGE_MASK_THRESHOLD;
    mask.tau = tau;
    return mask;
  }
  static Mask TopK(size_t k) {
    Mask mask;
    mask.kind = RANKFORGE_MASK_TOP_K;
    mask.k = k;
    return mask;
  }
  static Mask Bits(Span<const uint64_t> bits) {
    Mask mask;
    mask.kind = RANKFORGE_MASK_BITS;
    mask.bits = bits.data();
    return mask;
  }
  static Mask Bytes(Span<const uint8_t> bytes) {
    Mask mask;
    mask.kind = RANKFORGE_MASK_BYTES;
    mask.bytes = bytes.data();
    return mask;
  }
  static Mask Index(Span<const uint32_t> index) {
    Mask mask;
    mask.kind = RANKFORGE_MASK_INDEX;
    mask.index = index.data();
    mask.index_count = index.size();
    return mask;
  }
};

struct RankAdapter : rankforge_rank_adapter {
  RankAdapter() : rankforge_rank_adapter(RANKFORGE_RANK_ADAPTER_INIT) {}
};

struct GatedMlp : rankforge_gated_mlp {
  GatedMlp() : rankforge_gated_mlp(RANKFORGE_GATED_MLP_INIT) {}
};

struct RunArgs : rankforge_run_args {
  RunArgs() : rankforge_run_args(RANKFORGE_RUN_ARGS_INIT) {}
};

// Owns a handle. Destroying null does nothing.
template <class Handle, rankforge_status (*destroy)(Handle*)>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle* handle) : handle_(handle) {}
  Handle* get() const { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(Handle* handle) const { destroy(handle); }
  };
  std::unique_ptr<Handle, Destroy> handle_;
};

// Text of any length, from a function that fills a buffer.
template <class Fill>
Result<std::string> TextOf(const Fill& fill) {
  size_t length = 0;
  rankforge_status status = fill(nullptr, 0, &length);
  if (status != RANKFORGE_OK) return LastError(status);
  std::string text(length + 1, '\0');
  status = fill(text.data(), text.size(), &length);
  if (status != RANKFORGE_OK) return LastError(status);
  text.resize(length);
  return text;
}

// A new T, from a function that makes its handle.
template <class T, class Make>
Result<T> Made(const Make& make) {
  decltype(std::declval<T&>().get()) handle = nullptr;
  const rankforge_status status = make(&handle);
  if (status != RANKFORGE_OK) return LastError(status);
  return T(handle);
}

class Context : public Owner<rankforge_context, rankforge_context_destroy> {
 public:
  using Owner::Owner;
  static Result<Context> Create(const ContextOptions& options = {}) {
    return Made<Context>([&](rankforge_context** context) {
      return rankforge_context_create(&options, context);
    });
  }
};

class Table : public Owner<rankforge_table, rankforge_table_close> {
 public:
  using Owner::Owner;
  static Result<Table> Open(const std::string& path) {
    return Made<Table>([&](rankforge_table** table) {
      return rankforge_table_open(path.c_str(), table);
    });
  }
  Result<std::string> Notes() const {
    return TextOf([&](char* text, size_t capacity, size_t* length) {
      return rankforge_table_notes(get(), text, capacity, length);
    });
  }
  Result<std::string> Explain(const Problem& problem) const {
    return TextOf([&](char* text, size_t capacity, size_t* length) {
      return rankforge_table_explain(get(), &problem, text, capacity, length);
    });
  }
};

class Weights : public Owner<rankforge_weights, rankforge_weights_destroy> {
 public:
  using Owner::Owner;
  static Result<Weights> Pack(const Context& context, const Problem& problem,
                              Span<const Source> sources,
                              const Table& table = {}) {
    return Made<Weights>([&](rankforge_weights** weights) {
      return rankforge_weights_pack(context.get(), table.get(), &problem,
                                    sources.data(), sources.size(), weights);
    });
  }
  static Result<Weights> Pack(const Context& context, const Problem& problem,
                              const Source& source, const Table& table = {}) {
    return Pack(context, problem, Span<const Source>(&source, 1), table);
  }
  static Result<Weights> Adopt(const Context& context, const Problem& problem,
                               const Source& source) {
    return Made<Weights>([&](rankforge_weights** weights) {
      return rankforge_weights_adopt(context.get(), &problem, &source, weights);
    });
  }
  static Result<Weights> Open(const std::string& path) {
    return Made<Weights>([&](rankforge_weights** weights) {
      return rankforge_weights_open(path.c_str(), weights);
    });
  }
  Result<void> Save(const std::string& path) const {
    return Result<void>::Of(rankforge_weights_save(get(), path.c_str()));
  }
  Result<rankforge_weights_info> Describe() const {
    rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
    const rankforge_status status = rankforge_weights_describe(get(), &info);
    if (status != RANKFORGE_OK) return LastError(status);
    return info;
  }
};

// Memory for one run at a time, aligned as it must be.
class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : memory_(::operator new(bytes, kAlignment)), bytes_(bytes) {}
  void* data() { return memory_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{RANKFORGE_SCRATCH_ALIGNMENT};
  struct Free {
    void operator()(void* memory) const {
      ::operator delete(memory, kAlignment);
    }
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_;
};

class Plan : public Owner<rankforge_plan, rankforge_plan_destroy> {
 public:
  using Owner::Owner;
  static Result<Plan> Gemv(const Context& context, const Problem& problem,
                           const Weights& weights, const Table& table = {}) {
    return Made<Plan>([&](rankforge_plan** plan) {
      return rankforge_plan_gemv(context.get(), table.get(), &problem,
                                 weights.get(), plan);
    });
  }
  static Result<Plan> Of(const Context& context, const RankAdapter& adapter,
                         const Table& table = {}) {
    return Made<Plan>([&](rankforge_plan** plan) {
      return rankforge_plan_rank_adapter(context.get(), table.get(), &adapter,
                                         plan);
    });
  }
  static Result<Plan> Of(const Context& context, const GatedMlp& mlp,
                         const Table& table = {}) {
    return Made<Plan>([&](rankforge_plan** plan) {
      return rankforge_plan_gated_mlp(context.get(), table.get(), &mlp, plan);
    });
  }

  Result<Scratch> MakeScratch() const {
    size_t bytes = 0;
    const rankforge_status status = rankforge_plan_scratch_size(get(), &bytes);
    if (status != RANKFORGE_OK) return LastError(status);
    return Scratch(bytes);
  }
  Result<std::string> Explain() const {
    return TextOf([&](char* text, size_t capacity, size_t* length) {
      return rankforge_plan_explain(get(), text, capacity, length);
    });
  }

  Result<void> Run(const RunArgs& args, Scratch& scratch) const {
    return Result<void>::Of(
        rankforge_run(get(), &args, scratch.data(), scratch.bytes()));
  }
  // One token: y (rows,) from x (cols,).
  Result<void> Run(Span<const float> x, Span<float> y, Scratch& scratch) const {
    return RunOne(x, y, nullptr, scratch);
  }
  Result<void> Run(Span<const float> x, Span<float> y, const Mask& mask,
                   Scratch& scratch) const {
    return RunOne(x, y, &mask, scratch);
  }

 private:
  Result<void> RunOne(Span<const float> x, Span<float> y, const Mask* mask,
                      Scratch& scratch) const {
    size_t rows = 0, cols = 0;
    const rankforge_status status =
        rankforge_plan_shape(get(), &rows, &cols, nullptr);
    if (status != RANKFORGE_OK) return LastError(status);
    if (x.size() != cols || y.size() != rows) {
      return Error{RANKFORGE_ERROR_ARGUMENT,
                   "x has " + std::to_string(x.size()) + " and y " +
                       std::to_string(y.size()) + " values, the plan " +
                       std::to_string(cols) + " and " + std::to_string(rows)};
    }
    RunArgs args;
    args.x = x.data();
    args.y = y.data();
    args.masks = mask;
    args.mask_count = mask == nullptr ? 0 : 1;
    return Run(args, scratch);
  }
};

}  // namespace api
}  // namespace rankforge

#endif  // RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_HPP_
