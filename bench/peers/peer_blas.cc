// OpenBLAS and BLIS, dense (cblas_sgemv) and as a user without a masked kernel
// skips with them: copies what is kept and calls sgemv, or calls saxpy per kept
// column or sdot per kept row. Both export the same names, so both are loaded
// by hand.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/openblas_kernels.h"
#include "bench/peers/peers.h"

namespace rankforge {
namespace {

constexpr int kRowMajor = 101;
constexpr int kColMajor = 102;
constexpr int kNoTrans = 111;

struct Blas {
  void (*sgemv)(int order, int trans, int m, int n, float alpha, const float* a,
                int lda, const float* x, int incx, float beta, float* y,
                int incy) = nullptr;
  void (*saxpy)(int n, float alpha, const float* x, int incx, float* y,
                int incy) = nullptr;
  float (*sdot)(int n, const float* x, int incx, const float* y,
                int incy) = nullptr;
  // Null: sgemv runs on the calling thread.
  void (*set_threads)(int threads) = nullptr;
};

struct BlasLibrary {
  const char* name;
  const char* soname;
  const char* package;
  const char* set_threads;  // null: its sgemv has no threads of its own
};

template <class Function>
bool Find(void* library, const char* symbol, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, symbol));
  return function != nullptr;
}

Result<Blas> Load(const BlasLibrary& what) {
  if (OpenBlasKernels() != nullptr) {
    setenv("OPENBLAS_CORETYPE", OpenBlasKernels(), /*overwrite=*/0);
  }
  // RTLD_LOCAL: neither finds the other's functions. Never closed: its threads
  // live as long as the program.
  void* library = dlopen(what.soname, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return EnvironmentError(
        fmt::format("no {}: apt-get install {}", what.soname, what.package));
  }
  Blas blas;
  if (!Find(library, "cblas_sgemv", blas.sgemv) ||
      !Find(library, "cblas_saxpy", blas.saxpy) ||
      !Find(library, "cblas_sdot", blas.sdot) ||
      (what.set_threads != nullptr &&
       !Find(library, what.set_threads, blas.set_threads))) {
    return EnvironmentError(
        fmt::format("{} has no cblas interface", what.soname));
  }
  return blas;
}

const float* Floats(const PageBuffer& buffer) {
  return reinterpret_cast<const float*>(buffer.data());
}

// One way to compute a product with a BLAS, run with the weights of a copy.
class BlasProduct {
 public:
  BlasProduct(const Blas& blas, PeerGroup& group, const PeerProduct& product)
      : blas_(blas),
        group_(group),
        x_(product.input.x().data()),
        mask_(product.input.mask()),
        rows_(group.rows()),
        cols_(group.cols()),
        y_(group.rows()) {}
  virtual ~BlasProduct() = default;

  const float* Run(const PageBuffer& weights) {
    if (blas_.set_threads != nullptr) {
      blas_.set_threads(static_cast<int>(own_threads()));
    }
    Compute(Floats(weights));
    return y_.data();
  }

 protected:
  virtual size_t own_threads() const { return 1; }
  virtual void Compute(const float* w) = 0;

  // y (m,) = a (m, n) @ x (n,), rows or columns `lda` apart.
  void Gemv(int order, size_t m, size_t n, const float* a, size_t lda,
            const float* x, float* y) const {
    blas_.sgemv(order, kNoTrans, static_cast<int>(m), static_cast<int>(n), 1, a,
                static_cast<int>(lda), x, 1, 0, y, 1);
  }
  template <class Body>
  void Share(size_t size, Body body) const {
    ShareOut(group_.executor(), size, body);
  }

  const Blas blas_;
  PeerGroup& group_;
  const float* x_;
  const MaskView mask_;
  const size_t rows_;
  const size_t cols_;
  std::vector<float> y_;
};

// sgemv on all weights, with the library's own threads.
class DenseGemv : public BlasProduct {
 public:
  DenseGemv(const Blas& blas, PeerGroup& group, const PeerProduct& product,
            bool by_row)
      : BlasProduct(blas, group, product), by_row_(by_row) {}

 protected:
  size_t own_threads() const override { return group_.threads(); }
  void Compute(const float* w) override {
    if (blas_.set_threads != nullptr) {
      Gemv(by_row_ ? kRowMajor : kColMajor, rows_, cols_, w,
           by_row_ ? cols_ : rows_, x_, y_.data());
      return;
    }
    // sgemv of BLIS 0.9 runs on one thread, so each of ours calls it.
    Share(rows_, [&](size_t begin, size_t end) {
      if (by_row_) {
        Gemv(kRowMajor, end - begin, cols_, w + begin * cols_, cols_, x_,
             &y_[begin]);
      } else {
        Gemv(kColMajor, end - begin, cols_, w + begin, rows_, x_, &y_[begin]);
      }
    });
  }

 private:
  bool by_row_;
};

// Copies kept columns, or rows, and calls sgemv on the copy. Each thread copies
// and multiplies its share, so there is one hand-over, and the copy is in its
// cache.
class CompactedGemv : public BlasProduct {
 public:
  CompactedGemv(const Blas& blas, PeerGroup& group, const PeerProduct& product)
      : BlasProduct(blas, group, product),
        by_row_(product.problem.operation == Operation::kRowMask),
        buffer_(std::max<size_t>(mask_.kept, 1) * (by_row_ ? cols_ : rows_) *
                sizeof(float)),
        kept_y_(mask_.kept) {}

 protected:
  void Compute(const float* w) override {
    if (by_row_) {
      Rows(w);
    } else {
      Columns(w);
    }
  }

 private:
  void Columns(const float* w) {
    Share(rows_, [&](size_t begin, size_t end) {
      const size_t length = end - begin;
      float* copy = data() + mask_.kept * begin;
      for (size_t k = 0; k < mask_.kept; ++k) {
        std::memcpy(copy + k * length, w + mask_.index[k] * rows_ + begin,
                    length * sizeof(float));
      }
      Gemv(kColMajor, length, mask_.kept, copy, length, mask_.value,
           &y_[begin]);
    });
  }
  void Rows(const float* w) {
    std::fill(y_.begin(), y_.end(), 0.0f);
    Share(mask_.kept, [&](size_t begin, size_t end) {
      float* copy = data() + begin * cols_;
      for (size_t k = begin; k < end; ++k) {
        std::memcpy(data() + k * cols_, w + mask_.index[k] * cols_,
                    cols_ * sizeof(float));
      }
      Gemv(kRowMajor, end - begin, cols_, copy, cols_, x_, &kept_y_[begin]);
      for (size_t k = begin; k < end; ++k) y_[mask_.index[k]] = kept_y_[k];
    });
  }
  float* data() { return reinterpret_cast<float*>(buffer_.data()); }

  bool by_row_;
  PageBuffer buffer_;
  std::vector<float> kept_y_;
};

// One saxpy per kept column, or one sdot per kept row: nothing is copied.
class OneByOne : public BlasProduct {
 public:
  OneByOne(const Blas& blas, PeerGroup& group, const PeerProduct& product)
      : BlasProduct(blas, group, product),
        by_row_(product.problem.operation == Operation::kRowMask) {}

 protected:
  void Compute(const float* w) override {
    std::fill(y_.begin(), y_.end(), 0.0f);
    if (by_row_) {
      Share(mask_.kept, [&](size_t begin, size_t end) {
        for (size_t k = begin; k < end; ++k) {
          const size_t row = mask_.index[k];
          y_[row] =
              blas_.sdot(static_cast<int>(cols_), w + row * cols_, 1, x_, 1);
        }
      });
      return;
    }
    Share(rows_, [&](size_t begin, size_t end) {
      for (size_t k = 0; k < mask_.kept; ++k) {
        blas_.saxpy(static_cast<int>(end - begin), mask_.value[k],
                    w + mask_.index[k] * rows_ + begin, 1, &y_[begin], 1);
      }
    });
  }

 private:
  bool by_row_;
};

Contestant Named(std::string name, std::string detail,
                 const std::vector<PageBuffer>& weights,
                 std::shared_ptr<BlasProduct> product) {
  return {std::move(name), std::move(detail),
          [&weights, product = std::move(product)](size_t turn) {
            return product->Run(weights[turn % weights.size()]);
          },
          nullptr};
}

Status Offer(const BlasLibrary& library, PeerGroup& group,
             const PeerProduct& product, std::vector<Contestant>& contestants) {
  if (group.type() != WeightType::kF32) return {};
  RANKFORGE_ASSIGN_OR_RETURN(const Blas blas, Load(library));
  const std::string name = library.name;
  if (product.problem.operation == Operation::kDense) {
    contestants.push_back(
        Named(name + "_rows", "sgemv of row-major weights", group.ByRow(),
              std::make_shared<DenseGemv>(blas, group, product, true)));
    contestants.push_back(Named(
        name + "_columns", "sgemv of column-major weights", group.ByColumn(),
        std::make_shared<DenseGemv>(blas, group, product, false)));
    return {};
  }
  const bool by_row = product.problem.operation == Operation::kRowMask;
  const std::vector<PageBuffer>& weights =
      by_row ? group.ByRow() : group.ByColumn();
  contestants.push_back(
      Named(name + "_compacted", "copies what is kept, then sgemv", weights,
            std::make_shared<CompactedGemv>(blas, group, product)));
  contestants.push_back(
      Named(name + "_one_by_one",
            by_row ? "sdot per kept row" : "saxpy per kept column", weights,
            std::make_shared<OneByOne>(blas, group, product)));
  return {};
}

}  // namespace

Status OfferOpenBlas(PeerGroup& group, const PeerProduct& product,
                     std::vector<Contestant>& contestants) {
  return Offer({"openblas", "libopenblas.so.0", "libopenblas-dev",
                "openblas_set_num_threads"},
               group, product, contestants);
}

Status OfferBlis(PeerGroup& group, const PeerProduct& product,
                 std::vector<Contestant>& contestants) {
  return Offer({"blis", "libblis.so.4", "libblis-dev", nullptr}, group, product,
               contestants);
}

}  // namespace rankforge
