"""Model: a Spec and its Weights, packed for this CPU and run.

Compiling turns each node into a step: a function from the values computed so far to its own. Recurrent steps run
the compiled time loop of rnncore.kernels; the others run their op.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rnncore.arguments import accept_inputs, accept_lengths, accept_mask, accept_state, check_mask_is_lengths
from rnncore.cells import Cell
from rnncore.errors import InputError, RnncoreError, SpecError
from rnncore.kernels import _engine
from rnncore.ops import OPS
from rnncore.spec import Input, Node, Recurrent, Spec
from rnncore.state import State
from rnncore.weights import Weights

__all__ = ["Model"]

# What stands for "no state argument", so that None can mean "start from the beginning, and give me the state".
_NO_STATE: Any = type("NoState", (), {"__repr__": lambda self: "<no state>"})()

Values = dict[str, Any]


class Model:
    """A network ready to run. Immutable, picklable, shared by threads.

    spec, weights   what it is (weights: a Weights, or a mapping of canonical names to arrays)
    dtype           "float32" or "float64": every float input, weight, state and output

    Raises SpecError and WeightError where spec and weights do not fit.
    """

    def __init__(self, spec: Spec, weights: Mapping[str, np.ndarray], dtype: str = "float32"):
        if str(dtype) not in ("float32", "float64"):
            raise SpecError(f"dtype {dtype!r}, expected 'float32' or 'float64'")
        self._spec = spec
        self._dtype = np.dtype(dtype)
        self._weights = weights if isinstance(weights, Weights) else Weights(spec, weights)
        needed = set(spec.outputs).union(*(node.reads for node in spec.nodes))
        given = {entry.name for entry in spec.inputs}
        self._steps = [_compile(node, self._weights, self._dtype, needed, given) for node in spec.nodes]

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def weights(self) -> Weights:
        return self._weights

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Name, dtype and shape of each input."""
        return self._spec.inputs

    @property
    def outputs(self) -> tuple[Input, ...]:
        """Name, dtype and shape of each output."""
        values = self._spec.values
        return tuple(Input(name, values[name].dtype, values[name].shape) for name in self._spec.outputs)

    def __reduce__(self):
        return Model, (self._spec, dict(self._weights), self._dtype.name)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{entry.name}: {entry.value}" for entry in self.inputs)
        outputs = ", ".join(f"{entry.name}: {entry.value}" for entry in self.outputs)
        return f"<Model {inputs} -> {outputs}; {self._weights.count:,} parameters, {self._dtype.name}>"

    def __call__(self, x: Any, state: Any = _NO_STATE, *, lengths: Any = None, mask: Any = None) -> Any:
        """Run a model with one required input.

        x        what ``model.inputs`` says, batch first: (B, T, I) for a float sequence, (B, T) for ids
        state    where to start: a State, (h, c), h, or None for the beginning. If given, the state after the last
                 valid step is returned beside the output
        lengths  (B,) number of valid steps of each row; what lies behind is never read, and its output is 0.
                 A row of length 0 keeps its state
        mask     (B, T) bool, for models with an input "mask": True where a step counts, gaps allowed

        Returns the output (a dict by name where the model has several), or (output, state) if state was given.
        Raises InputError and StateError.
        """
        required = [entry for entry in self.inputs if not entry.optional]
        if len(required) != 1:
            names = ", ".join(entry.name for entry in required)
            raise InputError(f"this model has {len(required)} required inputs ({names}): use run({{name: array}})")
        given = {required[0].name: x}
        if lengths is not None:
            given["lengths"] = lengths
        if mask is not None:
            given["mask"] = mask
        outputs, after = self._run(given, None if state is _NO_STATE else state)
        y = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return y if state is _NO_STATE else (y, after)

    def run(self, inputs: Mapping[str, Any], state: Any = _NO_STATE) -> Any:
        """Run any model: named inputs in, a dict of named outputs back; (outputs, state) if state was given."""
        outputs, after = self._run(inputs, None if state is _NO_STATE else state)
        return outputs if state is _NO_STATE else (outputs, after)

    def initial_state(self, batch: int) -> State:
        """The state that a run starts from where none is given: trained initial states, or zeros."""
        found = {}
        for node in self._spec.recurrent:
            for key, shape in node.state_shapes(batch).items():
                array = np.zeros(shape, self._dtype)
                if node.trained_state:
                    array += self._weights[f"{node.name}.initial_{key}"][:, None, :]
                found[f"{node.name}.{key}"] = array
        return State(found)

    def predict(
        self,
        sequences: Iterable[Any],
        batch_size: int = 256,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Any]:
        """Run many sequences of any lengths, and return their outputs in the same order.

        sequences   one array for each, without the batch dimension: (T_i, I), or (T_i,) for ids
        batch_size  rows run together; they are chosen by length, so little is wasted
        progress    called with (sequences done, all) after each batch

        Returns a list of arrays without the batch dimension, outputs with a time dimension cut to the sequence's
        length; of dicts where the model has several outputs. The model's input must have its time dimension second.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch_size={batch_size!r}, expected a positive integer")
        entry, time = self._ragged_input()
        arrays = [np.asarray(sequence) for sequence in sequences]
        for i, array in enumerate(arrays):
            if array.ndim != len(entry.shape) - 1:
                raise InputError(f"sequence {i}: shape {array.shape}, expected {len(entry.shape) - 1} dimensions")
        order = sorted(range(len(arrays)), key=lambda i: len(arrays[i]), reverse=True)
        results: list[Any] = [None] * len(arrays)
        for first in range(0, len(order), int(batch_size)):
            rows = order[first : first + int(batch_size)]
            lengths = np.array([len(arrays[i]) for i in rows], np.int64)
            for i, array in zip(rows, self._predict_batch(entry, time, [arrays[i] for i in rows], lengths), strict=True):
                results[i] = array
            if progress is not None:
                progress(min(first + len(rows), len(order)), len(order))
        return results

    def _ragged_input(self) -> tuple[Input, str]:
        """The one input that predict can pad, and the name of its time dimension."""
        required = [entry for entry in self.inputs if not entry.optional]
        named = [entry.name for entry in self.inputs]
        if len(required) != 1 or "lengths" not in named:
            raise InputError(f"predict needs a model with one required input and lengths; this one has {', '.join(named)}")
        entry = required[0]
        if len(entry.shape) < 2 or not isinstance(entry.shape[1], str):
            raise InputError(f"predict needs a time dimension of free size; input {entry.name!r} is {entry.value}")
        return entry, entry.shape[1]

    def _predict_batch(self, entry: Input, time: str, arrays: list[np.ndarray], lengths: np.ndarray) -> list[Any]:
        longest = int(lengths.max())
        dtype = {"float": self._dtype, "int64": np.dtype(np.int64), "bool": np.dtype(np.bool_)}[entry.dtype]
        width = arrays[0].shape[1:]
        padded = np.zeros((len(arrays), longest, *width), dtype)
        for row, array in enumerate(arrays):
            if array.shape[1:] != width:
                raise InputError(f"sequences of shape (T, {width}) and {array.shape} together, expected one width")
            if array.dtype.kind not in ("fiub" if dtype.kind == "f" else "iu"):
                raise InputError(f"{entry.name}: dtype {array.dtype}, expected {dtype}")
            padded[row, : len(array)] = array
        outputs, _ = self._run({entry.name: padded, "lengths": lengths}, None)
        values = self._spec.values
        found = []
        for row, length in enumerate(lengths):
            cut = {}
            for name, array in outputs.items():
                shape = values[name].shape
                one = array[row, :length] if len(shape) > 1 and shape[1] == time else array[row]
                cut[name] = one.copy()
            found.append(next(iter(cut.values())) if len(cut) == 1 else cut)
        return found

    def _run(self, inputs: Mapping[str, Any], state: Any) -> tuple[dict[str, np.ndarray], State]:
        values: Values = accept_inputs(self._spec, inputs, self._dtype)
        after: dict[str, np.ndarray] = {}
        before = None
        if state is not None:
            before = accept_state(self._spec.recurrent, state, _batch_of(self._spec, values), self._dtype)
        for step in self._steps:
            step(values, before, after)
        return {name: _owned(values[name], after) for name in self._spec.outputs}, State(after)


def _batch_of(spec: Spec, values: Values) -> int:
    """The batch of the first input that a state must fit: the size named "B", else the first dimension."""
    for entry in spec.inputs:
        if values[entry.name] is not None and "B" in entry.shape:
            return values[entry.name].shape[entry.shape.index("B")]
    first = next(entry for entry in spec.inputs if values[entry.name] is not None)
    return values[first.name].shape[0]


def _owned(array: np.ndarray, after: dict[str, np.ndarray]) -> np.ndarray:
    """An output that shares no memory with the returned state."""
    return array.copy() if any(np.may_share_memory(array, kept) for kept in after.values()) else array


Step = Callable[[Values, "State | None", dict[str, np.ndarray]], None]


def _compile(node: Node | Recurrent, weights: Weights, dtype: np.dtype, needed: set[str], given: set[str]) -> Step:
    if isinstance(node, Recurrent):
        return _RecurrentStep(node, weights, dtype, needed, given)
    return _op_step(node, weights, dtype)


def _op_step(node: Node, weights: Weights, dtype: np.dtype) -> Step:
    run = functools.partial(OPS[node.op].run, node.attributes)
    own = {name.removeprefix(f"{node.name}."): weights[name].astype(dtype, copy=False) for name in node.weight_shapes()}

    def step(values: Values, before: State | None, after: dict[str, np.ndarray]) -> None:
        try:
            found = run(own, *(values[name] for name in node.inputs))
        except InputError as error:
            raise InputError(f"node {node.name!r} ({node.op}): {error}") from None
        except ValueError as error:
            if isinstance(error, RnncoreError):
                raise
            shapes = ", ".join(str(values[name].shape) for name in node.inputs)
            raise InputError(f"node {node.name!r} ({node.op}): inputs of shape {shapes}: {error}") from None
        if isinstance(found, tuple):
            values.update({f"{node.name}.{i}": array for i, array in enumerate(found)})
        else:
            values[node.name] = found

    return step


class _Rows(NamedTuple):
    """Which steps of which rows count, as the time loop takes them: see Job in kernels/_engine.pyx.

    All None where every step counts; steps and mask (B, T) None where only lengths say what does.
    """

    order: np.ndarray | None = None
    lengths: np.ndarray | None = None
    steps: np.ndarray | None = None
    mask: np.ndarray | None = None


class _RecurrentStep:
    """Runs one Recurrent node: layers one after the other, each direction by one call of the time loop.

    needed: names of the values that somebody reads; given: those of the Spec's inputs.
    """

    def __init__(self, node: Recurrent, weights: Weights, dtype: np.dtype, needed: set[str], given: set[str]):
        self.node = node
        self.mask_given = node.mask in given
        self.flip = node.output_order == "processing"
        self.dtype = dtype
        self.time_first = node.layout == "time_first"
        self.sequence_needed = any(f"{node.name}{end}" in needed for end in ("", ".forward", ".reverse"))
        self.trained = {}
        if node.trained_state:
            self.trained = {
                key: weights[f"{node.name}.initial_{key}"].astype(dtype, copy=False) for key in node.cell.states
            }
        self.layers = [
            [_pack(node, layer, direction, weights, dtype) for direction in node.directions]
            for layer in range(node.layers)
        ]

    def __call__(self, values: Values, before: State | None, after: dict[str, np.ndarray]) -> None:
        node = self.node
        x = values[node.input]
        if x.strides[-1] != x.itemsize and x.shape[-1] > 1:
            x = np.ascontiguousarray(x)
        batch_axis, time_axis = (1, 0) if self.time_first else (0, 1)
        batch, steps = x.shape[batch_axis], x.shape[time_axis]
        rows = self._rows(values, batch, steps)
        initial = self._initial(values, before, batch)
        final = {key: np.empty(shape, self.dtype) for key, shape in node.state_shapes(batch).items()}

        row = 0
        for layer, cells in enumerate(self.layers):
            y = self._output(layer, batch, steps, ragged=rows.order is not None)
            repeat = rows.mask is not None and layer == node.layers - 1 and node.masked_output == "repeat"
            for d, (cell, direction) in enumerate(zip(cells, node.directions, strict=True)):
                column, merge = d * node.cell.output_size if y is not None else 0, "set"
                if node.merge in ("sum", "mul", "average"):
                    column, merge = 0, node.merge if d else "set"
                states = [None if initial.get(key) is None else initial[key][row] for key in ("h", "c")]
                results = [final[key][row] if key in final else None for key in ("h", "c")]
                reverse = direction == "reverse"
                apart = repeat and merge != "set" and y is not None
                out = np.zeros_like(y) if apart else y
                how = "set" if apart else merge
                at = (rows.order, rows.lengths, rows.steps)
                cell.run(x, out, column, how, self.time_first, reverse, self.flip, *at, *states, *results)
                if repeat and out is not None:
                    self._repeat(out[..., column : column + node.cell.output_size], rows.mask, reverse)
                if apart:
                    y = _merge(merge, np.stack((y, out)))
                row += 1
            x = y
        self._store(values, after, y, final)

    def _rows(self, values: Values, batch: int, steps: int) -> _Rows:
        """Rows in order of falling number of valid steps, and where those are."""
        node = self.node
        lengths = values[node.lengths] if node.lengths else None
        mask = values[node.mask] if node.mask else None
        if lengths is not None:
            accept_lengths(node.lengths, lengths, batch, steps)
        if mask is not None:
            accept_mask(node.mask, mask, (steps, batch) if self.time_first else (batch, steps))
            mask = mask.swapaxes(0, 1) if self.time_first else mask
            if lengths is not None and self.mask_given:
                check_mask_is_lengths(node.mask, mask, node.lengths, lengths)
            elif lengths is not None:
                mask = mask & (np.arange(steps) < lengths[:, None])
            lengths = mask.sum(axis=1, dtype=np.int64)
        if lengths is None or (lengths == steps).all():
            return _Rows()
        order = np.argsort(-lengths, kind="stable")
        if mask is None:
            return _Rows(order, lengths[order])
        return _Rows(order, lengths[order], np.argsort(~mask[order], axis=1, kind="stable"), mask)

    def _repeat(self, y: np.ndarray, mask: np.ndarray, reverse: bool) -> None:
        """Fill the masked steps of one direction's outputs (zeros so far) with what was stored before each."""
        y = y.swapaxes(0, 1) if self.time_first else y
        y = y[:, ::-1] if self.flip else y
        if reverse:
            y, mask = y[:, ::-1], mask[:, ::-1]
        latest = np.maximum.accumulate(np.where(mask, np.arange(mask.shape[1]), -1), axis=1)
        row, step = np.nonzero(~mask & (latest >= 0))
        y[row, step] = y[row, latest[row, step]]

    def _initial(self, values: Values, before: State | None, batch: int) -> dict[str, np.ndarray]:
        """Initial states by letter; a missing one means zeros."""
        node = self.node
        if node.initial:
            found = {}
            for key, name in zip(node.cell.states, node.initial, strict=True):
                expected = node.state_shapes(batch)[key]
                if values[name].shape != expected:
                    raise InputError(f"node {node.name!r}: initial {key} has shape {values[name].shape}, expected {expected}")
                found[key] = np.ascontiguousarray(values[name])
            return found
        if before is not None:
            return {key: before[f"{node.name}.{key}"] for key in node.cell.states}
        return {
            key: np.ascontiguousarray(np.broadcast_to(array[:, None, :], (len(array), batch, array.shape[1])))
            for key, array in self.trained.items()
        }

    def _output(self, layer: int, batch: int, steps: int, ragged: bool) -> np.ndarray | None:
        """Room for a layer's outputs; None where nobody reads the last layer's sequence. Zeros behind short rows."""
        node = self.node
        if layer == node.layers - 1 and not self.sequence_needed:
            return None
        width = node.cell.output_size * 2 if node.merge == "separate" else node.output_size
        shape = (steps, batch, width) if self.time_first else (batch, steps, width)
        return (np.zeros if ragged else np.empty)(shape, self.dtype)

    def _store(self, values: Values, after: dict[str, np.ndarray], y: np.ndarray | None, final: dict[str, np.ndarray]):
        node = self.node
        if node.merge == "separate":
            if y is not None:
                values[f"{node.name}.forward"], values[f"{node.name}.reverse"] = np.split(y, 2, axis=2)
        else:
            values[node.name] = y
            values[f"{node.name}.last"] = _merge(node.merge, final["h"][-len(node.directions) :])
        for key, array in final.items():
            values[f"{node.name}.{key}"] = array
            after[f"{node.name}.{key}"] = array


def _merge(merge: str, h: np.ndarray) -> np.ndarray:
    """Final outputs of the directions, (D, B, P), as one (B, ...)."""
    if len(h) == 1:
        return h[0]
    if merge == "concat":
        return np.concatenate(tuple(h), axis=1)
    return {"sum": h[0] + h[1], "mul": h[0] * h[1], "average": (h[0] + h[1]) * h.dtype.type(0.5)}[merge]


def _pack(node: Recurrent, layer: int, direction: str, weights: Weights, dtype: np.dtype) -> _engine.PackedCell:
    cell = node.layer_cell(layer, direction)
    suffix = node.suffix(layer, direction)
    arrays = {key: weights[f"{node.name}.{key}{suffix}"].astype(dtype, copy=False) for key in cell.weight_shapes()}
    return _engine.PackedCell(cell.kind, _options(cell), arrays, dtype.itemsize == 8)


def _options(cell: Cell) -> dict[str, Any]:
    """The cell's fields as the kernels take them."""
    found = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    found["activations"] = [(_engine.ACTIVATION_IDS[a.name], a.alpha, a.beta) for a in cell.activations]
    found["output_size"] = cell.output_size
    found["gates"] = len(cell.gates)
    return found
