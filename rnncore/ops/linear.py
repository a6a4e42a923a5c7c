"""Products with weights the node owns: Linear (Dense, Gemm with a constant) and Embedding (Gather from a constant)."""

from __future__ import annotations

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.kernels import _linear, _program, runs_native
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value, need_float
from rnncore.ops.dimensions import kept, of_first
from rnncore.ops.schema import Flag, Size

__all__ = ["OPS"]


def _linear_infer(attributes, values):
    (x,) = values
    need_float(x)
    if not x.shape or (isinstance(x.shape[-1], int) and x.shape[-1] != attributes["input_size"]):
        raise SpecError(f"input is {x}, expected a last dimension of {attributes['input_size']}")
    return [Value("float", (*x.shape[:-1], attributes["output_size"]))]


def _linear_shapes(attributes):
    shapes: dict[str, tuple[int, ...]] = {"weight": (attributes["output_size"], attributes["input_size"])}
    if attributes["bias"]:
        shapes["bias"] = (attributes["output_size"],)
    return shapes


def _linear_run(attributes, weights, x):
    """y = x W^T + b over the last axis."""
    weight = weights["weight"]
    if x.size * len(weight) > blocks.WORK:
        y = blocks.matmul(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], len(weight))
    else:
        y = x @ weight.T
    if "bias" in weights:
        y += weights["bias"]
    return y


def _linear_packed(attributes, weights, threads):
    """The same on packed kernels, where they run."""
    if not runs_native(weights["weight"].dtype):
        return None
    matrix = _linear.Matrix(weights["weight"], weights.get("bias"), threads)

    def run(x):
        if x.shape[-1] != attributes["input_size"]:
            raise ValueError(f"expected a last dimension of {attributes['input_size']}")
        return matrix(x)

    setattr(run, "packed", {"weight": matrix.unpack})  # noqa: B010 - a function's own attribute
    setattr(run, "bind", matrix.bind)  # noqa: B010
    return run


def _embedding_infer(attributes, values):
    (ids,) = values
    if ids.dtype != "int64":
        raise SpecError(f"input is {ids}, expected int64 ids")
    return [Value("float", (*ids.shape, attributes["output_size"]))]


def check_ids(attributes, ids):
    """InputError where an id is not a row of the embedding."""
    rows = attributes["input_size"]
    if ids.size and (ids.min() < 0 or ids.max() >= rows):
        where = np.argwhere((ids < 0) | (ids >= rows))[0]
        raise InputError(f"id {ids[tuple(where)]} at {where.tolist()}, expected 0 to {rows - 1}")


def _embedding_packed(attributes, weights, threads):
    def run(ids):
        return _embedding_run(attributes, weights, ids)

    def bind(compiler, inputs, outputs):
        table, ids = compiler.constant(np.ascontiguousarray(weights["weight"])), compiler.dense(inputs[0])
        compiler.emit(_program.Rows(table, ids, *outputs), [table, ids], outputs)
        return True

    setattr(run, "bind", bind)  # noqa: B010 - a function's own attribute
    return run


def _embedding_run(attributes, weights, ids):
    """y = weight[ids]; ids must be in [0, input_size)."""
    check_ids(attributes, ids)
    return weights["weight"][ids]


OPS = [
    Op(
        "Linear",
        infer=_linear_infer,
        run=_linear_run,
        dimensions=kept(lambda attributes, rank: (rank - 1,)),
        schema={"input_size": Size(), "output_size": Size(), "bias": Flag(True)},
        weight_shapes=_linear_shapes,
        packed=_linear_packed,
    ),
    Op(
        "Embedding",
        infer=_embedding_infer,
        run=_embedding_run,
        dimensions=of_first,
        schema={"input_size": Size(), "output_size": Size()},
        weight_shapes=lambda a: {"weight": (a["input_size"], a["output_size"])},
        packed=_embedding_packed,
    ),
]
