"""Does a model compute what something else computed: its source framework (a test pair), another model, arrays?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import RnncoreError, VerificationError
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.runtime.model import Model

__all__ = [
    "Difference",
    "Replay",
    "Verification",
    "all_values",
    "check_pair",
    "compare",
    "drawn_inputs",
    "first_difference",
    "other_sizes",
    "replay",
    "sizes_of",
]

# Largest error of one output, relative to its largest value (at least 1), by the coarser of the two dtypes.
TOLERANCES = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Difference:
    """The difference of one output from its reference.

    error      largest absolute difference; inf where only one of them is NaN or infinite
    relative   the same, divided by the largest absolute value of the reference (at least 1)
    tolerance  what ``relative`` may be
    where      index of the largest difference
    """

    output: str
    error: float
    relative: float
    tolerance: float
    where: tuple[int, ...]

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal" if self.passed else "DIFFERENT"
        return (
            f"{self.output}: {verdict}, largest error {self.error:.3g} at {list(self.where)}, "
            f"relative {self.relative:.3g}, tolerance {self.tolerance:g}"
        )


@dataclass(frozen=True)
class Verification:
    """The outcome for every output of a model."""

    what: str
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        return all(difference.passed for difference in self.differences)

    def require(self) -> None:
        """VerificationError naming every output that differs; nothing if none does."""
        failed = [str(difference) for difference in self.differences if not difference.passed]
        if failed:
            raise VerificationError(f"{self.what}: {'; '.join(failed)}")


@dataclass(frozen=True)
class Replay:
    """A model and what it is compared with, both run on inputs of these sizes.

    report  the outcome; None where one side did not run, or shapes differ
    said    what either side said then
    equal   False where they differ, None where one of them refuses these sizes
    """

    sizes: Mapping[str, int]
    report: Verification | None
    said: str = ""
    equal: bool | None = None

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes.items())
        if self.equal is not None and self.report is None:
            return f"{sizes}: DIFFERENT, {self.said}"
        if self.report is None:
            return f"{sizes}: not run, {self.said}"
        return f"{sizes}: equal" if self.equal else f"{sizes}: " + "; ".join(map(str, self.report.differences))


def check_pair(model: Model, pair: TestPair | None, what: str) -> Verification:
    """Run a model on its test pair's inputs and compare. VerificationError without a pair."""
    if pair is None:
        raise VerificationError(f"{what}: no test pair in this file, so there is nothing to verify it against")
    return compare(model.run(pair.inputs), pair.outputs, what)


def compare(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], what: str) -> Verification:
    """The difference of each output from its reference. Equal shapes are required; NaN equals NaN."""
    return Verification(what, tuple(_difference(name, outputs[name], expected[name]) for name in expected))


def all_values(model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value that the model's nodes compute, by name, in their order."""
    spec = model.spec
    given = {entry.name for entry in spec.inputs}
    names = [name for name in spec.values if name not in given]
    return Model(Spec(spec.inputs, spec.nodes, names), model.weights, model.dtype).run(inputs)


def first_difference(
    spec: Spec, values: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[str, Difference] | None:
    """The first node of a Spec, in its order, one of whose values differs, and how; None if all are equal.

    Values that one side lacks, or has in another shape, are passed over.
    """
    for node in spec.nodes:
        for name in node.infer(spec.values):
            if name in values and name in expected and values[name].shape == expected[name].shape:
                difference = _difference(name, values[name], expected[name])
                if not difference.passed:
                    return node.name, difference
    return None


def drawn_inputs(
    spec: Spec, dtype: str = "float32", seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Inputs of a Spec, drawn with a seed; ids in range, lengths from 1 to the number of steps.

    sizes: of dimensions by their names; 2 rows of 7 steps and 5 of everything else where nothing is said. Optional
    inputs are left out.
    """
    rng = np.random.default_rng(seed)
    sizes = {"B": 2, "T": 7, **(sizes or {})}
    inputs = {}
    for entry in spec.inputs:
        if entry.optional:
            continue
        shape = [sizes.get(size, 5) if isinstance(size, str) else size for size in entry.shape]
        readers: list[Any] = [node for node in spec.nodes if entry.name in node.reads]
        if entry.dtype == "bool":
            inputs[entry.name] = np.ones(shape, np.bool_)
        elif entry.dtype.startswith(("int", "uint")):
            lengths = any(getattr(node, "lengths", None) == entry.name for node in readers)
            tables = [n.attributes["input_size"] for n in readers if n.op == "Embedding"]
            low, high = (1, sizes["T"] + 1) if lengths else (0, min(tables, default=2))
            inputs[entry.name] = rng.integers(low, high, shape).astype(entry.dtype)
        else:
            inputs[entry.name] = rng.standard_normal(shape).astype(dtype if entry.dtype == "float" else entry.dtype)
    return inputs


def sizes_of(spec: Spec, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The values of the names in a Spec's inputs, with these arrays."""
    by_name: dict[str | int, int] = {}
    for entry in spec.inputs:
        if entry.name in inputs:
            by_name.update(zip(entry.shape, inputs[entry.name].shape, strict=True))
    return {name: size for name, size in by_name.items() if isinstance(name, str)}


def other_sizes(spec: Spec, stored: Mapping[str, int] | None = None) -> list[dict[str, int]]:
    """Sizes for all names in a Spec's inputs, in which no two are equal or change alike; a batch of 1 among them.

    stored: sizes that are not among them. None at all where every size of the inputs is a number.
    """
    in_order = [size for entry in spec.inputs if not entry.optional for size in entry.shape if isinstance(size, str)]
    names = sorted(dict.fromkeys(in_order), key=lambda name: name != "B")
    if not names:
        return []
    count = len(names)
    tuples = [
        [1, *(4 + 3 * i for i in range(1, count))],
        [count + 2 - i for i in range(count)],
        [3 + 2 * i for i in range(count)],
        [1, *(19 - 3 * i if i < 6 else 2 + i for i in range(1, count))],
        [2, *(1 + 10 * i for i in range(1, count))],
        [6 + i * i for i in range(count)],
    ]
    chosen = [dict(zip(names, sizes, strict=True)) for sizes in tuples]
    return [sizes for i, sizes in enumerate(chosen) if sizes != stored and sizes not in chosen[:i]]


def replay(
    model: Model,
    reference: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    what: str,
    tuples: Iterable[Mapping[str, int]],
    seed: int = 0,
) -> tuple[Replay, ...]:
    """Runs a model and its reference on inputs drawn with a seed, of each of the sizes.

    reference: inputs by name -> outputs by name; VerificationError for those that it does not take.
    """
    return tuple(_replayed(model, reference, what, sizes, seed + i) for i, sizes in enumerate(tuples))


def _replayed(model: Model, reference: Callable, what: str, sizes: Mapping[str, int], seed: int) -> Replay:
    inputs = drawn_inputs(model.spec, model.dtype.name, seed, sizes)
    try:
        expected = reference(inputs)
        outputs = model.run(inputs)
    except RnncoreError as error:
        return Replay(sizes, None, str(error))
    try:
        report = compare({name: outputs[name] for name in expected}, expected, what)
    except VerificationError as error:
        return Replay(sizes, None, str(error), False)
    return Replay(sizes, report, equal=report.passed)


def _difference(name: str, output: np.ndarray, expected: np.ndarray) -> Difference:
    if output.shape != expected.shape:
        raise VerificationError(f"{name}: shape {output.shape}, expected {expected.shape}")
    if output.dtype.kind != expected.dtype.kind and "f" in (output.dtype.kind, expected.dtype.kind):
        raise VerificationError(f"{name}: dtype {output.dtype}, expected {expected.dtype}")
    if output.dtype.kind != "f":
        error = (output != expected).astype(np.float64)
        tolerance, scale = 0.0, 1.0
    else:
        a, b = output.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        error = np.where(np.isnan(error), np.inf, error)
        tolerance = max(TOLERANCES[output.dtype.name], TOLERANCES[expected.dtype.name])
        finite = np.abs(b[np.isfinite(b)])
        scale = max(1.0, float(finite.max(initial=0.0)))
    if not error.size:
        return Difference(name, 0.0, 0.0, tolerance, ())
    where = np.unravel_index(int(error.argmax()), error.shape)
    largest = float(error[where])
    return Difference(name, largest, largest / scale, tolerance, tuple(map(int, where)))
