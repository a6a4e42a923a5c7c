"""The convention that weights follow: detect() tries all that are known against one reference pair.

    for dialect in rnncore.detect({"weight_ih": w, "weight_hh": r, "bias": b}, x, y):
        print(dialect)                  # LSTM, gates i o f g in rows (onnx): error 2e-07
    model = rnncore.detect(weights, x, y)[0].model()

Conventions: the order and layout of gates, CuDNN's kernels, slopes of the gates' sigmoid, forget bias 0 or 1 at run
time, coupled gates on either side, GRU reset before or after and the meaning of its update gate, two biases summed
or separate, direction and the order of its outputs, batch or time first, the whole sequence or the last output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations, product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.conventions import layers
from rnncore.conventions.gates import GATE_LAYOUTS, GATE_ORDERS, halve_bias, split_kernel, sum_biases
from rnncore.errors import InputError, SpecError, WeightError
from rnncore.runtime.model import Model

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Dialect", "detect"]

KINDS = ("RNN", "LSTM", "GRU")
SIGMOIDS = ("sigmoid", "hard_sigmoid_fifth", "hard_sigmoid_sixth")
READ = ("weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh", "kernel")
# The first look runs this much of the pair; most candidates go no further.
FIRST_STEPS, FIRST_ROWS = 3, 2


@dataclass(frozen=True, eq=False)
class Dialect:
    """One convention under which the weights give the reference output.

    order      the gates in the order of the arrays, in rnncore's letters; frameworks: whose order and layout that is
    layout     "gates_in" (gates in rows), "in_gates" (in columns) or "cudnn"
    options    of the cell: activations, coupled, forget_bias, reset_after, update
    bias       "none", "one", "sum" (two, added) or "halves" (two, the second one's n inside the reset)
    direction, output_order   "forward" or "reverse"; "time" or "processing"
    x_layout, y_layout        "batch_first" or "time_first"
    take       "sequence", or "last" where y is the output of the last step
    error      largest difference from y, relative to the largest |y|
    arguments  for rnncore.RNN, LSTM or GRU, arrays included
    """

    kind: str
    order: str
    layout: str
    options: Mapping[str, Any]
    bias: str
    direction: str
    output_order: str
    x_layout: str
    y_layout: str
    take: str
    error: float
    arguments: Mapping[str, Any] = field(repr=False)

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Names of the orders that these gates and this layout are."""
        layout = "in_gates" if self.layout == "cudnn" else self.layout
        names = [name for name, orders in GATE_ORDERS.items() if _fits_order(self.order, orders[self.kind])]
        return tuple(name for name in names if GATE_LAYOUTS[name] == layout)

    @property
    def name(self) -> str:
        """The convention in words."""
        where = {"gates_in": "in rows", "in_gates": "in columns", "cudnn": "in columns, CuDNN's"}[self.layout]
        known = f" ({', '.join(self.frameworks)})" if self.frameworks else ""
        words = [self.kind, f"gates {' '.join(self.order)} {where}{known}" if len(self.order) > 1 else f"W {where}"]
        options = self.options
        if options["activations"][0] not in ("sigmoid", "tanh"):
            words.append(options["activations"][0])
        if "reset_after" in options:
            words.append("reset after" if options["reset_after"] else "reset before")
        if options.get("update") == "new":
            words.append("z takes the new state")
        if options.get("coupled"):
            words.append({"input": "i = 1 - f", "forget": "f = 1 - i"}[options["coupled"]])
        if options.get("forget_bias"):
            words.append(f"forget bias {options['forget_bias']:g} added")
        if self.bias == "sum" and self.kind == "GRU" and options["reset_after"]:
            words.append("both biases summed")
        if self.direction == "reverse":
            late = self.take == "sequence" and self.output_order == "processing"
            words.append("reverse, outputs in processing order" if late else "reverse")
        for letter, layout in (("x", self.x_layout), ("y", self.y_layout)):
            if layout == "time_first":
                words.append(f"{letter} is time first")
        if self.take == "last":
            words.append("y is the last output")
        return ", ".join(words)

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.1g}"

    def model(self, dtype: str = "float32") -> Model:
        """The weights as a Model that takes x as it was given to detect; a sequence comes out in the same layout."""
        return getattr(layers, self.kind)(**self.arguments, dtype=dtype)


@dataclass(frozen=True, eq=False)
class _Reading:
    """The pair read in one way: x (B, T, I) and y (B, T, H), or (B, H) where it is the last output."""

    x: np.ndarray
    y: np.ndarray
    x_layout: str
    y_layout: str

    @property
    def take(self) -> str:
        return "sequence" if self.y.ndim == 3 else "last"


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A convention of the weights: rank is how unusual it is."""

    rank: tuple
    kind: str
    order: str
    layout: str
    options: dict[str, Any]
    bias: str
    arrays: dict[str, np.ndarray]


def detect(
    weights: Mapping[str, ArrayLike], x: ArrayLike, y: ArrayLike, *, kind: str | None = None, tolerance: float = 1e-4
) -> list[Dialect]:
    """The conventions under which one layer's weights turn x into y, the most usual first; empty if none does.

    weights    weight_ih and weight_hh (or TF1's kernel), and bias or bias_ih and bias_hh if there are any
    x, y       a batch and its output from zero state: x (B, T, I) or (T, B, I), or (T, I) for one row; y a sequence
               of the same kind, (B, T, H), or the last output, (B, H)
    kind       "RNN", "LSTM" or "GRU"; without it every one that the shapes allow
    tolerance  largest difference, relative to the largest |y|

    Where the pair cannot tell two apart (a single step never shows the forget gate), both are returned. Frameworks'
    own gate orders are tried first, all permutations if none of those fits.

    Raises WeightError and InputError for arrays whose shapes fit no convention, SpecError for an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise SpecError(f"kind={kind!r}, expected one of {', '.join(map(repr, KINDS))}")
    x, y = _finite("x", x), _finite("y", y)
    arrays = _read_weights(weights, x)
    layouts, hidden, rows = _shapes(arrays, x)
    kinds = _kinds(kind, rows // hidden, arrays["weight_hh"].shape)
    readings = _readings(x, y, hidden)
    dialects: list[tuple[tuple, Dialect]] = []
    for usual in (True, False):
        for one in kinds:
            for candidate in _candidates(one, arrays, layouts, rows // hidden, rows, usual):
                dialects += _try(candidate, readings, tolerance)
        if dialects:
            break
    best = min((dialect.error for _, dialect in dialects), default=0.0)
    dialects.sort(key=lambda pair: (pair[1].error > 10 * best + 1e-6, pair[0]))
    return [dialect for _, dialect in dialects]


def _finite(name: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {type(given).__name__}, expected an array of numbers: {error}") from None
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"{name}: shape {array.shape}, expected finite numbers, at least one")
    return array


def _read_weights(weights: Mapping[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    unknown = sorted(set(weights) - set(READ))
    if unknown:
        raise WeightError(f"weights: {unknown[0]!r} is unknown, expected some of {', '.join(READ)}")
    arrays = {name: np.asarray(array, np.float64) for name, array in weights.items() if array is not None}
    if x.ndim not in (2, 3):
        raise InputError(f"x: shape {x.shape}, expected (B, T, I), (T, B, I) or (T, I)")
    if "kernel" in arrays:
        kernel = arrays.pop("kernel")
        outputs = len(kernel) - x.shape[-1]
        if kernel.ndim != 2 or outputs < 1 or "weight_ih" in arrays or "weight_hh" in arrays:
            raise WeightError(f"kernel: shape {kernel.shape}, expected ({x.shape[-1]}+H, G*H) and no other weights")
        arrays["weight_ih"], arrays["weight_hh"] = split_kernel(kernel, outputs)
    for name in ("weight_ih", "weight_hh"):
        if name not in arrays or arrays[name].ndim != 2:
            raise WeightError(f"{name}: {arrays[name].shape if name in arrays else 'missing'}, expected a matrix")
    if ("bias_ih" in arrays) != ("bias_hh" in arrays) or ("bias" in arrays and "bias_ih" in arrays):
        raise WeightError("weights: expected bias, or both bias_ih and bias_hh, or neither")
    return arrays


def _shapes(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> tuple[list[str], int, int]:
    """The layouts that are possible, H, and G*H."""
    w, r, size = arrays["weight_ih"].shape, arrays["weight_hh"].shape, x.shape[-1]
    rows, hidden = max(r), min(r)
    layouts = []
    if r == (rows, hidden) and w == (rows, size):
        layouts.append("gates_in")
    if r == (hidden, rows) and w == (size, rows):
        layouts.append("in_gates")
    if not layouts or rows % hidden:
        raise WeightError(
            f"weight_ih: shape {w}, weight_hh: shape {r}, x of {size} features: expected (G*H, {size}) and (G*H, H), "
            f"or ({size}, G*H) and (H, G*H)"
        )
    return layouts, hidden, rows


def _kinds(kind: str | None, blocks: int, shape: tuple[int, ...]) -> list[str]:
    possible = {1: ["RNN"], 3: ["GRU", "LSTM"], 4: ["LSTM"]}.get(blocks, [])
    if not possible or (kind is not None and kind not in possible):
        wanted = kind or "RNN, LSTM or GRU"
        raise WeightError(f"weight_hh: shape {shape} holds {blocks} gates, expected those of {wanted}: 1, 3 or 4")
    return [kind] if kind else possible


def _readings(x: np.ndarray, y: np.ndarray, hidden: int) -> list[_Reading]:
    """Every way in which the axes of x and y can be batch and time."""
    if x.ndim == 2:
        if y.shape not in ((len(x), hidden), (hidden,)):
            raise InputError(f"y: shape {y.shape}, expected ({len(x)}, {hidden}) or ({hidden},) for one row")
        return [_Reading(x[None], y[None], "batch_first", "batch_first")]
    readings = []
    for x_layout in ("batch_first", "time_first"):
        turned = x if x_layout == "batch_first" else x.swapaxes(0, 1)
        batch, steps = turned.shape[:2]
        if y.shape == (batch, steps, hidden):
            readings.append(_Reading(turned, y, x_layout, "batch_first"))
        if y.shape == (steps, batch, hidden):
            readings.append(_Reading(turned, y.swapaxes(0, 1), x_layout, "time_first"))
        if y.shape == (batch, hidden):
            readings.append(_Reading(turned, y, x_layout, "batch_first"))
    if not readings:
        raise InputError(f"y: shape {y.shape}, expected (B, T, {hidden}), (T, B, {hidden}) or (B, {hidden})")
    return sorted(readings, key=lambda reading: (reading.x_layout != reading.y_layout, reading.x_layout))


def _candidates(
    kind: str, arrays: Mapping[str, np.ndarray], layouts: list[str], blocks: int, rows: int, usual: bool
) -> Iterator[_Candidate]:
    """Every convention of the weights; usual: with the gate orders of frameworks, otherwise with the other ones."""
    for layout, (bias, given) in product(_with_cudnn(layouts, arrays, kind, rows), _biases(kind, arrays, rows)):
        for options in _options(kind, blocks):
            for position, order in enumerate(_orders(kind, blocks, options.get("coupled"), usual)):
                chosen = {key: value for key, value in options.items() if key != "rank"}
                if kind == "GRU" and bias == "halves" and not options["reset_after"]:
                    continue
                rank = (*options["rank"], bias == "sum", layout == "cudnn", position)
                matrices = {name: arrays[name] for name in ("weight_ih", "weight_hh")}
                yield _Candidate(rank, kind, order, layout, chosen, bias, matrices | given)


def _with_cudnn(layouts: list[str], arrays: Mapping[str, np.ndarray], kind: str, rows: int) -> list[str]:
    """The layouts, and CuDNN's where there is its bias."""
    doubled = "bias" in arrays and halve_bias(arrays["bias"], rows) is not None
    return [*layouts, *(["cudnn"] if doubled and kind != "RNN" and "in_gates" in layouts else [])]


def _biases(kind: str, arrays: Mapping[str, np.ndarray], rows: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The possible meanings of the biases: (label, arguments)."""
    pair = None
    if "bias_ih" in arrays:
        pair = arrays["bias_ih"], arrays["bias_hh"]
    elif "bias" in arrays:
        pair = halve_bias(arrays["bias"], rows)
        if pair is None and arrays["bias"].shape != (rows,):
            raise WeightError(f"bias: shape {arrays['bias'].shape}, expected ({rows},), ({2 * rows},) or (2, {rows})")
        if pair is None:
            return [("one", {"bias": arrays["bias"]})]
    if pair is None:
        return [("none", {})]
    for name, half in zip(("bias_ih", "bias_hh"), pair, strict=True):
        if half.shape != (rows,):
            raise WeightError(f"{name}: shape {half.shape}, expected ({rows},)")
    total = ("sum", {"bias": sum_biases(*pair)})
    return [("halves", {"bias_ih": pair[0], "bias_hh": pair[1]}), total] if kind == "GRU" else [total]


def _options(kind: str, blocks: int) -> list[dict[str, Any]]:
    """Options of the cell, each with its rank."""
    if kind == "RNN":
        return [{"activations": (name,), "rank": (index,)} for index, name in enumerate(("tanh", "relu"))]
    options_of_cell = []
    for index, sigmoid in enumerate(SIGMOIDS):
        if kind == "GRU":
            for late, update in product((True, False), ("old", "new")):
                options = {"activations": (sigmoid, sigmoid, "tanh"), "reset_after": late, "update": update}
                options_of_cell.append({**options, "rank": (update == "new", index, not late)})
            continue
        for number, coupled in enumerate((None, "input", "forget")):
            if blocks == 3 and coupled is None:
                continue
            for forget_bias in (0.0,) if coupled == "forget" else (0.0, 1.0):
                options = {"activations": (sigmoid, sigmoid, "tanh", sigmoid, "tanh"), "forget_bias": forget_bias}
                options_of_cell.append({**options, "coupled": coupled, "rank": (number, index, forget_bias)})
    return options_of_cell


def _orders(kind: str, blocks: int, coupled: str | None, usual: bool) -> list[str]:
    """Gate orders, each once; those of frameworks, or all the others."""
    without = {"input": "i", "forget": "f"}[str(coupled)] if kind == "LSTM" and blocks == 3 else ""
    known = list(dict.fromkeys(orders[kind].replace(without, "") for orders in GATE_ORDERS.values()))
    if usual:
        return known
    return [order for order in map("".join, permutations(sorted(known[0]))) if order not in known]


def _fits_order(order: str, known: str) -> bool:
    """Whether the order is the known one, or that without the gate that coupling derives."""
    return order == "".join(letter for letter in known if letter in order)


def _try(candidate: _Candidate, readings: list[_Reading], tolerance: float) -> list[tuple[tuple, Dialect]]:
    """The dialects of a candidate: for every reading of the pair and direction that fits, one."""
    arguments = {**candidate.arrays, "order": candidate.order, "layout": candidate.layout, **candidate.options}
    run = getattr(layers, candidate.kind)(**arguments, dtype="float64")
    dialects = []
    for number, reading in enumerate(readings):
        if not _directions(run, reading, tolerance, FIRST_ROWS, FIRST_STEPS):
            continue
        for place, (direction, output_order, error) in enumerate(_directions(run, reading, tolerance)):
            given = {**arguments, "direction": direction, "output_order": output_order, "take": reading.take}
            given["time_first"] = reading.x_layout == "time_first"
            dialects.append(
                (
                    (*candidate.rank, place, number),
                    Dialect(
                        candidate.kind,
                        candidate.order,
                        candidate.layout,
                        MappingProxyType(candidate.options),
                        candidate.bias,
                        direction,
                        output_order,
                        reading.x_layout,
                        reading.y_layout,
                        reading.take,
                        error,
                        MappingProxyType(given),
                    ),
                )
            )
    return dialects


def _directions(
    run: Model, reading: _Reading, tolerance: float, rows: int | None = None, steps: int | None = None
) -> list[tuple[str, str, float]]:
    """(direction, output order, error) of those that fit; looking at the first rows only, and if y is a sequence at
    the first steps processed, where these are given.

    A reverse direction is the forward one on the turned input.
    """
    x, y = reading.x[:rows], reading.y[:rows]
    last = reading.take == "last"
    scale = np.abs(reading.y).max() or 1.0
    fitting = []
    for direction in ("forward", "reverse") if x.shape[1] > 1 else ("forward",):
        ordered = x if direction == "forward" else x[:, ::-1]
        out: Any = run(ordered if last else ordered[:, :steps])
        expected = {"time": y}
        if not last and direction == "reverse":
            expected = {"time": y[:, ::-1], "processing": y}
        for output_order, wanted in expected.items():
            error = np.abs((out[:, -1] - wanted) if last else (out - wanted[:, :steps])).max() / scale
            if error <= tolerance:
                fitting.append((direction, output_order, float(error)))
    return fitting
