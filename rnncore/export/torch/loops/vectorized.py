"""A loop of cells as cells over whole sequences, and everything else over all steps at once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from rnncore.export.torch.chains import OverSteps
from rnncore.export.torch.layers.registry import CELLS, STACKS, kind_of
from rnncore.export.torch.loops.items import outer_sequence, stored_step
from rnncore.export.torch.loops.leaves import (
    IDENTITIES,
    IDENTITY_LAYERS,
    Leaf,
    behind_identities,
    is_whole,
    leaves_of,
    readers_of,
)
from rnncore.export.torch.loops.replacing import POINTWISE, Replacing, getitem, loop_anchor, rejoin

__all__ = ["Vectorized"]

POINTWISE_LAYERS = frozenset((
    "Linear", "Embedding", "LayerNorm", "ReLU", "Tanh", "Sigmoid", "SiLU", "Mish", "SELU", "Hardswish", "Hardsigmoid",
    "Softsign", "LogSigmoid", "Tanhshrink", "LeakyReLU", "ELU", "CELU", "GELU", "Softplus", "Hardtanh", "ReLU6",
))  # fmt: skip
LAST_AXIS = frozenset(("softmax", "log_softmax"))
AXES = frozenset(("cat", "concat", "squeeze", "unsqueeze"))


class Vectorized(Replacing):
    """A loop of cells as cells over sequences; everything else over all steps at once, on axis 1."""

    open: set[int]

    def possible(self) -> bool:
        """Whether nothing but cells and stored outputs goes from step to step."""
        self.kinds = ["alias" if j in self.loop.aliases else self._kind(j) for j in range(len(self.loop.body))]
        return all(kind is not None for kind in self.kinds) and self._reads_fit()

    def _kind(self, j: int) -> str | None:
        """The way to compute a position for all steps at once; None where there is no such way."""
        node = self.loop.body[j]
        name = getattr(node.target, "__name__", node.target)
        if outer_sequence(self.traced, self.loop, j) is not None:
            return "sequence"
        if name == "setitem":
            return "store" if stored_step(self.traced, self.loop, j) is not None else None
        if node.op == "call_module":
            return self._kind_of_module(j, self.tracer.root.get_submodule(node.target))
        if name == "getitem":
            return self._kind_of_item(j)
        if name in IDENTITIES:
            return "identity"
        return self._kind_of_axes(j, name) if name in AXES else self._kind_of_pointwise(j, name)

    def _kind_of_module(self, j: int, module: Any) -> str | None:
        kind, args = kind_of(module), self.loop.args[j]
        if kind in CELLS:
            return "cell" if self._fed_by_itself(j) and args[0].kind == "now" else None
        if kind in STACKS:
            shape = self._value(args[0]).shape if isinstance(args[0], Leaf) else ()
            one_step = len(shape) == 3 and shape[1 if module.batch_first else 0] == 1 and args[0].kind == "now"
            return "stack" if one_step and not module.bidirectional and self._fed_by_itself(j) else None
        if kind in IDENTITY_LAYERS:
            return "identity"
        leaves = leaves_of([args, self.loop.kwargs[j]])
        fits = kind in POINTWISE_LAYERS and all(leaf.kind in ("now", "same", "constant") for leaf in leaves)
        return "pointwise" if fits else None

    def _kind_of_item(self, j: int) -> str | None:
        """Of getitem: a part of a tuple, or an axis with one entry left out."""
        source, index = self.loop.args[j]
        if not isinstance(source, Leaf) or source.kind != "now":
            return None
        if isinstance(self.traced.values[self.loop.body[source.value]], (tuple, list)):
            return "part" if isinstance(index, Leaf) and index.kind == "constant" else None
        return self._dropped(source, index)

    def _kind_of_axes(self, j: int, name: str) -> str | None:
        """Of functions that add, remove or join axes."""
        args = self.loop.args[j]
        if name in ("cat", "concat"):
            now = all(leaf.kind in ("now", "constant") for leaf in leaves_of([args, self.loop.kwargs[j]]))
            return "cat" if now and self._dim(j) in (-1, 1) and self._rank(j) == 2 else None
        dim = self.loop.kwargs[j].get("dim", args[1] if len(args) > 1 else None)
        if not args or args[0].kind != "now" or not isinstance(dim, Leaf) or dim.kind != "constant":
            return None
        axis = dim.value
        if name == "unsqueeze":
            return {1: "step axis", 0: "front axis"}.get(axis)
        whole, first = slice(*[Leaf("constant")] * 3), Leaf("constant", 0)
        return self._dropped(args[0], (whole, first)[1 - axis :]) if axis in (0, 1) else None

    def _kind_of_pointwise(self, j: int, name: str) -> str | None:
        kwargs = self.loop.kwargs[j]
        leaves = leaves_of([self.loop.args[j], kwargs])
        if name in LAST_AXIS:
            return "pointwise" if leaves[0].kind == "now" and kwargs.get("dim", Leaf("constant")).value == -1 else None
        fits = name in POINTWISE and all(leaf.kind in ("now", "same", "constant") for leaf in leaves)
        return "pointwise" if fits and any(leaf.kind == "now" for leaf in leaves) else None

    def _dropped(self, source: Leaf, index: Any) -> str | None:
        """x[0] and x[:, 0] where that axis has one entry: without it."""
        parts = list(index) if isinstance(index, (tuple, list)) else [index]
        shape = self._value(source).shape
        axis = next((axis for axis, part in enumerate(parts) if isinstance(part, Leaf)), None)
        if axis not in (0, 1) or parts[axis].kind != "constant" or parts[axis].value not in (0, -1) or shape[axis] != 1:
            return None
        whole = all(is_whole(part) for place, part in enumerate(parts) if place != axis)
        return ("drop front", "drop step")[axis] if whole else None

    def _dim(self, j: int) -> Any:
        leaf = self.loop.kwargs[j].get(
            "dim", self.loop.args[j][1] if len(self.loop.args[j]) > 1 else Leaf("constant", 0)
        )
        return leaf.value

    def _rank(self, j: int) -> int:
        value = self.traced.values[self.loop.body[j]]
        return value.ndim if isinstance(value, torch.Tensor) else -1

    def _value(self, leaf: Leaf) -> Any:
        if leaf.kind in ("now", "before"):
            return self.traced.values[self.loop.body[leaf.value]]
        return self.traced.values[leaf.value] if isinstance(leaf.value, fx.Node) else leaf.value

    def _state(self, j: int) -> list[Leaf]:
        args, kwargs = self.loop.args[j], self.loop.kwargs[j]
        given = args[1] if len(args) > 1 else kwargs.get("hx", Leaf("constant", None))
        return leaves_of(given)

    def _fed_by_itself(self, j: int) -> bool:
        """Whether the state of a cell is its own last one."""
        state = self._state(j)
        several = isinstance(self.traced.values[self.loop.body[j]], tuple)
        stack = kind_of(self.tracer.root.get_submodule(self.loop.body[j].target)) in STACKS
        if len(state) == 1 and state[0].kind == "before" and several:
            return stack and self._path(state[0].value) == (j, (1,))
        paths = [self._path(leaf.value) if leaf.kind == "before" else None for leaf in state]
        if not several:
            return paths == [(j, ())]
        expected = [(j, (1, 0)), (j, (1, 1))] if stack else [(j, (0,)), (j, (1,))]
        return paths == expected or (stack and paths == [(j, (1,))])

    def _path(self, j: int) -> tuple[int, tuple[int, ...]]:
        """The call and the indices that a chain of getitem leads to."""
        indices: list[int] = []
        while getattr(self.loop.body[j].target, "__name__", "") == "getitem":
            source, index = self.loop.args[j]
            if not isinstance(source, Leaf) or source.kind != "now" or not isinstance(index, Leaf):
                break
            indices.insert(0, index.value)
            j = source.value
        return j, tuple(indices)

    def _reads_fit(self) -> bool:
        """Whether no step reads what only the last one has: states that are no outputs, tensors half stored."""
        for j, kind in enumerate(self.kinds):
            for leaf in leaves_of([self.loop.args[j], self.loop.kwargs[j]]):
                if leaf.kind == "now" and self._hidden(leaf.value) and kind != "part":
                    return False
                if leaf.kind == "before" and kind not in ("cell", "stack", "store", "alias"):
                    return False
                if leaf.kind != "constant" and self._is_stored_to(leaf) and (kind, leaf.value) != ("store", j):
                    return False
        for nodes in readers_of(self.loop).values():
            for node in nodes:
                k, j = self.where.get(behind_identities(self.traced, node), (0, 0))
                if k != self.loop.count - 1 and (self._hidden(j) or self.kinds[j] == "store"):
                    return False
                if self.kinds[j] == "alias":
                    return False
        return True

    def _is_stored_to(self, leaf: Leaf) -> bool:
        """Whether an argument is the tensor that steps store to."""
        return leaf.kind in ("now", "before") and self.kinds[leaf.value] == "store"

    def _hidden(self, j: int) -> bool:
        """Whether a position is a state that a recurrent node gives for the last step only."""
        root, path = self._path(j)
        if self.kinds[root] == "stack":
            return path[:1] == (1,)
        return self.kinds[root] == "cell" and path == (1,)

    def to_the_end(self) -> set[int]:
        """Positions that take steps out of a sequence up to its end."""
        positions = set()
        for j, kind in enumerate(self.kinds):
            if kind == "sequence":
                source, axis, offset, slope, _ = cast(Any, outer_sequence(self.traced, self.loop, j))
                first, size = self._first(source, axis, offset, slope)
                if first + self.loop.count * abs(slope) >= size:
                    positions.add(j)
        return positions

    def _first(self, source: fx.Node, axis: int, offset: int, slope: int) -> tuple[int, int]:
        """The lowest step that is taken out of a sequence, and how many it has."""
        size = self.traced.values[source].shape[axis]
        offset = offset + size if offset < 0 else offset
        return offset if slope > 0 else offset + slope * (self.loop.count - 1), size

    def replace(self) -> None:
        self.sequences: dict[int, Any] = {}
        self.finals: dict[int, Any] = {}
        last = self.loop.steps[-1][-1]
        with self.traced.graph.inserting_after(last):
            self.anchor = self.traced.graph.create_node("call_function", loop_anchor)
        with self.traced.graph.inserting_before(self.anchor):
            for j, kind in enumerate(self.kinds):
                if kind != "alias":
                    self.place = self.traced.places[self.loop.body[j]]
                    getattr(self, f"_{str(kind).replace(' ', '_')}")(j)
        rejoin(self)
        with self.traced.graph.inserting_before(self.anchor):
            self.rewire()
        self.traced.graph.erase_node(self.anchor)

    def final(self, j: int) -> fx.Node:
        if j in self.finals:
            return self.finals[j]
        with self.traced.graph.inserting_before(self.anchor):
            self.finals[j] = self.make("call_method", "select", self.sequences[j], 1, -1)
        return self.finals[j]

    def _sequence(self, j: int) -> None:
        """x[:, t] of all steps: x with its steps on axis 1, turned round and cut where the loop does so."""
        source, axis, offset, slope, keep = cast(Any, outer_sequence(self.traced, self.loop, j))
        sequence, count = source, self.loop.count
        first, size = self._first(source, axis, offset, slope)
        if (first, count) != (0, size):
            end = None if j in self.open else first + (count - 1) * abs(slope) + 1
            index = [slice(None)] * axis + [slice(first, end, None if abs(slope) == 1 else abs(slope))]
            sequence = self.make("call_function", getitem, sequence, tuple(index))
        if slope < 0:
            sequence = self.make("call_method", "flip", sequence, axis)
        if axis != 1:
            sequence = self.make("call_method", "movedim", sequence, axis, 1)
        self.sequences[j] = self.make("call_method", "unsqueeze", sequence, axis + 1) if keep else sequence

    def _lifted(self, arguments: Any, rank: int) -> Any:
        """Arguments for all steps at once; an outer tensor of the same rank gets an axis for the steps."""
        if isinstance(arguments, Leaf):
            if arguments.kind == "now":
                return self.sequences[arguments.value]
            value = self._value(arguments)
            if arguments.kind == "same" and isinstance(value, torch.Tensor) and value.ndim >= rank > 0:
                return self.make("call_method", "unsqueeze", arguments.value, 1)
            return arguments.value
        if isinstance(arguments, (tuple, list)):
            return type(arguments)(self._lifted(item, rank) for item in arguments)
        return {key: self._lifted(item, rank) for key, item in arguments.items()}

    def _pointwise(self, j: int) -> None:
        node = self.loop.body[j]
        rank = 0 if node.op == "call_module" else self._rank(j)
        args, kwargs = self._lifted(self.loop.args[j], rank), self._lifted(self.loop.kwargs[j], rank)
        self.sequences[j] = self.make(node.op, node.target, *args, **kwargs)

    def _identity(self, j: int) -> None:
        self.sequences[j] = self._lifted(self.loop.args[j][0], 0)

    def _cat(self, j: int) -> None:
        self.sequences[j] = self.make("call_function", torch.cat, self._lifted(self.loop.args[j][0], 0), -1)

    def _step_axis(self, j: int) -> None:
        self.sequences[j] = self.make("call_method", "unsqueeze", self.sequences[self.loop.args[j][0].value], 2)

    def _front_axis(self, j: int) -> None:
        """(B, ...) as (1, B, ...), for cat over the first axis: with the steps on axis 1 that is (1, T, B, ...)."""
        unsqueezed = self.make("call_method", "unsqueeze", self.sequences[self.loop.args[j][0].value], 0)
        self.sequences[j] = self.make("call_method", "transpose", unsqueezed, 1, 2)

    def _drop_front(self, j: int) -> None:
        """(1, T, B, ...), the results (1, B, ...) of all steps, as (B, T, ...)."""
        selected = self.make("call_method", "select", self.sequences[self.loop.args[j][0].value], 0, 0)
        self.sequences[j] = self.make("call_method", "transpose", selected, 0, 1)

    def _drop_step(self, j: int) -> None:
        self.sequences[j] = self.make("call_method", "select", self.sequences[self.loop.args[j][0].value], 2, 0)

    def _starts(self, j: int) -> list[Any]:
        leaves = self._state(j)
        if all(leaf.kind == "constant" or leaf.start is None for leaf in leaves):
            return [None for _ in leaves]
        return [leaf.start for leaf in leaves]

    def _cell(self, j: int) -> None:
        node = self.loop.body[j]
        module = self.tracer.root.get_submodule(node.target)
        starts = self._starts(j)
        state = None
        if all(start is not None for start in starts):
            state = tuple(self.make("call_method", "unsqueeze", start, 0) for start in starts)
            state = state if len(state) > 1 else state[0]
        x = self._lifted(self.loop.args[j][0], 2)
        call = self.make("call_function", OverSteps(module, node.target, written_out=True), x, state)
        several = isinstance(self.traced.values[node], tuple)
        self.sequences[j] = self.make("call_function", getitem, call, 0)
        states = self.make("call_function", getitem, call, 1)
        states = [self.make("call_function", getitem, states, i) for i in range(2)] if several else [states]
        self.states = {
            **getattr(self, "states", {}),
            j: [self.make("call_method", "select", one, 0, 0) for one in states],
        }
        if not several:
            self.finals[j] = self.states[j][0]

    def _stack(self, j: int) -> None:
        node = self.loop.body[j]
        one = 2 if self.tracer.root.get_submodule(node.target).batch_first else 0
        x = self.make("call_method", "select", self._lifted(self.loop.args[j][0], 3), one, 0)
        starts = self._starts(j)
        state = None
        if all(start is not None for start in starts):
            state = tuple(starts) if len(starts) > 1 else starts[0]
        call = (
            self.make("call_module", node.target, x, state)
            if state is not None
            else self.make("call_module", node.target, x)
        )
        self.sequences[j] = self.make("call_method", "unsqueeze", self.make("call_function", getitem, call, 0), one)
        self.states = {**getattr(self, "states", {}), j: self.make("call_function", getitem, call, 1)}

    def _part(self, j: int) -> None:
        root, path = self._path(j)
        if self.kinds[root] == "cell":
            if path == (0,):
                self.sequences[j] = self.sequences[root]
            self.finals[j] = self.states[root][path[0]]
        elif path == (0,):
            self.sequences[j] = self.sequences[root]
        else:
            part = self.states[root]
            for index in path[1:]:
                part = self.make("call_function", getitem, part, index)
            self.finals[j] = part

    def all(self, j: int) -> fx.Node:
        return self.sequences[j]

    def _store(self, j: int) -> None:
        self.finals[j] = self.filled(j, self.sequences[self.loop.args[j][2].value])
