"""The decoder that families share: a small layer vocabulary that writes graph nodes.

Nodes are written plainly, one idea each; fusing them is the passes' work.
"""

from dataclasses import dataclass

from inflight.checkpoint.mapping import CheckpointMapping
from inflight.config import FULL_ATTENTION, SLIDING_ATTENTION, ModelConfig
from inflight.ir.graph import Graph, group_input
from inflight.ir.graph_builder import GraphBuilder
from inflight.models.rope import ROPE_TYPES, rope_attributes


@dataclass(frozen=True)
class DecoderContext:
    """What every layer needs to write itself."""

    graph: GraphBuilder
    mapping: CheckpointMapping
    dtype: str
    tokens_per_block: int

    def weight(self, name: str, *shape: int) -> str:
        return self.graph.weight(name, self.mapping.weight(name, self.dtype, shape))


@dataclass(frozen=True)
class Linear:
    name: str
    in_features: int
    out_features: int
    bias: bool = False

    def __call__(self, context: DecoderContext, x: str) -> str:
        inputs = {
            "x": x,
            "weight": context.weight(f"{self.name}.weight", self.out_features, self.in_features),
        }
        if self.bias:
            inputs["bias"] = context.weight(f"{self.name}.bias", self.out_features)
        (y,) = context.graph.add("linear", inputs)
        return y


@dataclass(frozen=True)
class RMSNorm:
    name: str
    size: int
    epsilon: float

    def __call__(self, context: DecoderContext, x: str) -> str:
        weight = context.weight(f"{self.name}.weight", self.size)
        (y,) = context.graph.add("rms_norm", {"x": x, "weight": weight}, epsilon=self.epsilon)
        return y


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention with rotary positions over the paged cache of one layer."""

    layer: int
    config: ModelConfig

    def __call__(self, context: DecoderContext, x: str, cos_sin: str) -> str:
        config, graph = self.config, context.graph
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_size
        name, hidden, bias = self._name, config.hidden_size, config.attention_bias
        q = Linear(f"{name}.query", hidden, heads * size, bias)(context, x)
        k = Linear(f"{name}.key", hidden, kv_heads * size, bias)(context, x)
        v = Linear(f"{name}.value", hidden, kv_heads * size, bias)(context, x)
        (q,) = graph.add("rope", {"x": q, "cos_sin": cos_sin}, num_heads=heads, head_size=size)
        (k,) = graph.add("rope", {"x": k, "cos_sin": cos_sin}, num_heads=kv_heads, head_size=size)
        cache = graph.kv_cache(self.layer, context.dtype, kv_heads, context.tokens_per_block, size)
        window = config.window_of(self.layer)
        group = config.layer_windows.index(window)
        graph.add(
            "kv_append",
            {"k": k, "v": v, "slots": group_input("slots", group), "kv_cache": cache},
            num_kv_heads=kv_heads,
            head_size=size,
        )
        tables = {
            "block_tables": group_input("block_tables", group),
            **{name: name for name in ("query_starts", "kv_lengths")},
        }
        (y,) = graph.add(
            "attention",
            {"q": q, "kv_cache": cache, **tables},
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_size=size,
            scale=size**-0.5,
            **({"window": window} if window > 0 else {}),
        )
        return Linear(f"{name}.output", heads * size, hidden, bias)(context, y)

    @property
    def _name(self) -> str:
        return f"layers.{self.layer}.attention"


@dataclass(frozen=True)
class MLP:
    """down(silu(gate(x)) * up(x))."""

    name: str
    hidden_size: int
    intermediate_size: int
    bias: bool

    def __call__(self, context: DecoderContext, x: str) -> str:
        wide = (self.hidden_size, self.intermediate_size, self.bias)
        gate = Linear(f"{self.name}.gate", *wide)(context, x)
        up = Linear(f"{self.name}.up", *wide)(context, x)
        (gate,) = context.graph.add("silu", {"x": gate})
        (y,) = context.graph.add("mul", {"a": gate, "b": up})
        down = Linear(f"{self.name}.down", self.intermediate_size, self.hidden_size, self.bias)
        return down(context, y)


def build_decoder(
    config: ModelConfig, mapping: CheckpointMapping, dtype: str, tokens_per_block: int
) -> Graph:
    """The graph of the whole model: step inputs to float32 logits of each sequence's last token."""
    graph = GraphBuilder(len(config.layer_windows))
    context = DecoderContext(graph, mapping, dtype, tokens_per_block)
    hidden, epsilon = config.hidden_size, config.rms_norm_epsilon
    embedding = context.weight("embedding.weight", config.vocab_size, hidden)
    (x,) = graph.add("embedding", {"ids": "input_ids", "table": embedding})
    positions = {name: name for name in ("positions", "rope_lengths")}
    (cos_sin,) = graph.add("rope_table", positions, **rope_attributes(config))
    for layer in range(config.num_layers):
        name = f"layers.{layer}"
        y = RMSNorm(f"{name}.input_norm", hidden, epsilon)(context, x)
        y = Attention(layer, config)(context, y, cos_sin)
        (x,) = graph.add("add", {"a": x, "b": y})
        y = RMSNorm(f"{name}.post_attention_norm", hidden, epsilon)(context, x)
        y = MLP(f"{name}.mlp", hidden, config.intermediate_size, config.mlp_bias)(context, y)
        (x,) = graph.add("add", {"a": x, "b": y})
    (x,) = graph.add("gather_rows", {"x": x, "rows": "last_rows"})
    x = RMSNorm("final_norm", hidden, epsilon)(context, x)
    head = embedding
    if not config.tie_word_embeddings:
        head = context.weight("lm_head.weight", config.vocab_size, hidden)
    (logits,) = graph.add("linear", {"x": x, "weight": head}, dtype="float32")
    return graph.finish(logits=logits)


def unsupported(config: ModelConfig, *, has_windows: bool = False) -> list[str]:
    """What this decoder does not do, each setting with its value. `has_windows`: the family's layers
    may see a sliding window; others have none, whatever their configuration says."""
    found = []
    if config.quantization_method is not None:
        found.append(f"quantization_config: {config.quantization_method!r} is not supported")
    if config.hidden_act not in ("silu", "swish"):
        found.append(f"hidden_act: {config.hidden_act!r} is not supported, only silu is")
    if config.sliding_window is not None and not has_windows:
        found.append(f"sliding_window: {config.sliding_window} is not supported, only null is")
    known = [FULL_ATTENTION, *([SLIDING_ATTENTION] if has_windows else [])]
    other = sorted(set(config.layer_types) - set(known))
    if other:
        found.append(
            f"layer_types: {', '.join(other)} is not supported, only {' and '.join(known)} is"
        )
    if config.rope.rope_type not in ROPE_TYPES:
        found.append(
            f"rope_type: {config.rope.rope_type!r} is not supported, only "
            f"{', '.join(ROPE_TYPES)} are"
        )
    rotary = config.rope.partial_rotary_factor
    if rotary not in (None, 1.0):
        found.append(f"partial_rotary_factor: {rotary} is not supported, only 1.0 is")
    if config.rope.rope_type == "dynamic" and config.head_size < 4:
        found.append(f"head_dim: {config.head_size} is too small for dynamic rope, 4 is the least")
    return found
