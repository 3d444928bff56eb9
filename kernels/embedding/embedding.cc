#include "kernels/embedding/embedding.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const EmbeddingParams& p) {
  check_dense("embedding: ids", p.ids, {-1});
  check_dense("embedding: table", p.table, {-1, -1});
  check_dense("embedding: y", p.y, {p.ids.shape[0], p.table.shape[1]});
  check_dtype("embedding: ids", p.ids, DType::kInt32);
  check_floating("embedding: table", p.table);
  check_dtype("embedding: y", p.y, p.table.dtype);
}

}  // namespace

EmbeddingParams embedding_params(const OpArgs& args) {
  return {.ids = args.tensor("ids"), .table = args.tensor("table"), .y = args.tensor("y")};
}

void embedding(const EmbeddingParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(embedding, params, context);
}

OpDef embedding_op() {
  return {
      .name = "embedding",
      .signature = {.inputs = {{"ids"}, {"table"}}, .outputs = {{"y"}}, .attributes = {}},
      .check = [](const OpArgs& args) { check_params(embedding_params(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return
            [params = embedding_params(args)](OpContext& context) { embedding(params, context); };
      },
  };
}

}  // namespace inflight
