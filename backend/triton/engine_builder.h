// Makes an engine of a checkpoint folder by running the compiler, which is Python's, in a process
// of its own. Runs while a model loads.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace inflight::triton {

/// How to call the compiler: the interpreter that has the package, and the folder to find it in
/// (empty: the interpreter knows).
struct Compiler {
  std::string python;
  std::string package_path;
};

/// The compiler of the library that holds this function: what `inflight install` noted beside it in
/// inflight.json; else the package that it lies in, run by $INFLIGHT_PYTHON or python3.
Compiler find_compiler();

/// The engine directory of a checkpoint, in the compiler's cache: built there if it is not.
/// `options` go to `inflight build`. Raises Error with the compiler's last words if it fails or
/// takes longer than ten minutes.
std::filesystem::path build_engine(const Compiler& compiler,
                                   const std::filesystem::path& checkpoint,
                                   const std::vector<std::string>& options);

}  // namespace inflight::triton
