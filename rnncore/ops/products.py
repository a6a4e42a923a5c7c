"""Products of values of the graph under their ONNX names; those with weights of a node are in ops/linear.py."""

from __future__ import annotations

from collections import Counter

from rnncore.errors import SpecError, shown
from rnncore.ops import blocks, sizes
from rnncore.ops.base import Op, Value
from rnncore.ops.checks import FLOATS, NUMBERS, merge, need, one_dtype, spread
from rnncore.ops.dimensions import factors
from rnncore.ops.schema import Flag, Real, Text

__all__ = ["OPS", "equation_terms"]

MULTIPLIED = (*FLOATS, "int32", "int64", "uint32", "uint64")


def _matmul_infer(attributes, values):
    """NumPy's rule: the last two axes are the matrix, those before broadcast, a vector is a row or a column."""
    a, b = values
    dtype = one_dtype(values)
    need(a, MULTIPLIED)
    if not a.shape or not b.shape:
        raise SpecError(f"inputs are {a} and {b}, expected at least 1 dimension")
    inner = a.shape[-1], b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if not sizes.fits(*inner):
        raise SpecError(f"inputs are {a} and {b}, which differ in the size they share: {inner[0]} and {inner[1]}")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if len(b.shape) > 1 else ()
    return [Value(dtype, (*spread(a.shape[:-2], b.shape[:-2]), *rows, *columns))]


def _matmul_dimensions(attributes, inputs, outputs):
    """The axes before the matrices'. The rows of one are a single call of BLAS, whose bits depend on their number."""
    tail = (len(inputs[0].shape) > 1) + (len(inputs[1].shape) > 1)
    before = len(outputs[0].shape) - tail
    return [dimension for dimension in factors(*inputs, *outputs) if dimension.outputs[0] < before]


def _gemm_infer(attributes, values):
    a, b, c = values
    need(a, MULTIPLIED, "A", rank=2)
    need(b, (a.dtype,), "B", rank=2)
    m, k = reversed(a.shape) if attributes["transA"] else a.shape
    other, n = reversed(b.shape) if attributes["transB"] else b.shape
    if not sizes.fits(k, other):
        raise SpecError(f"A is {a} and B is {b}, which differ in the size they share: {k} and {other}")
    if c is not None:
        need(c, (a.dtype,), "C")
        reach = (1,) * (2 - len(c.shape)) + c.shape
        fits = [size == 1 or sizes.fits(size, onto) for size, onto in zip(reach, (m, n), strict=False)]
        if len(reach) > 2 or not all(fits):
            raise SpecError(f"C is {c}, expected what spreads over ({m}, {n})")
    return [Value(a.dtype, (m, n))]


def _gemm(attributes, weights, a, b, c=None):
    """alpha A B + beta C."""
    a, b = a.T if attributes["transA"] else a, b.T if attributes["transB"] else b
    y = blocks.matmul(a, b)
    if attributes["alpha"] != 1:
        y = (attributes["alpha"] * y).astype(a.dtype, copy=False)
    if c is not None and attributes["beta"] != 0:
        c = c if attributes["beta"] == 1 else (attributes["beta"] * c).astype(a.dtype, copy=False)
        y += c  # in place, so that C cannot make it larger
    return y


# --- Einsum --------------------------------------------------------------------------------------------------------


def equation_terms(attributes, count):
    """The letters of each input and of the output, with "..." in places; ONNX allows spaces."""
    equation = attributes["equation"]
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != count:
        raise SpecError(f"equation={shown(equation)}, expected a term for each of {count} inputs")
    if not arrow:
        letters = Counter(left.replace(",", "").replace("...", ""))
        right = "..." * ("..." in left) + "".join(sorted(letter for letter, uses in letters.items() if uses == 1))
    for term in (*terms, right):
        plain = term.replace("...", "", 1)
        if plain and not (plain.isascii() and plain.isalpha()):
            raise SpecError(f"equation={shown(equation)}: {shown(term)}, expected letters and at most one '...'")
    output = right.replace("...", "")
    unknown = [letter for letter in output if letter not in left]
    if unknown or len(set(output)) < len(output) or ("..." in right and "..." not in left):
        raise SpecError(f"equation={shown(equation)}: output {shown(right)}, expected letters of the inputs, each once")
    return terms, right


def _einsum_infer(attributes, values):
    dtype = one_dtype(values)
    need(values[0], NUMBERS)
    terms, output = equation_terms(attributes, len(values))
    letters: dict[str, int | str] = {}
    between: tuple[int | str, ...] = ()
    for term, value in zip(terms, values, strict=True):
        before, dots, after = term.partition("...")
        spare = len(value.shape) - len(before) - len(after)
        if spare < 0 or (spare and not dots):
            raise SpecError(
                f"equation={shown(attributes['equation'])}: {shown(term)} for {value}, "
                "expected the same number of dimensions"
            )
        between = spread(between, value.shape[len(before) : len(before) + spare])
        sizes = (*value.shape[: len(before)], *value.shape[len(before) + spare :])
        for letter, size in zip(before + after, sizes, strict=True):
            letters[letter] = merge(letters.get(letter, size), size, f"{letter!r}")
    before, dots, after = output.partition("...")
    shape = (*(letters[i] for i in before), *(between if dots else ()), *(letters[i] for i in after))
    return [Value(dtype, shape)]


def _einsum(attributes, weights, *arrays):
    return blocks.einsum(attributes["equation"], *arrays)


OPS = [
    Op(
        "MatMul",
        _matmul_infer,
        lambda a, w, x, y: blocks.matmul(x, y),
        _matmul_dimensions,
        arity=(2, 2),
    ),
    Op(
        "Gemm",
        _gemm_infer,
        _gemm,
        arity=(2, 3),
        schema={"alpha": Real(1.0), "beta": Real(1.0), "transA": Flag(False), "transB": Flag(False)},
        optional=(2,),
    ),
    Op(
        "Einsum",
        _einsum_infer,
        _einsum,
        arity=(1, 64),
        schema={"equation": Text()},
    ),
]
