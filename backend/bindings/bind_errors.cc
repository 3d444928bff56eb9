// inflight::Error as Python exceptions: one class per code, all of InflightError and of the builtin
// that Python programmers would catch.
#include "backend/bindings/bind_errors.h"

#include <array>

namespace py = pybind11;

namespace inflight::bindings {
namespace {

struct ErrorClass {
  ErrorCode code;
  const char* name;        // of the class
  const char* code_name;   // its attribute `code`
  PyObject* builtin_base;  // borrowed
};

std::array<ErrorClass, 8> error_classes() {
  return {{
      {ErrorCode::kInvalidArgument, "InvalidArgumentError", "invalid_argument", PyExc_ValueError},
      {ErrorCode::kUnsupported, "UnsupportedError", "unsupported", PyExc_NotImplementedError},
      {ErrorCode::kResourceExhausted, "ResourceExhaustedError", "resource_exhausted",
       PyExc_RuntimeError},
      {ErrorCode::kNotFound, "NotFoundError", "not_found", PyExc_LookupError},
      {ErrorCode::kCancelled, "CancelledError", "cancelled", PyExc_RuntimeError},
      {ErrorCode::kTimedOut, "TimedOutError", "timed_out", PyExc_TimeoutError},
      {ErrorCode::kUnavailable, "UnavailableError", "unavailable", PyExc_RuntimeError},
      {ErrorCode::kInternal, "InternalError", "internal", PyExc_RuntimeError},
  }};
}

py::object error_class(const Error& error) {
  const py::module_ module = py::module_::import("inflight._core");
  for (const ErrorClass& row : error_classes()) {
    if (row.code == error.code()) return module.attr(row.name);
  }
  return module.attr("InflightError");
}

}  // namespace

py::object make_exception(const Error& error) { return error_class(error)(error.what()); }

void register_errors(py::module_& module) {
  const auto new_class = [&module](const char* name, const py::object& bases,
                                   const char* code_name) {
    py::dict attributes;
    attributes["code"] = code_name;
    attributes["__module__"] = "inflight._core";
    const py::object type =
        py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyType_Type));
    module.attr(name) = type(name, bases, attributes);
  };
  const auto borrowed = [](PyObject* object) { return py::reinterpret_borrow<py::object>(object); };
  new_class("InflightError", py::make_tuple(borrowed(PyExc_Exception)), "internal");
  const py::object base = module.attr("InflightError");
  for (const ErrorClass& row : error_classes()) {
    new_class(row.name, py::make_tuple(base, borrowed(row.builtin_base)), row.code_name);
  }
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      PyErr_SetString(error_class(error).ptr(), error.what());
    }
  });
}

}  // namespace inflight::bindings
