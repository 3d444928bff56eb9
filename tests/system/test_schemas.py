"""The Python op table and the C++ registry say the same of every op that has a kernel."""

from inflight import _core
from inflight.ir.ops import OPS


def test_ops_with_kernels_are_those_of_the_registry():
    python = {
        op.name: {
            "inputs": [(spec.name, spec.optional) for spec in op.inputs],
            "outputs": [(spec.name, spec.optional) for spec in op.outputs],
            "attributes": sorted((spec.name, spec.type, spec.optional) for spec in op.attributes),
        }
        for op in OPS.values()
        if op.has_kernel
    }
    registry = {
        name: signature | {"attributes": sorted(signature["attributes"])}
        for name, signature in _core.op_signatures().items()
    }
    assert registry == python
