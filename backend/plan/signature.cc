#include "backend/plan/signature.h"

#include <algorithm>
#include <string_view>
#include <variant>

#include "kernels/core/check.h"

namespace inflight::plan {

namespace {
void check_tensors(const Arguments& given, const std::vector<TensorSpec>& specs,
                   std::string_view what) {
  for (const TensorSpec& spec : specs) {
    const bool present = std::any_of(given.begin(), given.end(),
                                     [&](const auto& item) { return item.first == spec.name; });
    check(present || spec.optional, what, " ", spec.name, " is missing");
  }
  for (const auto& [argument, name] : given) {
    const bool known = std::any_of(specs.begin(), specs.end(),
                                   [&](const TensorSpec& spec) { return spec.name == argument; });
    check(known, "unknown ", what, " ", argument);
  }
}

bool has_type(const Attribute& attribute, std::string_view type) {
  if (type == "bool") return std::holds_alternative<bool>(attribute);
  if (type == "int") return std::holds_alternative<int64_t>(attribute);
  if (type == "float") {
    return std::holds_alternative<double>(attribute) || std::holds_alternative<int64_t>(attribute);
  }
  if (type == "string") return std::holds_alternative<std::string>(attribute);
  return type == "floats" && std::holds_alternative<std::vector<double>>(attribute);
}
}  // namespace

void check_signature(const OpRow& row, const OpSignature& signature) {
  check_tensors(row.inputs, signature.inputs, "input");
  check_tensors(row.outputs, signature.outputs, "output");
  for (const AttributeSpec& spec : signature.attributes) {
    const auto found = row.attributes.find(spec.name);
    check(found != row.attributes.end() || spec.optional, "attribute ", spec.name, " is missing");
    check(found == row.attributes.end() || has_type(found->second, spec.type), "attribute ",
          spec.name, " must be of type ", spec.type);
  }
  for (const auto& [name, value] : row.attributes) {
    const bool known = std::any_of(signature.attributes.begin(), signature.attributes.end(),
                                   [&](const AttributeSpec& spec) { return spec.name == name; });
    check(known, "unknown attribute ", name);
  }
}

}  // namespace inflight::plan
