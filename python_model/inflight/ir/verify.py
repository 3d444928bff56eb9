"""Checks that a graph is well formed: run after every pass."""

from collections.abc import Mapping

from inflight.ir.graph import SYMBOLIC_DIMS, Graph, Node, TensorType
from inflight.ir.ops import OPS, AttributeSpec, OpSchema

_ATTRIBUTE_TYPES = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "string": (str,),
}


class GraphError(ValueError):
    """The graph is not what the op table allows; a mistake of ours, not of the user's."""


def verify(graph: Graph) -> Graph:
    """The graph itself, or GraphError naming the node at fault."""
    known = set(graph.inputs) | set(graph.weights)
    if len(known) != len(graph.inputs) + len(graph.weights):
        raise GraphError("an input and a weight have the same name")
    for index, node in enumerate(graph.nodes):
        where = f"node {index} ({node.op})"
        if node.op not in OPS:
            raise GraphError(f"{where}: no such op")
        schema = OPS[node.op]
        _check_names(where, "input", node.inputs, {s.name: s.optional for s in schema.inputs})
        _check_attributes(where, node, schema)
        for name in node.inputs.values():
            if name not in known:
                raise GraphError(f"{where}: reads {name!r} before it is made")
        for name in node.outputs.values():
            if name in known:
                raise GraphError(f"{where}: makes {name!r} a second time")
            if name not in graph.values:
                raise GraphError(f"{where}: value {name!r} has no type")
            known.add(name)
        _check_types(where, graph, node, schema)
    unmade = set(graph.values) - known
    if unmade:
        raise GraphError(f"values that no node makes: {', '.join(sorted(unmade))}")
    for name, value in graph.outputs.items():
        if value not in graph.values:
            raise GraphError(f"output {name}: no node makes {value!r}")
    for name in known:
        _check_shape(name, graph.type_of(name))
    return graph


def _check_names(
    where: str, kind: str, given: Mapping[str, object], optional: Mapping[str, bool]
) -> None:
    for name in given:
        if name not in optional:
            raise GraphError(f"{where}: has no {kind} {name!r}")
    for name, may_miss in optional.items():
        if not may_miss and name not in given:
            raise GraphError(f"{where}: {kind} {name!r} is missing")


def _check_attributes(where: str, node: Node, schema: OpSchema) -> None:
    _check_names(
        where, "attribute", node.attributes, {s.name: s.optional for s in schema.attributes}
    )
    for spec in schema.attributes:
        if spec.name in node.attributes and not _fits(spec, node.attributes[spec.name]):
            raise GraphError(
                f"{where}: attribute {spec.name} is {node.attributes[spec.name]!r}, "
                f"expected {spec.type}"
            )


def _fits(spec: AttributeSpec, value: object) -> bool:
    if spec.type in ("ints", "floats"):
        element = int if spec.type == "ints" else (float, int)
        return isinstance(value, (list, tuple)) and all(isinstance(v, element) for v in value)
    if isinstance(value, bool) and spec.type != "bool":
        return False
    return isinstance(value, _ATTRIBUTE_TYPES[spec.type])


def _check_types(where: str, graph: Graph, node: Node, schema: OpSchema) -> None:
    types = {parameter: graph.type_of(name) for parameter, name in node.inputs.items()}
    try:
        inferred = schema.infer(types, node.attributes)
    except TypeError as error:
        raise GraphError(f"{where}: {error}") from error
    optional = {name: False for name in inferred}
    optional.update({s.name: s.optional for s in schema.outputs})
    _check_names(where, "output", node.outputs, optional)
    for parameter, name in node.outputs.items():
        actual, expected = graph.values[name], inferred[parameter]
        same = actual.shape == expected.shape and (
            schema.any_output_dtype or actual.dtype == expected.dtype
        )
        if not same:
            raise GraphError(f"{where}: {parameter} is {actual}, the op makes {expected}")


def _check_shape(name: str, type_: TensorType) -> None:
    for dim in type_.shape:
        if not (dim in SYMBOLIC_DIMS or (isinstance(dim, int) and dim > 0)):
            raise GraphError(f"{name}: {dim!r} is no dimension")
