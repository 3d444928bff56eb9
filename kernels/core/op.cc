#include "kernels/core/op.h"

namespace inflight {
namespace {

template <typename T>
constexpr std::string_view attribute_type() {
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, int64_t>) return "int";
  if constexpr (std::is_same_v<T, double>) return "float";
  if constexpr (std::is_same_v<T, std::string>) return "string";
  return "floats";
}

std::string_view type_of(const Attribute& attribute) {
  return std::visit(
      [](const auto& value) { return attribute_type<std::decay_t<decltype(value)>>(); }, attribute);
}

template <typename T>
T as(std::string_view name, const Attribute& attribute) {
  if (const T* value = std::get_if<T>(&attribute)) return *value;
  if constexpr (std::is_same_v<T, double>) {
    if (const int64_t* value = std::get_if<int64_t>(&attribute)) return static_cast<double>(*value);
  }
  throw Error(ErrorCode::kInvalidArgument,
              concat("attribute ", name, " must be of type ", attribute_type<T>(), ", got ",
                     type_of(attribute)));
}

}  // namespace

const TensorView& OpArgs::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  check(found != tensors_.end(), "tensor ", name, " is missing");
  return *found->second;
}

const TensorView& OpArgs::optional_tensor(std::string_view name) const {
  static constexpr TensorView absent;
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? absent : *found->second;
}

template <typename T>
T OpArgs::attribute(std::string_view name) const {
  const auto found = attributes_.find(name);
  check(found != attributes_.end(), "attribute ", name, " is missing");
  return as<T>(name, found->second);
}

template <typename T>
T OpArgs::attribute_or(std::string_view name, T fallback) const {
  const auto found = attributes_.find(name);
  return found == attributes_.end() ? fallback : as<T>(name, found->second);
}

template bool OpArgs::attribute(std::string_view) const;
template int64_t OpArgs::attribute(std::string_view) const;
template double OpArgs::attribute(std::string_view) const;
template std::string OpArgs::attribute(std::string_view) const;
template std::vector<double> OpArgs::attribute(std::string_view) const;
template bool OpArgs::attribute_or(std::string_view, bool) const;
template int64_t OpArgs::attribute_or(std::string_view, int64_t) const;
template double OpArgs::attribute_or(std::string_view, double) const;
template std::string OpArgs::attribute_or(std::string_view, std::string) const;
template std::vector<double> OpArgs::attribute_or(std::string_view, std::vector<double>) const;

}  // namespace inflight
