"""Linear, bilinear and embedding modules of torch."""

from __future__ import annotations

from rnncore.errors import UnsupportedError
from rnncore.export.torch.functions.products import embedding_node, linear_node
from rnncore.export.torch.layers.normalization import constant_or_filled
from rnncore.export.torch.layers.registry import layer


@layer("Linear", "NonDynamicallyQuantizableLinear")
def linear(g, module, input):
    return g.out(linear_node(g, g.tensor(input), module.weight, module.bias))


@layer("Bilinear")
def bilinear(g, module, input1, input2):
    x, y = g.tensor(input1), g.tensor(input2)
    weight = constant_or_filled(g, module.weight, "weight")
    name = g.emit("Einsum", [x, weight, y], {"equation": "...i,kij,...j->...k"})
    if module.bias is not None:
        name = g.emit("Add", [name, constant_or_filled(g, module.bias, "bias")])
    return g.out(name)


@layer("Embedding")
def embedding(g, module, input):
    if module.max_norm is not None:
        raise UnsupportedError(f"{g.place}: module {g.wanted!r} (Embedding): max_norm={module.max_norm}, expected none")
    return g.out(embedding_node(g, g.tensor(input), module.weight))
