"""A torch module and an example of its arguments -> Spec, Weights and a test pair that has been run."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from rnncore.errors import InputError, RnncoreError, SpecError, UnsupportedError, VerificationError
from rnncore.export.exported import Exported
from rnncore.export.torch.axes import Axes
from rnncore.export.torch.bounds import bounded
from rnncore.export.torch.chains import Chain, OverSteps
from rnncore.export.torch.functions import call_function
from rnncore.export.torch.layers import call_module
from rnncore.export.torch.layers.recurrent import recurrent_node
from rnncore.export.torch.layers.registry import STACKS, kind_of
from rnncore.export.torch.loops.rolling import roll
from rnncore.export.torch.loops.scanned import ScanCall
from rnncore.export.torch.lowering import MAX_INLINE, TraceLowering
from rnncore.export.torch.proof import BranchError, Proof
from rnncore.export.torch.records import Traced, without_folders
from rnncore.export.torch.scan import lower_scan
from rnncore.export.torch.spectral import call_complex, holds_complex
from rnncore.export.torch.trace import trace
from rnncore.export.torch.values import Complex, Packed, Size, TracedTensor, array_of
from rnncore.formats.torch.names import bind
from rnncore.formats.torch.parametrizations import fold
from rnncore.formats.verification import compare
from rnncore.graph.axes import reach_of
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec, paths_of
from rnncore.graph.test_pair import TestPair
from rnncore.graph.weights import Weights
from rnncore.passes import simplify
from rnncore.passes.graph import is_constant
from rnncore.runtime.model import Model

__all__ = ["export", "reference"]

MAX_BOUNDS = 4
"""Decisions of one line that sizes are bounded for."""


def export(module: nn.Module, example: Any, lengths: Any, sizes: dict[str, Sequence[str | None]]) -> Exported:
    """See from_torch. The module is in evaluation mode."""
    module, notes = _in_full_precision(module)
    dtype = _dtype(module)
    arguments = _bound(module, example, lengths, dtype)
    leaves = _named_leaves(module, arguments)
    _check_example(leaves)
    axes = Axes(lambda tensors: _called(module, _with_leaves(arguments, leaves, _copies(tensors))), leaves, sizes)

    def traced(tensors: Mapping[str, torch.Tensor], turned: int | None = None) -> Traced:
        named = {id(tensor): name for name, tensor in tensors.items()}
        return trace(module, _with_leaves(arguments, leaves, tensors), named, turned)

    first = traced(leaves)
    second = _second(axes, traced, first)
    roll(first, second)
    inputs = _inputs(axes, module, first, second)
    modules = {name for name, _ in module.named_modules() if name}
    lowering = TraceLowering(first, second, inputs, modules, module.state_dict().keys())
    result, outputs, _ = lowering.run(_lower)
    spec, weights = _assembled(lowering, result, dtype)
    names = spec.outputs
    used = {entry.name for entry in spec.inputs}

    def given(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: _array(tensor) for name, tensor in tensors.items() if name in used}

    def returned(result: Any) -> dict[str, np.ndarray]:
        return dict(zip(names, map(_array, _leaves(result)), strict=True))

    pair = TestPair(given(leaves), returned(outputs))
    source = f"torch {torch.__version__.partition('+')[0]}"
    exported = Exported(spec, Weights(spec, weights), pair, source, tuple(dict.fromkeys((*notes, *lowering.notes))))

    def proof_of(spec: Spec, bounds: Collection[str]) -> Proof:
        model = Model(spec, exported.weights, dtype)
        compare(model.run(pair.inputs), pair.outputs, "the exported model").require()
        return Proof(model, axes, first, second, traced, returned, given, bounds)

    spec, proved = _proved(spec, lowering, proof_of)
    every = (*exported.notes, *proved, *_unlike_checkpoints(module, spec, exported.weights))
    return replace(exported, spec=spec, notes=tuple(dict.fromkeys(every)))


def _proved(spec: Spec, g: TraceLowering, proof_of: Callable[[Spec, Collection[str]], Proof]) -> tuple[Spec, list[str]]:
    """A Spec that gives what torch gives, or refuses sizes for which it does not; and notes."""
    bounds: list[str] = []
    while True:
        proof = proof_of(spec, bounds)
        try:
            proof.require()
        except BranchError as error:
            decisions = [one for one in g.first.decisions if one.place == error.place]
            fits = error.place not in bounds and len(decisions) <= MAX_BOUNDS
            narrowed = bounded(spec, g, decisions) if fits else None
            if narrowed is None:
                raise
            spec, bounds = narrowed, [*bounds, error.place]
            continue
        said = "a branch goes another way for other sizes of an input, which the model refuses"
        return spec, [*(f"{without_folders(place)}: {said}" for place in bounds), *proof.notes]


def reference(
    module: nn.Module, example: Any, lengths: Any, names: Sequence[str]
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that runs a module, in evaluation mode, on arrays in the place of the example's tensors."""
    module, _ = _in_full_precision(module)
    arguments = _bound(module, example, lengths, _dtype(module))
    leaves = _named_leaves(module, arguments)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {
            name: torch.from_numpy(inputs[name].copy()).to(tensor.device, tensor.dtype) if name in inputs else tensor
            for name, tensor in leaves.items()
        }
        try:
            with torch.no_grad():
                result = _called(module, _with_leaves(arguments, leaves, given))
        except Exception as error:
            raise VerificationError(f"torch does not run these inputs: {type(error).__name__}: {error}") from None
        return dict(zip(names, map(_array, _leaves(result)), strict=True))

    return run


def _unlike_checkpoints(module: nn.Module, spec: Spec, weights: Weights) -> list[str]:
    """A note where the module's own state_dict does not give the weights of its Spec."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    try:
        bound = bind(spec, fold({name: array_of(tensor) for name, tensor in tensors.items()})[0]).weights
    except RnncoreError as error:
        return [f"weights of a checkpoint are not taken by this Spec: {error}"]
    other = [name for name in weights if not np.allclose(bound[name], weights[name], 1e-4, 1e-6, equal_nan=True)]
    return [f"weights of a checkpoint are not taken by this Spec: {other[0]} is computed" for _ in other[:1]]


# --- the module and what it is called with ---------------------------------------------------------------------------


def _in_full_precision(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """A 16-bit module as a float32 copy."""
    dtypes = {tensor.dtype for tensor in (*module.parameters(), *module.buffers())}
    half = [dtype for dtype in (torch.float16, torch.bfloat16) if dtype in dtypes]
    if not half:
        return module, []
    return copy.deepcopy(module).float().eval(), [
        f"weights were {half[0]}: they are kept, and computed with, as float32"
    ]


def _dtype(module: nn.Module) -> str:
    dtypes = {tensor.dtype for tensor in module.parameters() if tensor.dtype.is_floating_point}
    for name, parameter in module.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64) or len(dtypes) > 1:
            listed = " and ".join(sorted(map(str, dtypes or {parameter.dtype})))
            raise UnsupportedError(
                f"{name}: {listed}, expected one of torch.float32 or torch.float64: use module.float()"
            )
    return str(dtypes.pop()).removeprefix("torch.") if dtypes else "float32"


def _bound(module: nn.Module, example: Any, lengths: Any, dtype: str) -> inspect.BoundArguments:
    """forward's arguments, with tensors of the module's dtype and device."""
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))

    def tensors(argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            argument = torch.from_numpy(np.ascontiguousarray(argument))
        if isinstance(argument, torch.Tensor):
            wanted = getattr(torch, dtype) if argument.dtype.is_floating_point else argument.dtype
            return argument.detach().to(device, wanted).clone()
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            return type(argument)(*map(tensors, argument))
        if isinstance(argument, (tuple, list)):
            return type(argument)(map(tensors, argument))
        return {key: tensors(value) for key, value in argument.items()} if isinstance(argument, dict) else argument

    signature = inspect.signature(type(module).forward)
    parameters = list(signature.parameters)[1:]
    given = example if isinstance(example, (tuple, dict)) else (example,)
    keywords = dict(given) if isinstance(given, dict) else {}
    if lengths is not None:
        wanted = [name for name in parameters if "len" in name.lower()] or [
            name
            for place, name in enumerate(parameters)
            if name not in keywords
            and (isinstance(given, dict) or place >= len(given))
            and signature.parameters[name].default is inspect.Parameter.empty
        ]
        if len(wanted) != 1:
            raise InputError(
                f"lengths: forward has the arguments {', '.join(parameters)}, expected one with 'len' in it, or one "
                "that the example leaves out"
            )
        keywords[wanted[0]] = torch.as_tensor(np.asarray(lengths)) if not isinstance(lengths, torch.Tensor) else lengths
    try:
        bound = signature.bind(module, *(given if isinstance(given, tuple) else ()), **keywords)
    except TypeError as error:
        raise InputError(f"example: {error} ({type(module).__name__}.forward{signature})") from None
    plain = inspect.BoundArguments(
        signature.replace(parameters=list(signature.parameters.values())[1:]), bound.arguments
    )
    plain.arguments.pop(next(iter(signature.parameters)))
    for name, value in plain.arguments.items():
        plain.arguments[name] = tensors(value)
    return plain


def _named_leaves(module: nn.Module, arguments: inspect.BoundArguments) -> dict[str, torch.Tensor]:
    """Every tensor in the arguments by the name of its input."""
    taken = {name for name, _ in module.named_modules()}
    named: dict[str, torch.Tensor] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if isinstance(module, Chain) and not named and not value.dtype.is_floating_point:
                name = "tokens"
            name = f"{name}_in" if name in taken else name
            if any(value is other for other in named.values()):
                raise InputError(f"example: one tensor stands for two inputs, one of them {name!r}: give copies")
            named[name] = value
        elif isinstance(value, (tuple, list)):
            keys = getattr(value, "_fields", range(len(value)))
            for key, item in zip(keys, value, strict=True):
                add(f"{name}_{key}", item)
        elif isinstance(value, dict):
            for key, item in value.items():
                add(str(key) if len(arguments.arguments) == 1 else f"{name}_{key}", item)

    for name, value in arguments.arguments.items():
        add(name, value)
    if not named:
        raise InputError("example: no tensors in it, expected at least one")
    return named


def _check_example(leaves: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in leaves.items():
        if 0 in tensor.shape:
            raise InputError(f"example (input {name!r}): shape {tuple(tensor.shape)}, expected no empty dimension")


def _with_leaves(
    arguments: inspect.BoundArguments, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]
) -> inspect.BoundArguments:
    """The same arguments with other tensors."""
    replaced = {id(tensor): new[name] for name, tensor in old.items()}

    def changed(argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return replaced[id(argument)]
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            return type(argument)(*map(changed, argument))
        if isinstance(argument, (tuple, list)):
            return type(argument)(map(changed, argument))
        return {key: changed(value) for key, value in argument.items()} if isinstance(argument, dict) else argument

    return inspect.BoundArguments(
        arguments.signature,
        type(arguments.arguments)({name: changed(value) for name, value in arguments.arguments.items()}),
    )


# --- which sizes are free --------------------------------------------------------------------------------------------


def _copies(leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs for a call that may change them."""
    return {name: tensor.clone() for name, tensor in leaves.items()}


def _called(module: nn.Module, arguments: inspect.BoundArguments) -> Any:
    return type(module).forward(module, *arguments.args, **arguments.kwargs)


def _second(axes: Axes, traced: Callable[[Mapping[str, torch.Tensor]], Traced], first: Traced) -> Traced:
    """The trace at other sizes, for which branches go the same way. UnsupportedError without any."""
    others = {i: group.other for i, group in enumerate(axes.groups)}
    second = traced(axes.resized(others))
    place = _decided_otherwise(first, second)
    if place is None:
        return second
    for i, group in enumerate(axes.groups):
        for other in axes.nearer(i):
            try:
                other_trace = traced(axes.resized({**others, i: other}))
            except UnsupportedError:
                continue
            if _decided_otherwise(first, other_trace) is None:
                axes.groups[i] = replace(group, other=other, further=group.other)
                return other_trace
    raise UnsupportedError(
        f"{place}: a branch that depends on the size of an input, expected one path for all sizes, or sizes= with None "
        "for a dimension that stays"
    )


def _decided_otherwise(first: Traced, second: Traced) -> str | None:
    """The line of a branch on sizes that goes two ways."""
    ours, theirs = ({one.place: one.taken for one in traced.decisions} for traced in (first, second))
    return next((place for place, decided in ours.items() if theirs.get(place, decided) != decided), None)


def _names(axes: Axes, module: nn.Module, first: Traced, second: Traced) -> dict[tuple[str, int], str]:
    """(input, axis) -> "B", "T" or another name, for dimensions that are free."""
    names: dict[tuple[str, int], str] = dict(axes.named)
    at_recurrent = zip(_at_recurrent(module, first), _at_recurrent(module, second), strict=False)
    known = dict(zip(at_recurrent, "BT", strict=False))
    for group in axes.groups:
        name, axis = group.places[0]
        given = [names[place] for place in group.places if place in names]
        label = given[0] if given else known.get((group.size, group.other)) or {0: "B", 1: "T"}.get(axis, f"D{axis}")
        if not given and label in names.values():
            label = "T" if "T" not in names.values() else f"T_{name}"
        if not given and label in names.values():
            label = f"{label}_{axis}"
        names.update(dict.fromkeys(group.places, label))
    return names


def _at_recurrent(module: nn.Module, traced: Traced) -> tuple[int, ...]:
    """The sizes of the batch and of time at the first recurrent module; none without such a module."""
    for node in traced.graph.nodes:
        if not node.args or not isinstance(node.args[0], fx.Node):
            continue
        value, batch_first = traced.values[node.args[0]], True if isinstance(node.target, OverSteps) else None
        if node.op == "call_module" and kind_of(module.get_submodule(node.target)) in STACKS:
            batch_first = module.get_submodule(node.target).batch_first
        elif getattr(node.target, "__name__", "") == "pack_padded_sequence":
            batch_first = node.kwargs.get("batch_first", node.args[2] if len(node.args) > 2 else False)
        if batch_first is not None and isinstance(value, torch.Tensor):
            rows, steps = value.shape[:2] if batch_first else (value.shape[1], value.shape[0])
            return (0, len(value)) if value.ndim == 2 else (rows, steps)
    return ()


def _inputs(axes: Axes, module: nn.Module, first: Traced, second: Traced) -> list[Input]:
    names = _names(axes, module, first, second)
    lowering_dtype = TraceLowering(first, first, ()).spec_dtype
    return [
        Input(
            name,
            lowering_dtype(tensor.dtype),
            tuple(names.get((name, axis), size) for axis, size in enumerate(tensor.shape)),
        )
        for name, tensor in axes.leaves.items()
    ]


# --- nodes -----------------------------------------------------------------------------------------------------------


def _lower(g: TraceLowering, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if node.op == "call_module":
        return call_module(g, g.first.tracer.root.get_submodule(node.target), args, kwargs)
    if isinstance(node.target, OverSteps):
        return _over_steps(g, node.target, *args, **kwargs)
    if isinstance(node.target, ScanCall):
        starts, sources, captured = args
        return lower_scan(g, starts, sources, captured, _lower)
    if isinstance(node.target, type):
        return dict(zip(_fields(node.target), args, strict=False)) | kwargs
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
    if holds_complex(args, kwargs):
        return call_complex(g, name, args, kwargs)
    return call_function(g, name, args, kwargs)


def _fields(kind: type) -> Sequence[str]:
    return getattr(kind, "_fields", None) or list(getattr(kind, "__dataclass_fields__", ()))


def _over_steps(g: TraceLowering, cell: OverSteps, input: Any, state: Any = None) -> Any:
    """A cell run over a sequence: a recurrent node of one layer."""
    x = g.tensor(input)
    hx = [] if state is None else list(state) if isinstance(state, (tuple, list)) else [state]
    node = recurrent_node(g, cell.module, g.name_of(x), cell.name, "batch_first", None, hx)
    how = "a loop over its steps" if cell.written_out else "one step in torch"
    g.notes.append(f"{cell.name} ({kind_of(cell.module)}): {how}, here run over a sequence")
    several = isinstance(g.a[1], tuple)
    states = [
        g.named(
            f"{node.name}.{key}",
            g.a[1][i] if several else g.a[1],
            g.b[1][i] if several else g.b[1],
            ("h", node) if key == "h" else None,
        )
        for i, key in enumerate(node.cell.states)
    ]
    return g.named(node.name, g.a[0], g.b[0], ("sequence", node)), tuple(states) if several else states[0]


def _leaves(result: Any) -> list[Any]:
    """The tensors of a result, in order, whatever they are in."""
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in _leaves(item)]
    if isinstance(result, Mapping):
        return [leaf for item in result.values() for leaf in _leaves(item)]
    if hasattr(result, "__dataclass_fields__") and not isinstance(result, (TracedTensor, Size, Packed, Complex)):
        return [leaf for key in result.__dataclass_fields__ for leaf in _leaves(getattr(result, key))]
    return [] if result is None else [result]


def _labels(result: Any, label: str = "") -> list[str]:
    """For each tensor of a result the key of the dict that holds it, or ""."""
    if isinstance(result, Mapping):
        return [name for key, item in result.items() for name in _labels(item, f"{label}_{key}" if label else str(key))]
    if isinstance(result, (tuple, list)):
        several = len(result) > 1 and label
        return [name for i, item in enumerate(result) for name in _labels(item, f"{label}_{i}" if several else label)]
    return [] if result is None else [label]


def _assembled(g: TraceLowering, result: Any, floating: str) -> tuple[Spec, dict[str, np.ndarray]]:
    """The Spec of what was lowered, without nodes that nothing reads."""
    names: list[str] = []
    for item, label in zip(_leaves(result), _labels(result), strict=True):
        if isinstance(item, Packed):
            raise UnsupportedError("the output is a PackedSequence, expected pad_packed_sequence of it")
        if not isinstance(item, TracedTensor):
            raise UnsupportedError(f"the output holds {type(item).__name__}, expected tensors only")
        name = g.name_of(item)
        given = name in {entry.name for entry in g.graph.inputs}
        if name in names or given or (label and label != name):
            g.node = None
            name = g.emit("Identity", [name], name=label or "output")
        names.append(name)
    if not names:
        raise UnsupportedError("the module returns no tensor, expected at least one")
    if not g.graph.nodes:
        raise UnsupportedError("nothing is left of the module, expected something to compute")
    try:
        spec = g.graph.build(names)
    except SpecError as error:
        raise UnsupportedError(f"module: {error}") from None
    spec, weights, notes = simplify(
        spec, {name: g.graph.weights[name] for name in spec.weight_shapes()}, keep_weights=True, floating=floating
    )
    g.notes += notes
    spec, weights = _with_constants_inside(spec, weights, g.graph.weights)
    needed = set(spec.outputs).union(*(node.reads for node in spec.nodes))
    inputs = [entry for entry in spec.inputs if entry.name in needed]
    g.notes += [f"input {entry.name!r}: left out, nothing reads it" for entry in spec.inputs if entry not in inputs]
    nodes = list(spec.nodes)
    if _rows_alone(spec):
        nodes = [replace(node, lengths="lengths") if isinstance(node, Recurrent) else node for node in nodes]
    spec = Spec(inputs, nodes, spec.outputs)
    return replace(spec, names=_other_names(g, spec)), weights


def _with_constants_inside(
    spec: Spec, weights: dict[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> tuple[Spec, dict[str, np.ndarray]]:
    """Constants that were folded, which no checkpoint has, are content of the Spec itself."""
    nodes: list[Any] = list(spec.nodes)
    arrays = dict(weights)
    for place, node in enumerate(nodes):
        name = f"{node.name}.value"
        folded = is_constant(node) and name in arrays and name not in before
        if folded and arrays[name].size <= MAX_INLINE and not np.isnan(arrays[name]).any():
            value = tuple(arrays.pop(name).reshape(-1).tolist())
            nodes[place] = replace(node, attributes={**node.attributes, "value": value})
    return Spec(spec.inputs, nodes, spec.outputs), arrays


def _other_names(g: TraceLowering, spec: Spec) -> dict[str, str]:
    """The names of weights and nodes of a Spec in a checkpoint, where those are others."""
    there = {path for path, _ in paths_of(spec)} | spec.weight_shapes().keys()
    return {
        name: source
        for name, source in g.sources.items()
        if name in there and source not in (name, name.removesuffix(".value"))
    }


def _rows_alone(spec: Spec) -> bool:
    """Whether each step is independent outside recurrent nodes, so that rows may have lengths of their own."""
    recurrent = spec.recurrent
    if not recurrent or any(node.lengths is not None for node in recurrent):
        return False
    if "lengths" in {entry.name for entry in spec.inputs} | {node.name for node in spec.nodes}:
        return False
    time: Any = None
    for node in recurrent:
        axis = 1 if node.layout == "batch_first" else 0
        steps, rows = spec.values[node.input].shape[axis], spec.values[node.input].shape[1 - axis]
        if not isinstance(rows, str) or not isinstance(steps, str) or time not in (None, steps):
            return False
        time = steps
    return all(isinstance(node, Recurrent) or _is_stepwise(spec, node, time) for node in spec.nodes)


def _is_stepwise(spec: Spec, node: Any, time: str) -> bool:
    """Whether a node does the same with every step, or has nothing to do with steps."""
    timed = [
        shape for name in node.reads for shape in (spec.values[name].shape,) if any(time in str(size) for size in shape)
    ]
    if not timed:
        return True
    if not isinstance(node, Node) or node.op in ("Shape", "Transpose", "Reshape", "Size") or time not in timed[0]:
        return False
    return reach_of(node, spec.values, time).independent


# --- proof -----------------------------------------------------------------------------------------------------------


def _array(tensor: Any) -> np.ndarray:
    return array_of(tensor) if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
