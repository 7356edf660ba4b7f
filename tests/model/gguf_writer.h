// GGUF files for tests, right or wrong on purpose.
#ifndef RANKFORGE_TESTS_MODEL_GGUF_WRITER_H_
#define RANKFORGE_TESTS_MODEL_GGUF_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/format/gguf.h"

namespace rankforge {

// The bytes of `value`, little endian.
template <class T>
std::string BytesOfValue(T value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}
// A string as GGUF stores it.
inline std::string GgufText(std::string_view text) {
  return BytesOfValue<uint64_t>(text.size()) + std::string(text);
}

class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // of data; `general.alignment` is up to the caller

  // A value whose bytes are `bytes`.
  void Raw(std::string_view key, GgufType type, const std::string& bytes) {
    values_.push_back(GgufText(key) +
                      BytesOfValue(static_cast<uint32_t>(type)) + bytes);
  }
  void Text(std::string_view key, std::string_view text) {
    Raw(key, GgufType::kString, GgufText(text));
  }
  void Count(std::string_view key, uint32_t count) {
    Raw(key, GgufType::kUint32, BytesOfValue(count));
  }
  void Number(std::string_view key, float number) {
    Raw(key, GgufType::kFloat32, BytesOfValue(number));
  }
  void Flag(std::string_view key, bool flag) {
    Raw(key, GgufType::kBool, std::string(1, flag ? '\1' : '\0'));
  }
  // An array of elements that are bytes already.
  void Array(std::string_view key, GgufType type,
             const std::vector<std::string>& elements) {
    std::string bytes = BytesOfValue(static_cast<uint32_t>(type)) +
                        BytesOfValue<uint64_t>(elements.size());
    for (const std::string& element : elements) bytes += element;
    Raw(key, GgufType::kArray, bytes);
  }
  void Texts(std::string_view key, const std::vector<std::string>& texts) {
    std::vector<std::string> elements;
    for (const std::string& text : texts) elements.push_back(GgufText(text));
    Array(key, GgufType::kString, elements);
  }
  // `shape` is that of a matrix: rows before columns.
  void Tensor(std::string_view name, uint32_t type,
              const std::vector<uint64_t>& shape, const std::string& data) {
    std::string bytes =
        GgufText(name) + BytesOfValue(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) bytes += BytesOfValue(shape[i]);
    bytes += BytesOfValue(type) + BytesOfValue<uint64_t>(data_.size());
    tensors_.push_back(bytes);
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
  }

  // The whole file.
  std::string Build() const {
    std::string file = "GGUF" + BytesOfValue(version) +
                       BytesOfValue<uint64_t>(tensors_.size()) +
                       BytesOfValue<uint64_t>(values_.size());
    for (const std::string& value : values_) file += value;
    for (const std::string& tensor : tensors_) file += tensor;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  std::vector<std::string> values_, tensors_;
  std::string data_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_MODEL_GGUF_WRITER_H_
