// Contexts, problems and tables of the C library as Python objects.
#ifndef RANKFORGE_PYTHON_SRC_LIBRARY_H_
#define RANKFORGE_PYTHON_SRC_LIBRARY_H_

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "include/rankforge/rankforge.h"
#include "python/src/errors.h"

namespace rankforge {

// Owns a handle of the C library.
template <auto destroy>
struct Destroys {
  template <class T>
  void operator()(T* handle) const {
    static_cast<void>(destroy(handle));
  }
};
template <class T, auto destroy>
using OwnedHandle = std::unique_ptr<T, Destroys<destroy>>;

struct BoundContext {
  // With `openmp`, on the threads of the OpenMP library that this process has
  // loaded (OpenMpThreads). Throws if there is none.
  BoundContext(uint32_t threads, bool openmp);
  uint32_t threads() const;

  OwnedHandle<rankforge_context, &rankforge_context_destroy> handle;
};

struct BoundTable {
  explicit BoundTable(const std::string& path);
  std::string Notes() const;

  OwnedHandle<rankforge_table, &rankforge_table_close> handle;
};

// "dense", "row_mask", "column_mask".
int32_t OperationFromName(const std::string& name);
const char* OperationName(int32_t operation);
int32_t WeightTypeFromName(const std::string& name);
// None: that of the weights.
int32_t ActivationsFromName(const std::optional<std::string>& name);
std::string ActivationsName(int32_t activations);  // "default" for that

// Null stands for the context of the process, with all of its CPUs, which is
// made when it is first asked for.
const rankforge_context* HandleOf(const BoundContext* context);
// Null for null: no table.
const rankforge_table* HandleOf(const BoundTable* table);

// The text that `write(buffer, capacity, &length)` makes.
template <class Write>
std::string TextOf(const Write& write) {
  size_t length = 0;
  Check(write(nullptr, 0, &length));
  std::string text(length + 1, '\0');
  Check(write(text.data(), text.size(), &length));
  text.resize(length);
  return text;
}

// Releases the GIL while `run` runs, and checks its status.
template <class Run>
void CheckWithoutGil(const Run& run) {
  const nanobind::gil_scoped_release release;
  Check(run());
}

void BindLibrary(nanobind::module_& module);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_LIBRARY_H_
