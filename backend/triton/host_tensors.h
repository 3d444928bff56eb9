// Tensors of a request or a response, copied into host memory of our own: what models of this
// backend that compute nothing hand on.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "backend/triton/response_builder.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

struct HostTensor {
  std::string name;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<int64_t> shape;  // batch dimension included
  std::vector<uint8_t> bytes;  // of BYTES: each element behind its length, 4 bytes

  /// The first element of an integer tensor. Raises Error if there is none.
  int64_t first() const;
  /// The elements of a BYTES tensor. Raises Error if a length leads beyond its end.
  std::vector<std::string> texts() const;
  /// Replaces the elements of a BYTES tensor; the shape stays.
  void set_texts(const std::vector<std::string>& texts);
};

/// Raises Error for one in GPU memory.
std::vector<HostTensor> inputs_of(TRITONBACKEND_Request* request);

/// The names of the outputs that the client asked for.
std::set<std::string> outputs_of(TRITONBACKEND_Request* request);

/// One response with those of the tensors that are wanted. `flags` as of ResponseSend. Raises Error
/// if the server has no memory for it; nothing was sent then, and `unfilled` has the response.
void send_tensors(TRITONBACKEND_ResponseFactory* factory, const std::vector<HostTensor>& tensors,
                  const std::set<std::string>& wanted, uint32_t flags, ResponsePtr& unfilled);

}  // namespace inflight::triton
