"""A model of one step, whose states are inputs and outputs, as a model of sequences.

Exporters often leave the loop to the caller: each call takes the states that the call before gave. Here the loop
becomes part of the network, as a Scan around it, or, where the states are those of recurrent layers over a time that
the graph has, as these layers' own. Whatever runs over sequences then runs it: streams, pools, engines, files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.errors import InputError, shown
from rnncore.graph.axes import freed
from rnncore.graph.nodes import Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import UNKNOWN, Value, numpy_dtype
from rnncore.passes import simplify
from rnncore.runtime.arguments import as_items
from rnncore.runtime.model import Model

__all__ = ["over_time"]

SCAN = "over_time"


def over_time(
    model: Model,
    carry: Mapping[str, str],
    chunk: int | None,
    context: int,
    steps: Sequence[str] | None,
    given: Mapping[str, Any] | None,
    starts: Sequence[str],
) -> Model:
    """See Model.over_time."""
    return _Loop(model, carry, chunk, context, steps, given or {}, starts).model()


class _Loop:
    def __init__(self, model, carry, chunk, context, steps, given, starts):
        self.of = model
        spec = model.spec
        self.carry = _checked_carry(spec, carry)
        self.chunk: Any  # None where the input gets an axis of steps
        self.chunk, self.context = _checked_chunk(chunk, context)
        self.entries = {entry.name: entry for entry in spec.inputs}
        self.given = {name: self._accept(name, value) for name, value in given.items()}
        self.starts = self._checked_starts(starts)
        settings = {name: array for name, array in self.given.items() if name not in self.carry}
        spec = spec.reshaped(_same_sizes(spec, self.carry))
        self.spec, self.weights, _ = simplify(*_with_constants(spec, model.weights, settings))
        self.entries = {entry.name: entry for entry in self.spec.inputs}
        self.collected = [name for name in spec.outputs if name not in self.carry.values()] or list(spec.outputs)
        self.steps = self._stepped(steps)
        self._free_batch()

    def model(self) -> Model:
        layers = self._layers()
        spec, weights = self._scan() if layers is None else self._own_states(layers)
        names = {entry.name for entry in spec.inputs}.union(spec.outputs)
        vocabulary = {name: words for name, words in self.of.vocabulary.items() if name in names}
        return Model(
            spec, weights, self.of.dtype.name, self.of._num_threads, self.of._fold_bytes, vocabulary, self.of.budget
        )  # fmt: skip

    # --- what was given -----------------------------------------------------------------------------------------

    def _accept(self, name: str, value: Any) -> np.ndarray:
        """A value for an input, with a batch of 1."""
        if name not in self.entries:
            raise InputError(f"given: input {name!r} is unknown, expected {', '.join(self.entries)}")
        entry, array = self.entries[name], np.asarray(value)
        dtype = numpy_dtype(entry.dtype, self.of.dtype)
        fits = array.ndim == len(entry.shape) and all(
            actual == (1 if isinstance(size, str) else size)
            for actual, size in zip(array.shape, entry.shape, strict=True)
        )
        if not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(f"given: {name}: {array.dtype} {array.shape}, expected {entry.value} with free sizes of 1")
        return array.astype(dtype)

    def _checked_starts(self, starts: Sequence[str]) -> list[str]:
        """The states that stay inputs."""
        names = list(as_items("starts", [starts] if isinstance(starts, str) else starts))
        for name in names:
            if not isinstance(name, str) or name not in self.carry:
                raise InputError(f"starts: {shown(name)} is not carried, expected some of {', '.join(self.carry)}")
            if name in self.given:
                raise InputError(f"starts: {name!r} is among given, expected one of both")
        return [name for name in self.carry if name in names]

    def _stepped(self, steps: Sequence[str] | None) -> list[str]:
        """The inputs that have a new value in each step."""
        free = [name for name, entry in self.entries.items() if name not in self.carry and not entry.optional]
        if steps is None:
            names = [name for name in free if self.entries[name].shape]
        else:
            names = [steps] if isinstance(steps, str) else list(steps)
        for name in names:
            if name not in free:
                raise InputError(f"steps: {name!r} is no input that is left, expected some of {', '.join(free)}")
        if not names:
            raise InputError("steps: no input has a new value in each step, expected at least one")
        if self.chunk is not None and len(names) > 1:
            raise InputError(f"chunk={self.chunk} with the inputs {', '.join(names)} in each step, expected one input")
        return names

    def _free_batch(self) -> None:
        """Make the step one for any batch, if all its states and inputs have a batch of 1 that is not needed."""
        free = freed(self.spec, [*self.carry, *self.steps])
        if free is not None and _same_places(free, self.carry):
            self.spec = free
            self.entries = {entry.name: entry for entry in self.spec.inputs}

    # --- states of recurrent layers -----------------------------------------------------------------------------

    def _layers(self) -> list[Recurrent] | None:
        """The recurrent layers whose states are what is carried, over a free time; None where it is something else."""
        nodes: tuple[Any, ...] = self.spec.nodes
        same = {node.name: node.inputs[0] for node in nodes if node.op == "Identity"}
        readers = {name: [node for node in self.spec.nodes if name in node.reads] for name in self.carry}
        layers: dict[str, Recurrent] = {}
        for start, after in self.carry.items():
            while after in same:
                after = same[after]
            node = readers[start][0] if len(readers[start]) == 1 else None
            if not isinstance(node, Recurrent) or node.initial.count(start) != 1 or node.direction != "forward":
                return None
            key = node.cell.states[node.initial.index(start)]
            time = self.spec.values[node.input].shape[1 if node.layout == "batch_first" else 0]
            if after != f"{node.name}.{key}" or not isinstance(time, str):
                return None
            layers[node.name] = node
        whole = all(set(node.initial) <= set(self.carry) for node in layers.values())
        return list(layers.values()) if whole else None

    def _own_states(self, layers: list[Recurrent]) -> tuple[Spec, dict[str, np.ndarray]]:
        """The network whose layers start by themselves, or from the inputs that stay."""
        first: list[Any] = []
        weights, own = dict(self.weights), {}
        for node in layers:
            started = any(name in self.starts for name in node.initial)
            trained = not started and any(name in self.given for name in node.initial)
            initial: tuple[str, ...] = ()
            if started:
                initial, arrays = self._starts(node.initial, self.entries[self.steps[0]], first)
                weights |= arrays
            own[node.name] = dataclasses.replace(node, initial=initial, trained_state=trained)
            if trained:
                for name, (key, (rows, _, size)) in zip(node.initial, node.state_shapes(1).items(), strict=True):
                    start = self.given.get(name, np.zeros((rows, 1, size), self.of.dtype))
                    weights[f"{node.name}.initial_{key}"] = start[:, 0]
        nodes = [own.get(node.name, node) for node in self.spec.nodes]
        inputs = [entry for entry in self.spec.inputs if entry.name not in self.carry]
        if self.chunk is not None:
            inputs, nodes = self._framed(layers[0], inputs, nodes)
        inputs += [self.entries[name] for name in self.starts]
        spec, weights, _ = simplify(Spec(inputs, [*first, *nodes], self.collected), weights)
        return spec, weights

    def _framed(self, layer: Recurrent, inputs: list[Input], nodes: list[Any]) -> tuple[list[Input], list[Any]]:
        """The same for a signal that is cut into the steps."""
        (name,) = self.steps
        shape = self.entries[name].shape
        time = self.spec.values[layer.input].shape[1 if layer.layout == "batch_first" else 0]
        axis = shape.index(time) if time in shape else None
        if axis is None or axis + 1 == len(shape):
            raise InputError(
                f"chunk={self.chunk}: input {name!r} is {self.entries[name].value}, expected the numbers of a step "
                f"after its axis of steps {time!r}"
            )
        self._check_size(name, shape[axis + 1], axis + 1)
        signal = Input(name, self.entries[name].dtype, (*shape[:axis], self._time(), *shape[axis + 2 :]))
        frames = self._frames(name, axis)
        return (
            [signal if entry.name == name else entry for entry in inputs],
            [frames, *(node.with_reads({name: frames.name}) for node in nodes)],
        )

    # --- any states ---------------------------------------------------------------------------------------------

    def _scan(self) -> tuple[Spec, dict[str, np.ndarray]]:
        """A Scan around the network."""
        batch = self._batch()
        for name in self.carry:
            free = [size for size in self.entries[name].shape if isinstance(size, str) and size != batch]
            if free:
                what = f"free sizes but the batch, which {', '.join(self.steps)} and all states have"
                raise InputError(f"carry: input {name!r} is {self.entries[name].value}, expected no {what}")
        once = [name for name in self.entries if name not in (*self.carry, *self.steps)]
        once = [name for name in once if not self.entries[name].optional]
        nodes: list[Any] = []
        shapes, inputs, scanned, axes = {}, [], [], []
        for name in self.steps:
            entry = self.entries[name]
            place = _batch_axis(entry.shape, batch)
            if self.chunk is None:
                axis = 0 if place is None else place + 1
                shape = (*entry.shape[:axis], self._time(), *entry.shape[axis:])
                scanned.append(name)
            else:
                other = next((axis for axis in range(len(entry.shape)) if axis != place), None)
                if other is None:
                    raise InputError(f"chunk={self.chunk}: input {name!r} is {entry.value}, expected more than a batch")
                axis = other
                self._check_size(name, entry.shape[axis], axis)
                shapes[name] = (*entry.shape[:axis], self.chunk + self.context, *entry.shape[axis + 1 :])
                shape = (*entry.shape[:axis], self._time(), *entry.shape[axis + 1 :])
                nodes.append(self._frames(name, axis))
                scanned.append(nodes[-1].name)
            inputs.append(Input(name, entry.dtype, shape))
            axes.append(axis)
        body = self.spec.reshaped(shapes)
        order = {entry.name: entry for entry in body.inputs}
        front = [*self.carry, *self.steps, *once]
        rest = [entry for name, entry in order.items() if name not in front]
        body = Spec([*(order[name] for name in front), *rest], body.nodes, [*self.carry.values(), *self.collected])
        inputs += [order[name] for name in (*self.starts, *once)]
        starts, weights = self._starts(self.carry, inputs[0], nodes)
        places = [_batch_axis(body.values[name].shape, batch) for name in self.collected]
        scan = Control(
            SCAN, "Scan", (*starts, *scanned, *once), (body,), tuple(once), len(scanned), tuple(axes),
            tuple(0 if place is None else place + 1 for place in places),
        )  # fmt: skip
        nodes.append(scan)
        outputs = scan.names[len(self.carry) :]
        nodes += [Node(name, "Identity", (value,)) for name, value in zip(self.collected, outputs, strict=True)]
        weights |= {f"{SCAN}.body.{key}": array for key, array in self.weights.items()}
        return Spec(inputs, nodes, self.collected), weights

    def _batch(self) -> str | None:
        """The free size that all states and all inputs of a step have; None where they have a batch of 1."""
        shapes = [self.entries[name].shape for name in (*self.carry, *self.steps)]
        return next((size for size in shapes[0] if isinstance(size, str) and all(size in s for s in shapes)), None)

    def _starts(
        self, states: Collection[str], signal: Input, nodes: list[Any]
    ) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """The values that states begin with and the weights of those that are given.

        Adds the nodes that make them: the inputs that stay are their own, the others are arrays for all rows, zeros
        where none are given.
        """
        weights: dict[str, np.ndarray] = {}
        names, batch = [], self._batch()
        if batch is not None and not set(states) <= set(self.starts):
            self._count_rows(signal, batch, nodes)
        for name in states:
            if name in self.starts:
                names.append(name)
            else:
                names.append(f"{SCAN}.{name}.start")
                weights |= self._repeated(name, batch, nodes)
        return tuple(names), weights

    def _count_rows(self, signal: Input, batch: str, nodes: list[Any]) -> None:
        """Add the nodes that say how many rows ``signal`` has."""
        if all(node.name != f"{SCAN}.rows" for node in nodes):
            indices = (signal.shape.index(batch),)
            nodes.append(Node(f"{SCAN}.sizes", "Shape", (signal.name,)))
            nodes.append(Node(f"{SCAN}.rows", "Gather", (f"{SCAN}.sizes",), {"axis": 0, "indices": indices}))

    def _repeated(self, state: str, batch: str | None, nodes: list[Any]) -> dict[str, np.ndarray]:
        """Add the nodes that repeat a state's array for every row: the weights of these nodes."""
        entry, base = self.entries[state], f"{SCAN}.{state}"
        array = self.given.get(state)
        if array is None:
            content: dict[str, Any] = {"value": {"bool": False, "float": 0.0}.get(entry.dtype, 0)}
        else:
            content = {"shape": array.shape}
        nodes.append(Node(f"{base}.value", "Constant", (), {"dtype": entry.dtype, **content}))
        if batch is None:
            nodes.append(Node(f"{base}.start", "Expand", (f"{base}.value",), {"shape": entry.shape}))
        else:
            shape = self._shape_of_rows(base, entry, batch, nodes)
            nodes.append(Node(f"{base}.start", "Expand", (f"{base}.value", shape)))
        return {} if array is None else {f"{base}.value.value": array}

    @staticmethod
    def _shape_of_rows(base: str, entry: Input, batch: str, nodes: list[Any]) -> str:
        """Add the nodes of a state's shape with the rows of the call: the name of the shape."""
        parts = []
        for place, size in enumerate(entry.shape):
            parts.append(f"{SCAN}.rows" if size == batch else f"{base}.size{place}")
            if size != batch:
                constant = {"dtype": "int64", "shape": (1,), "value": (size,)}
                nodes.append(Node(parts[-1], "Constant", (), constant))
        nodes.append(Node(f"{base}.shape", "Concat", tuple(parts), {"axis": 0}))
        return f"{base}.shape"

    # --- both ---------------------------------------------------------------------------------------------------

    def _time(self) -> str:
        """A name for the time that no other size has."""
        taken = {size for entry in self.entries.values() for size in entry.shape}
        return next(name for name in ("T", "T_", *(f"T{n}" for n in range(len(taken)))) if name not in taken)

    def _frames(self, name: str, axis: int) -> Node:
        size = self.chunk + self.context
        attributes = {"axis": axis, "size": size, "step": self.chunk, "begin": self.context}
        return Node(f"{name}.frames", "Frames", (name,), attributes)

    def _check_size(self, name: str, size: int | str, axis: int) -> None:
        if isinstance(size, int) and size != self.chunk + self.context:
            raise InputError(
                f"chunk={self.chunk} and context={self.context} are {self.chunk + self.context} numbers, "
                f"expected {size}, which input {name!r}, {self.entries[name].value}, has along axis {axis}"
            )


def _checked_carry(spec: Spec, carry: Any) -> dict[str, str]:
    if not isinstance(carry, Mapping) or not carry:
        raise InputError(f"carry={shown(carry)}, expected a dict of inputs to the outputs that they are fed from")
    inputs = {entry.name: entry for entry in spec.inputs}
    for name, output in carry.items():
        if name not in inputs or inputs[name].optional:
            raise InputError(f"carry: {name!r} is no required input, expected one of {', '.join(inputs)}")
        if output not in spec.outputs:
            raise InputError(f"carry: {output!r} is no output, expected one of {', '.join(spec.outputs)}")
        before, after = inputs[name].value, spec.values[output]
        if not _alike(before, after):
            raise InputError(f"carry: output {output!r} is {after}, expected {before} as input {name!r} takes it")
    return dict(carry)


def _checked_chunk(chunk: Any, context: Any) -> tuple[int | None, int]:
    for name, value, least in (("chunk", chunk, 1), ("context", context, 0)):
        plain = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
        if not plain and not (name == "chunk" and value is None):
            raise InputError(f"{name}={value!r}, expected an integer of at least {least}")
    if chunk is None and context:
        raise InputError(f"context={context} without chunk, expected the size of the pieces that it comes before")
    return (None if chunk is None else int(chunk)), int(context)


def _same_places(spec: Spec, carry: Mapping[str, str]) -> bool:
    """Whether every state has the sizes of the output that it is fed from."""
    return all(spec.values[name].shape == spec.values[output].shape for name, output in carry.items())


def _alike(a: Value, b: Value) -> bool:
    """Whether values may be of one shape, and are of one dtype."""
    sizes = zip(a.shape, b.shape, strict=False)
    names = all(isinstance(p, str) or isinstance(q, str) or p == q for p, q in sizes)
    return a.dtype == b.dtype and len(a.shape) == len(b.shape) and names


def _same_sizes(spec: Spec, carry: Mapping[str, str]) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the inputs in which a state has the sizes of the output that it is fed from."""
    renamed: dict[Any, int | str] = {}
    for name, output in carry.items():
        for before, after in zip(spec.values[name].shape, spec.values[output].shape, strict=True):
            if isinstance(before, str) and after not in (before, UNKNOWN):
                renamed.setdefault(before, after)
    return {entry.name: tuple(renamed.get(size, size) for size in entry.shape) for entry in spec.inputs}


def _with_constants(
    spec: Spec, weights: Mapping[str, np.ndarray], settings: Mapping[str, np.ndarray]
) -> tuple[Spec, dict[str, np.ndarray]]:
    """The network with Constants in place of some inputs."""
    arrays = dict(weights)
    if not settings:
        return spec, arrays
    nodes = []
    for name, array in settings.items():
        dtype = spec.values[name].dtype
        nodes.append(Node(name, "Constant", (), {"dtype": dtype, "shape": array.shape}))
        arrays[f"{name}.value"] = array
    inputs = [entry for entry in spec.inputs if entry.name not in settings]
    return Spec(inputs, [*nodes, *spec.nodes], spec.outputs), arrays


def _batch_axis(shape: Sequence[int | str], batch: str | None) -> int | None:
    """The axis of the batch; where that is 1, the first axis of that size of the first two."""
    if batch is not None:
        return list(shape).index(batch) if batch in shape else None
    return next((axis for axis, size in enumerate(shape[:2]) if size == 1 and len(shape) > 1), None)
