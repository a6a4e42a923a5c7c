"""Tensors under PyTorch's names: bound to a Spec, or recognised by name and shape alone.

    bound = bind(spec, tensors)                 # canonical Weights, and the tensors that nothing needed
    bound = bind(spec, tensors, {"enc": "model.encoder.rnn", "enc.initial_h": "h0"})
    stacks = find_stacks(tensors)               # every RNN, LSTM and GRU, with its sizes
    stack = only_stack(tensors)                 # ... of a state dict that holds one stack and nothing else
    bound = bind(stack.spec(), tensors, stack.names)

A recurrent node NAME reads NAME.weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_hr_l0 and the same with
"_reverse"; with one layer also without "_l0", as PyTorch's cells write them. A MultiHeadAttention reads in_proj_weight,
in_proj_bias and out_proj. Every other node, and what PyTorch does not have (peepholes, initial states), reads the
canonical names of rnncore. Where none of these is there, the Spec's own ``names`` say what a checkpoint calls it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from rnncore.cells import CELLS, GRU
from rnncore.conventions.gates import split_gru_bias, squeeze_batch, sum_biases
from rnncore.errors import UnsupportedError, WeightError, close_names
from rnncore.formats.attention import flatten_vector
from rnncore.graph.nodes import AttentionDecoder, Input, Node, Recurrent
from rnncore.graph.spec import Spec, paths_of
from rnncore.graph.weights import Weights, memory_of
from rnncore.passes.graph import is_constant

__all__ = ["Bound", "Other", "Stack", "bind", "find_others", "find_stacks", "is_optimizer", "only_stack"]


@dataclass(frozen=True)
class Bound:
    """The result of bind: weights, the names of tensors that belong to no node, and the prefix taken for all nodes."""

    weights: Weights
    unused: tuple[str, ...]
    prefix: str


def bind(
    spec: Spec,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None = None,
    *,
    prefix: str | None = None,
) -> Bound:
    """The Weights of a Spec from tensors under PyTorch's names.

    names maps a name as the Spec would have it, canonical or PyTorch's ("enc.weight_ih_l0"), or a whole node
    ("enc"), to the file's; "" means tensors without any prefix. prefix comes before the names of all other
    nodes ("module."); without it, one that fits every node is found, and reported in the result. The names that the
    Spec has itself come last, after the prefix.

    Raises WeightError: a tensor is missing or of the wrong shape; several prefixes fit; a tensor of one of the
    Spec's nodes is not used (weight_hh_l1 where layers=1); an entry of names leads nowhere.
    """
    binder = _Binder(spec, tensors, dict(names or {}), prefix)
    arrays: dict[str, np.ndarray] = {}
    for node in binder.nodes:
        arrays.update(binder.recurrent(node) if node.stateful else binder.plain(node))
    return Bound(Weights(spec, arrays), binder.leftovers(), binder.prefix)


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


class _Binder:
    """One call of bind: which tensors and which entries of ``names`` have been used."""

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], names: dict[str, str], prefix: str | None):
        self.nodes = list(_placed(spec))
        self.tensors, self.names, self.own = tensors, names, spec.names
        self.used: set[str] = set()
        self.used_names: set[str] = set()
        self.roots: dict[str, str] = {}
        self.combined: dict[tuple, tuple[list[np.ndarray], dict[str, np.ndarray]]] = {}  # pairs of biases, and sums
        self.modules = {name[:end] for name in tensors for end, letter in enumerate(name) if letter == "."}
        known = [key for node in self.nodes for key in (node.name, *_accepted(node))]
        self.controls = {path for path, node in paths_of(spec) if node.subgraphs}
        known += sorted(self.controls)
        for what, given in (("names", self.names), ("names of the Spec", self.own)):
            for name in sorted(set(given) - set(known)):
                raise WeightError(f"{what}: {name!r} is no node or weight that the Spec needs{_near(name, known)}")
        self.prefix = self._find_prefix() if prefix is None else prefix and f"{prefix.removesuffix('.')}."
        for node in self.nodes:
            self.roots[node.name] = self._root(node)

    def recurrent(self, node: Recurrent | AttentionDecoder) -> dict[str, np.ndarray]:
        weights = {}
        for layer in range(node.layers):
            for direction in node.directions:
                suffix = node.suffix(layer, direction)
                cell = node.layer_cell(layer, direction)
                shapes = cell.weight_shapes()
                biases = {key: shapes.pop(key) for key in ("bias", "bias_hn") if key in shapes}
                arrays = {key: self.take(node, _spellings(node, key, suffix), shape) for key, shape in shapes.items()}
                arrays.update(self._biases(node, cell, suffix, biases))
                weights.update({f"{node.name}.{key}{suffix}": array for key, array in arrays.items()})
        if node.trained_state:
            for key, (rows, _, size) in node.state_shapes("B").items():
                name = f"initial_{key}"
                weights[f"{node.name}.{name}"] = self.take(node, (name,), (rows, size), squeeze_batch)
        return {**weights, **self._own(node, node.own_shapes())} if isinstance(node, AttentionDecoder) else weights

    def plain(self, node: Node) -> dict[str, np.ndarray]:
        shapes = {name.removeprefix(f"{node.name}."): shape for name, shape in node.weight_shapes().items()}
        return self._attention(node, shapes) if node.op == "MultiHeadAttention" else self._own(node, shapes)

    def _attention(self, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """The weights as they are, or PyTorch's: those of query, key and value, in this order, in one tensor."""
        weights = {}
        for key, shape in shapes.items():
            part, _, leaf = key.partition(".")
            joined, rows = f"in_proj_{leaf}", shape[0]
            if part not in PROJECTED or self.lookup(node, (key, f"{part[0]}_proj_{leaf}")) is not None:
                spellings = (key, f"out_proj.{leaf}" if part == "output" else f"{part[0]}_proj_{leaf}")
                weights[f"{node.name}.{key}"] = self.take(node, spellings, shape)
            elif self.lookup(node, (joined,)) is None:
                weights[f"{node.name}.{key}"] = self.take(node, (key,), shape)  # which says that it is missing
            else:
                whole = self.take(node, (joined,), (len(PROJECTED) * rows, *shape[1:]))
                place = PROJECTED.index(part) * rows
                weights[f"{node.name}.{key}"] = whole[place : place + rows]
        return weights

    def _own(self, node, shapes) -> dict[str, np.ndarray]:
        """Weights that have one name; a vector may also be the matrix of a Linear to or from one unit."""
        return {
            f"{node.name}.{key}": self.take(node, (key,), shape, flatten_vector if len(shape) == 1 else _as_it_is)
            for key, shape in shapes.items()
        }

    def _biases(self, node, cell, suffix, shapes) -> dict[str, np.ndarray]:
        """The canonical biases as they are, or PyTorch's bias_ih and bias_hh combined."""
        if not shapes:
            return {}
        canonical = {key: _spellings(node, key, suffix) for key in shapes}
        if any(self.lookup(node, spelling) for spelling in canonical.values()):
            return {key: self.take(node, canonical[key], shape) for key, shape in shapes.items()}
        pair = [self.take(node, _spellings(node, key, suffix), shapes["bias"]) for key in ("bias_ih", "bias_hh")]
        if isinstance(cell, GRU):
            kind: tuple = ("GRU", cell.reset_after)
            made: Any = partial(split_gru_bias, pair[0], pair[1], reset_after=cell.reset_after)
        else:
            kind, made = (), lambda: {"bias": sum_biases(*pair)}
        key = (*kind, *map(memory_of, pair))
        if key not in self.combined:
            self.combined[key] = pair, made()
        return self.combined[key][1]

    def lookup(self, node: Node | Recurrent | AttentionDecoder, spellings: Iterable[str]) -> str | None:
        """The file's name of a node's tensor, of which one of the spellings is there; None if none is."""
        for key in spellings:
            wanted = f"{node.name}.{key}"
            if wanted in self.names:
                self.used_names.add(wanted)
                return self._named(wanted)
            joined = _join(self.roots[node.name], key)
            if joined in self.tensors:
                return joined
        if is_constant(node) and self.roots[node.name] in self.tensors:
            return self.roots[node.name]  # a parameter of its own, whose module is no node
        own = (self.prefix + self.own[wanted] for wanted in _within(node, spellings) if wanted in self.own)
        return next((name for name in own if name in self.tensors), None)

    def take(self, node, spellings, shape, convert=_as_it_is) -> np.ndarray:
        """The tensor, checked for its shape and marked as used."""
        name = self.lookup(node, spellings)
        if name is None:
            wanted = _join(self.roots[node.name], spellings[0])
            why = self._why_missing(node, spellings[0])
            raise WeightError(f"{wanted}: missing, expected shape {shape}{why or self._candidates(wanted, shape)}")
        array = convert(np.asarray(self.tensors[name]))
        if array.shape != shape:
            known = "" if name == f"{node.name}.{spellings[0]}" else f" (for {node.name}.{spellings[0]})"
            hint = _other_cell(node, spellings[-1], array.shape)
            raise WeightError(f"{name}: shape {np.shape(self.tensors[name])}, expected {shape}{known}{hint}")
        self.used.add(name)
        return array

    def _why_missing(self, node, key: str) -> str:
        """A hint where the file's tensors contradict what a recurrent node says of its stack."""
        if not node.stateful:
            return ""
        there = {name.rpartition(".")[2] for name in self.tensors if name.rpartition(".")[0] == self.roots[node.name]}
        if key.endswith("_reverse") and there and not any(leaf.endswith("_reverse") for leaf in there):
            return (
                f" (the file has no _reverse weights there: it looks like direction='forward', not {node.direction!r})"
            )
        if key.startswith("bias") and there and not any(leaf.startswith("bias") for leaf in there):
            return " (the file has no biases there: it looks like bias=False)"
        numbers = [int(match[2] or 0) for match in map(_ROLE.fullmatch, there) if match]
        layer = _ROLE.fullmatch(key)
        if numbers and layer and int(layer[2] or 0) > max(numbers):
            return f" (the file's stack looks like layers={max(numbers) + 1}, not {node.layers})"
        return ""

    def leftovers(self) -> tuple[str, ...]:
        """Tensors of other modules. One that belongs to a node of the Spec, or an idle entry of names, is an error."""
        idle = sorted(set(self.names) - self.used_names)
        if idle:
            raise WeightError(f"names: {idle[0]!r} is not needed, the tensors have it under another of its names")
        owners = {self.roots[node.name]: node for node in self.nodes}
        unused = tuple(name for name in self.tensors if name not in self.used)
        for name in unused:
            modules = [name[:end] for end, letter in enumerate(name) if letter == "."] or [""]
            node = next((owners[module] for module in reversed(modules) if module in owners), None)
            if node is not None and not name.endswith(".num_batches_tracked"):  # torch's own count of training steps
                shape = np.shape(self.tensors[name])
                raise WeightError(
                    f"{name}: shape {shape}, but node {node.name!r} has no use for it ({_describe(node)})"
                    f"{_why_unused(node, name.rpartition('.')[2])}"
                )
        return unused

    def _root(self, node) -> str:
        """The module of a node: what names say of it, or of the Control node that it is inside of."""
        given = self._placed_by(node)
        if given is None:
            root = self.roots.get(node.name, self.prefix + node.name)
            return self.prefix + self.own[node.name] if node.name in self.own and root not in self.modules else root
        self.used_names.add(given)
        root = self.names[given].removesuffix(".")
        if root and root not in self.modules:
            raise WeightError(f"names: {given!r} leads to {root!r}, which has no tensors{_near(root, self.modules)}")
        return root if given == node.name else _join(root, node.name[len(given) + 1 :])

    def _placed_by(self, node) -> str | None:
        """The entry of ``names`` that says where a node is: its own, or that of a Control node around it."""
        for end in (len(node.name), *(end for end, letter in enumerate(node.name) if letter == ".")):
            path = node.name[:end]
            if path in self.names and (path == node.name or path in self.controls):
                return path
        return None

    def _named(self, wanted: str) -> str:
        name = self.names[wanted]
        if name not in self.tensors:
            hint = _near(name, self.tensors)
            raise WeightError(f"names: {wanted!r} leads to {name!r}, which is not among the tensors{hint}")
        return name

    def _find_prefix(self) -> str:
        """The prefix of the names of all nodes that ``names`` does not place."""
        fits: set[str] | None = None
        searched = []
        for node in self.nodes:
            anchors = self._anchors(node)
            if not anchors or self._placed_by(node) or any(key in self.names for key in _within(node, anchors)):
                continue
            searched.append((node, anchors))
            endings = [f"{node.name}.{key}" for key in anchors]
            endings += [f"{self.own[node.name]}.{key}" for key in anchors if node.name in self.own]
            endings += [self.own[wanted] for wanted in _within(node, anchors) if wanted in self.own]
            if fits is None:
                prefixes = [name.removesuffix(end) for end in endings for name in self.tensors if name.endswith(end)]
                fits = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
            fits = {prefix for prefix in fits if any(prefix + ending in self.tensors for ending in endings)}
        if not searched:
            return self._prefix_of_constants()
        if not fits:
            if len(searched) == 1 and any(key in self.tensors for key in searched[0][1]):
                self.roots[searched[0][0].name] = ""
            return ""
        if "" in fits:
            return ""
        fits = {prefix for prefix in fits if not is_optimizer(prefix)} or fits
        if len(fits) > 1:
            some = ", ".join(map(repr, sorted(fits)))
            first = sorted(fits)[0]
            nodes = ", ".join(repr(node.name) for node, _ in searched[:4])
            names = ", ".join(f'"{node.name}": "{first}{node.name}"' for node, _ in searched)
            raise WeightError(
                f"the tensors of {nodes} are under several prefixes, {some}: choose one by names, such as {{{names}}}"
            )
        return fits.pop()

    def _prefix_of_constants(self) -> str:
        """The prefix of the names of all parameters, where the Spec has no other weights."""
        weights = [name for node in self.nodes for name in node.weight_shapes()]
        wanted = [self.own.get(name, name.removesuffix(".value")) for name in weights]
        if not wanted or any(name in self.tensors for name in (*weights, *wanted)):
            return ""
        ends = [{name.removesuffix(one) for name in self.tensors if name.endswith(f".{one}")} for one in wanted]
        fits = set.intersection(*ends)
        return fits.pop() if len(fits) == 1 else ""

    @staticmethod
    def _anchors(node) -> tuple[str, ...]:
        """Spellings of one tensor that the node cannot be without; none for a Constant, which has a tensor's name."""
        if is_constant(node):
            return ()
        if node.stateful:
            return _spellings(node, "weight_ih", node.suffix(0, node.directions[0]))
        first = tuple(name.removeprefix(f"{node.name}.") for name in list(node.weight_shapes())[:1])
        return (*first, "in_proj_weight", "q_proj_weight") if node.op == "MultiHeadAttention" else first

    def _candidates(self, wanted: str, shape: tuple[int, ...]) -> str:
        """Up to three tensors that may have been meant: the same last word and shape, the same shape, a like name."""
        leaf = wanted.rpartition(".")[2]
        free = [name for name in self.tensors if name not in self.used and not is_optimizer(name)]
        fitting = [name for name in free if np.shape(self.tensors[name]) == shape]
        ranked = [name for name in fitting if name.rpartition(".")[2] == leaf]
        ranked += close_names(wanted, free)
        ranked += fitting
        some = list(dict.fromkeys(ranked))[:3]
        listed = ", ".join(f"{name!r} {np.shape(self.tensors[name])}" for name in some)
        return f" (did you mean {listed}?)" if listed else ""


PROJECTED = ("query", "key", "value")
ATTENTION = (*(f"{one[0]}_proj_weight" for one in PROJECTED), "in_proj_weight", "in_proj_bias", "out_proj.weight",
             "out_proj.bias")  # fmt: skip
"""PyTorch's names of a MultiHeadAttention's weights."""


def _placed(spec: Spec) -> Iterator[Any]:
    """Every node that has weights of its own, those in branches under the prefix of their weights."""
    for path, node in paths_of(spec):
        if not node.subgraphs:
            yield node if path == node.name else dataclasses.replace(cast(Any, node), name=path)


def _within(node, keys: Iterable[str]) -> Iterator[str]:
    return (f"{node.name}.{key}" for key in keys)


def _spellings(node: Recurrent | AttentionDecoder, key: str, suffix: str) -> tuple[str, ...]:
    """A weight's names within a node: with PyTorch's suffix, and for one layer without it."""
    return (f"{key}{suffix}", key) if node.layers == 1 and suffix == "_l0" else (f"{key}{suffix}",)


def _accepted(node: Any) -> list[str]:
    """Every name, canonical or PyTorch's, under which a node's weights may be given."""
    names = list(node.weight_shapes())
    if node.op == "MultiHeadAttention":
        names += _within(node, ATTENTION)
    if node.stateful:
        suffixes = [node.suffix(layer, direction) for layer in range(node.layers) for direction in node.directions]
        keys = [*node.cell.weight_shapes(), *(("bias_ih", "bias_hh") if node.cell.bias else ())]
        names += [
            f"{node.name}.{name}" for suffix in suffixes for key in keys for name in _spellings(node, key, suffix)
        ]
    return names


def _join(root: str, key: str) -> str:
    return f"{root}.{key}" if root else key


def _near(name: str, known: Iterable[str]) -> str:
    near = close_names(name, known, cutoff=0.5)
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def _describe(node) -> str:
    if not node.stateful:
        return node.op
    if isinstance(node, AttentionDecoder):
        return f"{node.kind} of {node.cell.kind}, layers={node.layers}, attention={node.attention!r}"
    bias = "" if node.cell.bias else ", bias=False"
    return f"{node.cell.kind}, layers={node.layers}, direction={node.direction!r}{bias}"


def _other_cell(node, key: str, shape: tuple[int, ...]) -> str:
    """A hint where a weight has the number of rows of another cell's."""
    if not node.stateful or not key.startswith(("weight_ih", "weight_hh", "bias")) or not shape:
        return ""
    hidden = node.cell.hidden_size
    if key.startswith("weight_hh") and len(shape) == 2 and not getattr(node.cell, "projection", 0):
        hidden = shape[1]
    kind = _GATES.get(shape[0] // hidden) if hidden and shape[0] % hidden == 0 else None
    if kind is None:
        return ""
    if kind != node.cell.kind:
        rows = f"{shape[0] // hidden} x {hidden} rows"
        return f" ({rows}: it looks like {_ARTICLE[kind]} {kind}, the spec says {node.cell.kind})"
    if hidden != node.cell.hidden_size:
        return f" (it looks like hidden_size={hidden}, the spec says {node.cell.hidden_size})"
    return ""


def _why_unused(node, leaf: str) -> str:
    """A hint where a weight that a recurrent node has no use for says what the stack looks like."""
    match = _ROLE.fullmatch(leaf) if node.stateful else None
    if match is None:
        return ""
    if match[3] and len(node.directions) == 1:
        return ": it is of a reverse direction, so the stack looks like direction='bidirectional'"
    if int(match[2] or 0) >= node.layers:
        return f": it is of another layer, so the stack looks like layers={int(match[2]) + 1} or more"
    if match[1].startswith("bias"):
        return ": the stack looks like bias=True"
    if match[1] == "weight_hr":
        return ": the stack looks like an LSTM with a projection"
    return ""


_OPTIMIZER = re.compile(r"optim(izer|izers|s)?([_-]?(states?|state_dicts?|dicts?))?|exp_avg(_sq)?|max_exp_avg_sq|"
                        r"momentum_buffer|square_avg|acc_delta|grad_avg", re.IGNORECASE)  # fmt: skip


def is_optimizer(name: str) -> bool:
    """Whether a tensor's dotted name is an optimiser's, such as "optimizer_state.state.0.exp_avg"."""
    return any(_OPTIMIZER.fullmatch(word) for word in name.split("."))


_ROLE = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|bias_hn|bias)(?:_l(\d{1,4}))?(_reverse)?")
_GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}
_ARTICLE = {"RNN": "an", "GRU": "a", "LSTM": "an"}


@dataclass(frozen=True)
class Stack:
    """A recurrent stack found by names and shapes.

    prefix      the module's name in the file, "" for none; ``tensors`` are the full names of its weights
    kind        "RNN", "LSTM" or "GRU"; None where a problem hides it
    directions  1 or 2; cell is true for names without "_l0" (PyTorch's RNNCell, LSTMCell, GRUCell)
    problem     why the tensors are no stack of PyTorch's, or None
    notes       what the file cannot say and spec() therefore assumes
    """

    prefix: str
    tensors: tuple[str, ...]
    kind: str | None = None
    input_size: int = 0
    hidden_size: int = 0
    projection: int = 0
    layers: int = 0
    directions: int = 1
    bias: bool = True
    reset_after: bool = True
    cell: bool = False
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def node_name(self) -> str:
        """A name for the stack's node: the last word of the prefix, or the kind in lower case."""
        name = self.prefix.rpartition(".")[2]
        return (self.kind or "stack").lower() if not name or name.isdigit() or name in ("x", "lengths") else name

    @property
    def names(self) -> dict[str, str]:
        """The ``names`` with which bind finds the stack's tensors for ``spec()``."""
        return {self.node_name: self.prefix}

    def node(self, source: str = "x") -> Recurrent:
        """The Recurrent node. Raises WeightError if the stack has a problem."""
        if self.problem:
            raise WeightError(f"{self.prefix or 'stack'}: {self.problem}")
        options: dict[str, dict[str, Any]] = {
            "LSTM": {"projection": self.projection},
            "GRU": {"reset_after": self.reset_after},
            "RNN": {},
        }
        kind = str(self.kind)
        cell = CELLS[kind](self.input_size, self.hidden_size, self.bias, **options[kind])
        direction = "bidirectional" if self.directions == 2 else "forward"
        return Recurrent(self.node_name, cell, source, self.layers, direction)

    def spec(self) -> Spec:
        """The stack alone: input "x" (B, T, I) to the sequence and the final states. Raises WeightError."""
        node = self.node()
        states = [f"{node.name}.{state}" for state in node.cell.states]
        return Spec([Input("x", "float", ("B", "T", self.input_size))], [node], [node.name, *states])


@dataclass(frozen=True)
class Other:
    """Tensors of one module that is no recurrent stack: guess is its likely kind, shapes are by last word."""

    prefix: str
    guess: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def find_stacks(tensors: Mapping[str, np.ndarray]) -> list[Stack]:
    """Every recurrent stack and cell among the tensors, in their order; optimiser state is passed over.

    Never raises for what a file may hold: a stack that contradicts itself comes with its ``problem``.
    """
    modules: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in tensors.items():
        if not is_optimizer(name):
            prefix, _, leaf = name.rpartition(".")
            modules[prefix][leaf] = array
    return [
        _read_stack(prefix, leaves)
        for prefix, leaves in modules.items()
        if any(leaf.startswith(("weight_ih", "weight_hh")) and _ROLE.fullmatch(leaf) for leaf in leaves)
    ]


def only_stack(tensors: Mapping[str, np.ndarray]) -> Stack:
    """The stack of tensors that hold one and nothing else but optimiser state, so that no Spec is needed.

    Raises WeightError for a stack with a problem, and UnsupportedError listing what was found otherwise.
    """
    stacks = find_stacks(tensors)
    others = [other for other in find_others(tensors, stacks) if other.guess != "optimiser state"]
    if len(stacks) == 1 and not others:
        stacks[0].node()
        return stacks[0]
    listed_parts = [f"{stack.prefix or 'top level'} ({stack.kind or 'recurrent'})" for stack in stacks]
    listed_parts += [f"{other.prefix or 'top level'} ({other.guess})" for other in others]
    listed = ", ".join(listed_parts[:8]) + (", ..." if len(listed_parts) > 8 else "") or "no tensors"
    raise UnsupportedError(
        f"found {listed}: tensors alone do not say how modules are joined, give a spec "
        "(`rnncore inspect FILE --spec` writes a first one)"
    )


def find_others(tensors: Mapping[str, np.ndarray], stacks: Iterable[Stack]) -> list[Other]:
    """The tensors outside the stacks, by module, with a guess: Linear, Embedding, LayerNorm, BatchNorm, Conv1d, ..."""
    taken = {name for stack in stacks for name in stack.tensors}
    modules: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, array in tensors.items():
        if name in taken:
            continue
        prefix, _, leaf = name.rpartition(".")
        if is_optimizer(name):
            words = name.split(".")
            first = next(i for i, word in enumerate(words) if _OPTIMIZER.fullmatch(word))
            prefix, leaf = ".".join(words[: first + 1]), ".".join(words[first + 1 :])
        modules[prefix][leaf] = np.shape(array)
    return [Other(prefix, _guess(prefix, shapes), shapes) for prefix, shapes in modules.items()]


def _guess(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    if is_optimizer(prefix):
        return "optimiser state"
    weight, bias = shapes.get("weight"), shapes.get("bias")
    if {"running_mean", "running_var"} <= set(shapes):
        return "BatchNorm"
    if weight is None or set(shapes) - {"weight", "bias"} or (bias is not None and len(bias) != 1):
        return "unknown"
    if len(weight) == 1:
        return "LayerNorm" if bias in (None, weight) else "unknown"
    if len(weight) == 2 and bias is not None:
        return "Linear" if bias[0] == weight[0] else "unknown"
    if len(weight) == 2:
        return "Embedding" if re.search(r"emb|lookup|wte|token|vocab", prefix, re.IGNORECASE) else "Linear or Embedding"
    return {3: "Conv1d", 4: "Conv2d"}.get(len(weight), "unknown")


class _Problem(Exception):
    """Why tensors are no stack."""


def _read_stack(prefix: str, leaves: Mapping[str, np.ndarray]) -> Stack:
    names = tuple(_join(prefix, leaf) for leaf in leaves)
    try:
        return Stack(prefix, names, **_sizes({leaf: np.shape(array) for leaf, array in leaves.items()}))
    except _Problem as problem:
        return Stack(prefix, names, problem=str(problem))


Shapes = dict[str, tuple[int, ...]]


def _roles(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[tuple[int, bool], Shapes], bool]:
    """(layer, reverse) -> role -> shape, and whether the names have no numbers, as a cell's; raises _Problem."""
    roles: dict[tuple[int, bool], Shapes] = defaultdict(dict)
    numbered = set()
    for leaf, shape in shapes.items():
        match = _ROLE.fullmatch(leaf)
        if match is None:
            raise _Problem(f"{leaf!r} is no weight of a recurrent stack of PyTorch's")
        role, layer, reverse = match.groups()
        numbered.add(layer is not None)
        roles[int(layer or 0), reverse is not None][role] = shape
    if len(numbered) > 1:
        raise _Problem("names with and without '_l0' are mixed")
    return roles, not numbered.pop()


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """The fields of a Stack from shapes by leaf name; raises _Problem."""
    roles, is_cell = _roles(shapes)
    layers, directions = max(layer for layer, _ in roles) + 1, 1 + any(reverse for _, reverse in roles)
    expected = [(layer, bool(reverse)) for layer in range(layers) for reverse in range(directions)]
    for layer, reverse in expected:
        if (layer, reverse) not in roles or not {"weight_ih", "weight_hh"} <= set(roles[layer, reverse]):
            leaf = "" if is_cell else f"_l{layer}{'_reverse' if reverse else ''}"
            missing = {"weight_ih", "weight_hh"} - set(roles.get((layer, reverse), ()))
            raise _Problem(f"{min(missing)}{leaf} is missing")
    first = roles[0, False]
    kind, hidden, projection = _kind(first)
    for key in ("weight_ih", "weight_hh"):
        if len(first[key]) != 2 or 0 in first[key]:
            raise _Problem(f"{key}: shape {first[key]}, expected two dimensions")
    input_size = first["weight_ih"][1]
    biases = set(first) - {"weight_ih", "weight_hh", "weight_hr"}
    reset_after = kind != "GRU" or biases != {"bias"}
    if biases not in (set(), {"bias_ih", "bias_hh"}, {"bias", "bias_hn"} if kind == "GRU" else {"bias"}, {"bias"}):
        raise _Problem(f"biases {', '.join(sorted(biases))}, expected bias_ih and bias_hh or neither")
    for layer, reverse in expected:
        shapes_of, suffix = roles[layer, reverse], "" if is_cell else f"_l{layer}{'_reverse' if reverse else ''}"
        size = input_size if layer == 0 else directions * (projection or hidden)
        rows = _ROWS[kind] * hidden
        wanted: dict[str, tuple[int, ...]] = {"weight_ih": (rows, size), "weight_hh": (rows, projection or hidden)}
        wanted |= {"weight_hr": (projection, hidden)} if projection else {}
        wanted |= {bias: (hidden if bias == "bias_hn" else rows,) for bias in biases}
        for key in sorted(set(shapes_of) ^ set(wanted)):
            where = "missing" if key in wanted else "unexpected"
            raise _Problem(f"{key}{suffix} is {where}, unlike in layer 0")
        for key, shape in wanted.items():
            if shapes_of[key] != shape:
                raise _Problem(f"{key}{suffix}: shape {shapes_of[key]}, expected {shape}")
    return {
        "kind": kind,
        "input_size": input_size,
        "hidden_size": hidden,
        "projection": projection,
        "layers": layers,
        "directions": directions,
        "bias": bool(biases),
        "reset_after": reset_after,
        "cell": is_cell,
        "notes": _notes(kind, biases),
    }


_ROWS = {kind: rows for rows, kind in _GATES.items()}


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int, int]:
    """Cell kind, hidden size and projection, from weight_hh (G*H, H), or (G*H, P) with weight_hr (P, H)."""
    recurrent, projection = shapes["weight_hh"], shapes.get("weight_hr")
    for key, shape in (("weight_hh", recurrent), ("weight_hr", projection)):
        if shape is not None and (len(shape) != 2 or 0 in shape):
            raise _Problem(f"{key}: shape {shape}, expected two dimensions")
    rows, hidden = recurrent[0], projection[1] if projection else recurrent[1]
    kind = _GATES.get(rows // hidden) if rows % hidden == 0 else None
    if kind is None:
        raise _Problem(f"weight_hh: shape {recurrent}, expected 1, 3 or 4 times as many rows as the {hidden} units")
    if projection and kind != "LSTM":
        raise _Problem(
            f"weight_hr: shape {projection}, but only an LSTM has a projection ({rows} rows, {hidden} units)"
        )
    return kind, hidden, projection[0] if projection else 0


def _notes(kind: str, biases: set[str]) -> tuple[str, ...]:
    notes = ["batch first (B, T, I) is assumed: the file does not say"]
    if kind == "RNN":
        notes.append("activation tanh is assumed: the file does not say whether it is relu")
    if kind == "GRU" and biases != {"bias"}:
        notes.append("reset after the recurrent product is assumed, as PyTorch always has it")
    return tuple(notes)
