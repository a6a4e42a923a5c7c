"""rnncore inspect: what is in a file, as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click

from rnncore.cli.output import bytes_text, console, limited, say, shape_text, table
from rnncore.errors import RnncoreError, UnsupportedError
from rnncore.formats import loading, read_checkpoint, read_listing
from rnncore.formats.checkpoint import KERAS_WEIGHTS, Checkpoint
from rnncore.formats.listing import Listing
from rnncore.formats.native import FILE_NAME, ModelFile, from_checkpoint, is_native
from rnncore.formats.plain_weights import PlainWeights, plain_weights
from rnncore.formats.torch.names import Other, Stack, bind, find_others, find_stacks, only_stack
from rnncore.graph.axes import follow
from rnncore.graph.nodes import AttentionDecoder, Control, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops.dimensions import Reach
from rnncore.streaming.flow import plan

__all__ = ["inspect", "print_graph", "print_notes"]

MOST = 40  # rows of a table; --json has them all
MOST_LINES = 16  # tensors of one module
PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")
OPTIMISER = "optimiser state"


@click.command(short_help="Show what is in a file.")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option("--spec", "as_spec", is_flag=True, help="Only the network as JSON, to be edited and given to --spec.")
def inspect(file: str, as_json: bool, as_spec: bool) -> None:
    """Shows what is in FILE.

    Of rnncore's own file: the network node by node, where it comes from, and whether it has a test pair. Of a graph
    file (.onnx): its nodes as the file has them, with what rnncore does not run, and the network it becomes. Of weights
    saved by a framework: the recurrent stacks that were found, the other tensors with a guess at what they are, and
    what was not read and why.

    \b
    Example, for weights that need a spec:
        rnncore inspect tagger.pt
        rnncore inspect tagger.pt --spec > tagger.json
    """
    if as_json and as_spec:
        raise click.UsageError("--json and --spec exclude each other")
    path = loading.resolve(file)
    path = path / FILE_NAME if isinstance(path, Path) and path.is_dir() else path
    listing = read_listing(cast(Path, path))
    if listing is not None:
        _show_listing(file, listing, as_json, as_spec)
        return
    checkpoint = read_checkpoint(path)
    if is_native(checkpoint):
        native = from_checkpoint(checkpoint)
        if as_spec or as_json:
            click.echo(_json(native.spec.to_json() if as_spec else _native_json(file, native)))
        else:
            say(f"{file}: rnncore's own file, written by {native.producer}")
            print_graph(native)
            print_notes(native)
        return
    plain, problem = _plain(checkpoint)
    stacks = find_stacks(plain.tensors)
    if as_spec:
        click.echo(_json(_first_spec(file, plain.tensors, stacks).to_json()))
        return
    others = find_others(plain.tensors, stacks)
    if as_json:
        click.echo(_json(_checkpoint_json(file, checkpoint, plain, stacks, others, problem)))
    else:
        _print_checkpoint(file, checkpoint, plain, stacks, others, problem)


def _plain(checkpoint: Checkpoint) -> tuple[PlainWeights, str]:
    """The weights that modules compute with; where that cannot be told, the tensors as they are, and why."""
    try:
        return plain_weights(checkpoint), ""
    except RnncoreError as error:
        return PlainWeights(checkpoint.tensors, {}, ()), str(error)


def _show_listing(file: str, listing: Listing, as_json: bool, as_spec: bool) -> None:
    """A graph file: its own nodes and, if rnncore can run it, what they become. --spec needs that."""
    native = None
    try:
        native = loading.open_file(file)
    except RnncoreError as error:
        if as_spec:
            raise
        if not listing.problem and not any(node.problem for node in listing.nodes):
            listing = dataclasses.replace(listing, problem=str(error))
    if as_spec:
        click.echo(_json(cast(ModelFile, native).spec.to_json()))
    elif as_json:
        click.echo(_json(_listing_json(file, listing, native)))
    else:
        _print_listing(file, listing)
        if native is not None:
            say(f"{file} as rnncore runs it:")
            print_graph(native)
            print_notes(native)


def _print_listing(file: str, listing: Listing) -> None:
    facts = "".join(f", {key} {value}" for key, value in listing.facts.items())
    say(f"{file}: {listing.format}, {len(listing.nodes)} nodes{facts}")
    out = console()
    for title, values in (("inputs", listing.inputs), ("outputs", listing.outputs)):
        out.print(table(title, ("name", "value"), list(values.items())))
    rows = [(node.place, node.name, node.kind, ", ".join(node.reads), limited(node.options)) for node in listing.nodes]
    _print_rows(out, "nodes of the file", ("place", "name", "type", "reads", "attributes"), rows)
    bad = [(node.place, node.name, node.kind, limited(node.problem)) for node in listing.nodes if node.problem]
    if bad:
        _print_rows(out, "not supported", ("place", "name", "type", "why"), bad)
    if listing.problem:
        say(f"problem: {limited(listing.problem)}")


def _listing_json(file: str, listing: Listing, native: ModelFile | None) -> dict[str, Any]:
    return {
        "file": file,
        "format": listing.format,
        "facts": listing.facts,
        "inputs": listing.inputs,
        "outputs": listing.outputs,
        "problem": listing.problem,
        "file_nodes": [dataclasses.asdict(node) | {"reads": list(node.reads)} for node in listing.nodes],
        "model": None if native is None else _native_json(file, native),
    }


def print_graph(native: ModelFile) -> None:
    """Inputs, nodes and outputs as tables, and the sums."""
    spec, out = native.spec, console()
    rows = [(entry.name, entry.value, "optional" if entry.optional else "") for entry in spec.inputs]
    out.print(table("inputs", ("name", "value", ""), rows))
    nodes = [
        (
            node["name"],
            node["kind"],
            node["reads"],
            node["options"],
            list(node["outputs"].values()),
            node["time"],
            f"{node['parameters']:,}",
            bytes_text(node["bytes"]),
        )
        for node in _nodes(native)
    ]
    columns = ("node", "kind", "reads", "options", "output", "over time", "parameters", "memory")
    out.print(table("nodes", columns, nodes, right=columns[-2:]))
    out.print(table("outputs", ("name", "value"), [(name, spec.values[name]) for name in spec.outputs]))
    say(f"{native.weights.count:,} parameters, {bytes_text(native.weights.nbytes)} of weights")
    say(f"over time: {limited(_why_whole(spec)) or 'it can run step by step, as a stream'}")


def print_notes(native: ModelFile) -> None:
    """A model's origin, whether it can be verified, and what was noted when it was made."""
    say(f"origin: {native.source or 'unknown'}{f' (sha256 {native.sha256})' if native.sha256 else ''}")
    say(f"test pair: {'yes' if native.test_pair is not None else 'no'}")
    for name, tokens in native.vocabulary.items():
        say(f"vocabulary of {name}: {len(tokens)} tokens, {' '.join(tokens[:8])}{' ...' * (len(tokens) > 8)}")
    for note in native.notes:
        say(f"note: {limited(note)}")


def _nodes(native: ModelFile) -> Iterator[dict[str, Any]]:
    """Every node as plain values."""
    spec = native.spec
    reaches = _reaches(spec)
    for node in spec.nodes:
        inferred = node.infer(spec.values)
        arrays = [native.weights[name] for name in node.weight_shapes()]
        yield {
            "name": node.name,
            "kind": _kind(node),
            "reads": ", ".join(node.reads),
            "options": _node_options(node),
            "outputs": {name: str(value) for name, value in _shown_values(node, inferred, spec).items()},
            "time": _over_time(reaches.get(node.name, ())),
            "parameters": sum(array.size for array in arrays),
            "bytes": sum(array.nbytes for array in arrays),
        }


def _why_whole(spec: Spec) -> str:
    """Why the model cannot be streamed as it is; "" where it can."""
    try:
        plan(spec)
    except UnsupportedError as error:
        return str(error)
    return ""


def _time_names(spec: Spec) -> set[str]:
    """The names of the sizes that count steps: of what recurrent nodes read, else of second dimensions."""
    sizes = {
        spec.values[node.input].shape[0 if getattr(node, "layout", "") == "time_first" else 1] for node in spec.stateful
    }
    sizes = sizes or {entry.shape[1] for entry in spec.inputs if len(entry.shape) > 1}
    return {size for size in sizes if isinstance(size, str)}


def _reaches(spec: Spec) -> dict[str, list[Reach]]:
    """The reach of each node along the dimensions that count steps."""
    reaches: dict[str, list[Reach]] = {}
    for time in sorted(_time_names(spec)):
        for name, reach in follow(spec, time).reaches.items():
            reaches.setdefault(name, []).append(reach)
    return reaches


def _over_time(reaches: Sequence[Reach]) -> str:
    """The steps that a step of a node's output needs: a name of Reach, the widest; "" for what has no steps."""
    names = {reach.name for reach in reaches}
    return next((name for name in ("whole", "window", "causal", "pointwise") if name in names), "")


def _kind(node: Any) -> str:
    """LSTM, Linear, AttentionDecoder (GRU)"""
    if not node.stateful:
        return node.op
    return node.cell.kind if isinstance(node, Recurrent) else f"{type(node).__name__} ({node.cell.kind})"


def _shown_values(node: Any, values: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """The values of a node that something reads, or all of them if nothing does."""
    read = set(spec.outputs).union(*(other.reads for other in spec.nodes))
    return {name: value for name, value in values.items() if name in read} or dict(values)


def _node_options(node: Any) -> str:
    if node.stateful:
        return _stack_options(node)
    return _branch_options(node) if node.subgraphs else _options(node.to_json().get("attributes", {}))


def _branch_options(node: Control) -> str:
    """then of 3 nodes, else of 1 node, captures=['x']"""
    counts = {label: len(branch.nodes) for label, branch in node.subgraphs}
    branches = [f"{label} of {count} node{'s' * (count != 1)}" for label, count in counts.items()]
    shown = {"name", "op", "inputs", "branches"}
    options = {key: value for key, value in node.to_json().items() if key not in shown}
    return ", ".join(branches + ([_options(options)] if options else []))


def _stack_options(node: Recurrent | AttentionDecoder) -> str:
    """40 to 256, 3 layers, bidirectional"""
    words = [f"{node.cell.input_size} to {node.cell.hidden_size}"]
    if node.layers > 1:
        words.append(f"{node.layers} layers")
    direction = getattr(node, "direction", "forward")
    if direction != "forward":
        words.append(direction)
    hidden = {"kind", "input_size", "hidden_size"}
    options = {key: value for key, value in node.cell.to_json().items() if key not in hidden}
    shown = {"name", "op", "cell", "input", "layers", "direction", "reverse_cell", "initial", "lengths", "memory"}
    options |= {key: value for key, value in node.to_json().items() if key not in shown}
    return ", ".join(words + ([_options(options)] if options else []))


def _options(options: Mapping[str, Any]) -> str:
    sizes = {"input_size", "output_size"}
    words = [f"{options['input_size']} to {options['output_size']}"] if sizes <= set(options) else []
    return ", ".join(words + [f"{key}={value}" for key, value in options.items() if not words or key not in sizes])


def _first_spec(file: str, tensors: Mapping[str, Any], stacks: list[Stack]) -> Spec:
    """The Spec of the first stack without a problem; what the reader has to know goes to stderr."""
    sound = [stack for stack in stacks if stack.problem is None]
    if not sound:
        why = f"; {stacks[0].prefix or 'a stack'}: {stacks[0].problem}" if stacks else ""
        raise UnsupportedError(f"{file}: no recurrent stack under PyTorch's names{why}")
    first, spec = sound[0], sound[0].spec()
    for note in first.notes:
        say(f"note: {note}", stderr=True)
    if len(sound) > 1:
        more = ", ".join(repr(stack.prefix) for stack in sound[1:])
        say(limited(f"note: this is stack {first.prefix!r}; the file has more: {more}"), stderr=True)
    others = [other for other in find_others(tensors, sound) if other.guess != "optimiser state"]
    if others:
        left = ", ".join(f"{other.prefix or 'top level'} ({other.guess})" for other in others)
        say(limited(f"note: add nodes for what else is in the file: {left}"), stderr=True)
    try:
        bind(spec, tensors)
    except RnncoreError:
        say(f"note: give --names a file with {json.dumps(first.names)}", stderr=True)
    return spec


def _print_checkpoint(
    file: str, checkpoint: Checkpoint, plain: PlainWeights, stacks: list[Stack], others: list[Other], problem: str
) -> None:
    size = sum(array.nbytes for array in checkpoint.tensors.values())
    say(f"{file}: {checkpoint.format}, {len(checkpoint.tensors)} tensors, {bytes_text(size)}")
    out = console()
    rows = [_stack_row(stack) for stack in stacks]
    columns = ("stack", "cell", "layers", "directions", "input", "hidden", "projection", "bias")
    if stacks:
        _print_rows(out, "recurrent stacks", columns, rows, right=columns[2:7])
    else:
        say(
            "no recurrent stack under PyTorch's names (weight_ih_l0, weight_hh_l0, ...): give a --spec, and with "
            "--names what its weights are called here, or build the model with rnncore.export.from_gate_arrays"
        )
    for stack in [stack for stack in stacks if stack.problem]:
        say(f"problem: {stack.prefix or '(top level)'}: {stack.problem}")
    for note in dict.fromkeys(note for stack in stacks for note in stack.notes):
        say(f"note: {note}")
    rows = [(other.prefix or "(top level)", other.guess, _shapes(other)) for other in others]
    if rows:
        _print_rows(out, "other tensors", ("module", "looks like", "tensors"), rows)
    if plain.made_of:
        made = [
            (f"{name} {shape_text(plain.tensors[name].shape)}", _parts(parts, checkpoint))
            for name, parts in plain.made_of.items()
        ]
        _print_rows(out, "weights made of others", ("weight", "tensors of the file"), made)
    for note in plain.notes:
        say(f"note: {limited(note)}")
    if problem:
        say(f"problem: {limited(problem)}")
    if checkpoint.skipped:
        skipped = [(entry.path, entry.reason) for entry in checkpoint.skipped]
        _print_rows(out, "not read", ("what", "why"), skipped)
    if checkpoint.format == KERAS_WEIGHTS:
        say(
            f"to load it, give its network: rnncore convert {shlex.quote(file)} DST --architecture FILE.json, of "
            "model.to_json(), or --spec"
        )
    elif any(stack.problem is None for stack in stacks):
        say(_next_step(shlex.quote(file), plain.tensors))


def _parts(parts: tuple[str, ...], checkpoint: Checkpoint) -> list[str]:
    """name (4, 3) qint8, a line for each"""
    tensors = [(name, checkpoint.tensors[name]) for name in parts]
    dtypes = checkpoint.source_dtypes
    return [f"{name} {shape_text(array.shape)} {dtypes.get(name, array.dtype.name)}" for name, array in tensors]


def _next_step(file: str, tensors: Mapping[str, Any]) -> str:
    """The command that makes a model of a checkpoint with a stack."""
    try:
        only_stack(tensors)
    except RnncoreError:
        return (
            f"to load it, say how the modules are joined: rnncore inspect {file} --spec > spec.json, "
            f"edit that, and rnncore convert {file} DST --spec spec.json"
        )
    return f"this file loads as it is: rnncore convert {file} DST"


def _stack_row(stack: Stack) -> tuple[object, ...]:
    """The cells of a stack's row; of one with a problem only its name and kind."""
    named = stack.prefix or "(top level)", stack.kind or "?"
    if stack.problem is not None:
        return (*named, *[""] * 6)
    sizes = stack.layers, stack.directions, stack.input_size, stack.hidden_size, stack.projection or ""
    return (*named, *sizes, "yes" if stack.bias else "no")


def _print_rows(out, title: str, columns, rows: list, right=()) -> None:
    out.print(table(title, columns, rows[:MOST], right=right))
    if len(rows) > MOST:
        say(f"... and {len(rows) - MOST:,} more: see --json")


def _shapes(other: Other) -> list[str]:
    """weight (256, 256), bias (256,): a line for a module, for what is unknown a line for each of its tensors."""
    if other.guess == OPTIMISER:
        return [f"{len(other.shapes)} tensors"]
    tensors = [f"{name} {shape_text(shape)}" for name, shape in other.shapes.items()]
    if other.guess != "unknown":
        return [", ".join(tensors)]
    return tensors[:MOST_LINES] + ([f"... and {len(tensors) - MOST_LINES:,} more"] if len(tensors) > MOST_LINES else [])


def _native_json(file: str, native: ModelFile) -> dict[str, Any]:
    return {
        "file": file,
        "format": "rnncore",
        "producer": native.producer,
        "source": native.source,
        "sha256": native.sha256,
        "notes": list(native.notes),
        "test_pair": native.test_pair is not None,
        "vocabulary": {name: list(tokens) for name, tokens in native.vocabulary.items()},
        "parameters": native.weights.count,
        "bytes": native.weights.nbytes,
        "nodes": list(_nodes(native)),
        "spec": native.spec.to_json(),
    }


def _checkpoint_json(
    file: str, checkpoint: Checkpoint, plain: PlainWeights, stacks: list[Stack], others: list[Other], problem: str
) -> dict[str, Any]:
    fields = ("prefix", "kind", "layers", "directions", "input_size", "hidden_size", "projection", "bias", "problem")
    return {
        "file": file,
        "format": checkpoint.format,
        "stacks": [
            {field: getattr(stack, field) for field in fields}
            | {"tensors": list(stack.tensors), "notes": list(stack.notes)}
            for stack in stacks
        ],
        "others": [
            {"prefix": other.prefix, "guess": other.guess, "shapes": {k: list(v) for k, v in other.shapes.items()}}
            for other in others
        ],
        "tensors": {
            name: {"shape": list(array.shape), "dtype": checkpoint.source_dtypes.get(name, array.dtype.name)}
            for name, array in checkpoint.tensors.items()
        },
        "made_of": {
            name: {"shape": list(plain.tensors[name].shape), "tensors": list(parts)}
            for name, parts in plain.made_of.items()
        },
        "notes": list(plain.notes),
        "problem": problem,
        "skipped": [{"path": entry.path, "reason": entry.reason} for entry in checkpoint.skipped],
        "metadata": checkpoint.metadata,
    }


def _json(content: Mapping[str, Any]) -> str:
    """JSON to be read and edited: a list of plain values is on one line."""
    return PLAIN_LIST.sub(_joined, json.dumps(content, indent=2))


def _joined(match: re.Match) -> str:
    return f"[{', '.join(line.strip().removesuffix(',') for line in match[0].splitlines()[1:-1])}]"
