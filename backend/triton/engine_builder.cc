#include "backend/triton/engine_builder.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>

#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::minutes kPatience{10};
constexpr size_t kLastWords = 2000;  // characters of the compiler's output in an error

/// A pipe whose ends close by themselves; neither is inherited.
struct Pipe {
  Pipe() {
    int ends[2];
    check_internal(pipe2(ends, O_CLOEXEC) == 0, "pipe: ", std::strerror(errno));
    from = ends[0];
    to = ends[1];
  }
  ~Pipe() {
    close_end(from);
    close_end(to);
  }
  static void close_end(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }
  int from = -1, to = -1;
};

std::vector<std::string> environment(const std::string& package_path) {
  constexpr std::string_view kName = "PYTHONPATH=";
  std::vector<std::string> variables;
  std::string path = package_path;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (text.substr(0, kName.size()) != kName || package_path.empty()) {
      variables.emplace_back(text);
    } else {
      path.append(1, ':').append(text.substr(kName.size()));
    }
  }
  if (!path.empty()) variables.push_back(concat(kName, path));
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

struct Output {
  std::string out, err;
  bool in_time = true;
};

/// Until both pipes are closed or the patience ends.
Output read_output(const Pipe& out, const Pipe& err) {
  Output output;
  const Clock::time_point deadline = Clock::now() + kPatience;
  std::array<pollfd, 2> files = {{{out.from, POLLIN, 0}, {err.from, POLLIN, 0}}};
  std::array<std::string*, 2> texts = {&output.out, &output.err};
  int num_open = 2;
  while (num_open > 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      output.in_time = false;
      break;
    }
    if (poll(files.data(), files.size(), static_cast<int>(left.count())) < 0) {
      if (errno == EINTR) continue;  // and what it said is of the last time
      break;
    }
    for (size_t i = 0; i < files.size(); ++i) {
      if (files[i].fd < 0 || files[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(files[i].fd, buffer, sizeof(buffer));
      if (count > 0) {
        texts[i]->append(buffer, static_cast<size_t>(count));
      } else if (count == 0 || errno != EINTR) {
        files[i].fd = -1;  // poll passes it over
        --num_open;
      }
    }
  }
  return output;
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);  // npos + 1 = 0
}

std::string last_words(const std::string& text) {
  return text.size() <= kLastWords ? text : concat("...", text.substr(text.size() - kLastWords));
}

}  // namespace

Compiler find_compiler() {
  Dl_info info{};
  std::error_code failure;
  fs::path folder;
  if (dladdr(reinterpret_cast<void*>(&find_compiler), &info) != 0 && info.dli_fname != nullptr)
    folder = fs::weakly_canonical(info.dli_fname, failure).parent_path();

  Compiler compiler;
  if (std::ifstream note(folder / "compiler.txt"); note) {
    std::getline(note, compiler.python);
    std::getline(note, compiler.package_path);
  } else if (fs::exists(folder.parent_path() / "builder", failure)) {
    compiler.package_path = folder.parent_path().parent_path().string();  // <it>/inflight/lib
  }
  const char* python = std::getenv("INFLIGHT_PYTHON");
  if (python != nullptr && *python != '\0') compiler.python = python;
  if (compiler.python.empty()) compiler.python = "python3";
  return compiler;
}

fs::path build_engine(const Compiler& compiler, const fs::path& checkpoint,
                      const std::vector<std::string>& options) {
  std::vector<std::string> arguments = {compiler.python, "-m", "inflight.builder",
                                        checkpoint.string()};
  arguments.insert(arguments.end(), options.begin(), options.end());
  std::vector<std::string> variables = environment(compiler.package_path);
  Pipe out, err;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.to, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.to, STDERR_FILENO);
  pid_t process = 0;
  const int failure = posix_spawnp(&process, compiler.python.c_str(), &actions, nullptr,
                                   pointers(arguments).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  const std::string what =
      concat(checkpoint.string(), " is a checkpoint, and no engine could be built of it: ");
  constexpr const char* kAdvice =
      "; make one with `inflight build` and name its folder, or set INFLIGHT_PYTHON to a Python "
      "that has the package inflight";
  check(failure == 0, what, compiler.python, ": ", std::strerror(failure), kAdvice);
  Pipe::close_end(out.to);
  Pipe::close_end(err.to);
  const Output output = read_output(out, err);
  if (!output.in_time) kill(process, SIGKILL);
  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  check(output.in_time, what, "the compiler did not end within ", kPatience.count(), " minutes",
        kAdvice);
  const fs::path engine = last_line(output.out);
  check(status == 0 && fs::exists(engine / "engine.json"), what, "the compiler (", compiler.python,
        ") said\n", last_words(output.err), kAdvice);
  return engine;
}

}  // namespace inflight::triton
