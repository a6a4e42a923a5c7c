"""Looking ahead: what streams of bidirectional models give is their documented definition, however they are cut."""

import numpy as np
import pytest
import torch
from oracle import merged, run_node, run_recurrent
from random_networks import random_network
from stream_models import I, X, cuts, equal, linear, make
from torch import nn

import rnncore
from rnncore import Input, InputError, Model, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM, RNN
from rnncore.errors import UnsupportedError
from rnncore.export import from_torch


def definition(spec, weights, inputs, ahead, size):
    """All outputs with a time axis, in float64: each reverse direction begins ``ahead`` steps behind each block."""
    values = {name: np.asarray(a, np.float64 if a.dtype.kind == "f" else a.dtype) for name, a in inputs.items()}
    weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    for node in spec.nodes:
        if not isinstance(node, Recurrent):
            values |= run_node(node, weights, values)
        elif node.direction == "forward":
            values |= run_recurrent(node, weights, values, {})
        else:
            values |= look_ahead(node, weights, values, ahead, size)
    return {name: values[name] for name in spec.outputs if name in values}


def look_ahead(node, weights, values, ahead, size):
    first = node.layout == "batch_first"
    x = values[node.input] if first else values[node.input].swapaxes(0, 1)
    mask = values.get(node.mask) if node.mask else None
    valid = np.ones(x.shape[:2], bool) if mask is None else (mask if first else mask.T)
    repeat = mask is not None and node.masked_output == "repeat"
    initial = [values[name] for name in node.initial]
    rows = [
        _row(node, weights, [array[:, row] for array in initial], x[row], valid[row], repeat, ahead, size)
        for row in range(len(x))
    ]
    found = np.stack(rows) if first else np.stack(rows, axis=1)
    if node.merge == "separate":
        return dict(zip((f"{node.name}.forward", f"{node.name}.reverse"), np.split(found, 2, axis=2), strict=True))
    return {node.name: found}


def _row(node, weights, initial, x, valid, repeat, ahead, size):
    """Block by block; each layer reads what the one below gave for the block and what is ahead of it."""
    states = [_start(node, weights, initial, layer, "forward") for layer in range(node.layers)]
    latest = np.zeros(node.cell.output_size)
    blocks = []
    for begin in range(0, len(x), size):
        window = slice(begin, min(len(x), begin + size) + ahead)
        z, own, last = x[window], min(size, len(x) - begin), valid[window]
        for layer in range(node.layers):
            outputs = []
            for direction in node.directions:
                y, kept, held = _steps(
                    node, weights, layer, direction, z, last, own,
                    states[layer] if direction == "forward" else _start(node, weights, initial, layer, direction),
                    (latest if direction == "forward" else 0 * latest) if repeat and layer == node.layers - 1 else None,
                )  # fmt: skip
                if direction == "forward":
                    states[layer], latest = kept, (latest if held is None else held)
                outputs.append(y)
            z = np.concatenate(outputs, axis=1) if node.merge == "separate" else merged(node, outputs)
        blocks.append(z[:own])
    return np.concatenate(blocks)


def _steps(node, weights, layer, direction, x, valid, own, state, latest):
    """Outputs, and state and latest output after the block's own steps."""
    cell, suffix = node.layer_cell(layer, direction), node.suffix(layer, direction)
    arrays = {key: weights[f"{node.name}.{key}{suffix}"] for key in cell.weight_shapes()}
    y, kept, held = np.zeros((len(x), cell.output_size)), state, latest
    for t in range(len(x)) if direction == "forward" else reversed(range(len(x))):
        if valid[t]:
            state = cell.step(arrays, x[t : t + 1], state)
            y[t] = state[0][0]
            latest = None if latest is None else y[t]
        elif latest is not None:
            y[t] = latest
        if t == own - 1:
            kept, held = state, latest
    return y, kept, held


def _start(node, weights, initial, layer, direction):
    index = layer * len(node.directions) + node.directions.index(direction) if direction in node.directions else 0
    sizes = node.cell.state_sizes
    if initial:
        return tuple(array[index][None] for array in initial)
    if node.trained_state:
        return tuple(weights[f"{node.name}.initial_{key}"][index][None] for key in sizes)
    return tuple(np.zeros((1, width)) for width in sizes.values())


def outputs_of(spec, found):
    return found if isinstance(found, dict) else {spec.outputs[0]: found}


def joined(spec, parts):
    axes = {name: list(spec.values[name].shape).index("T") for name in outputs_of(spec, parts[0])}
    return {name: np.concatenate([outputs_of(spec, part)[name] for part in parts], axis) for name, axis in axes.items()}


def assert_close(found, expected, what=""):
    assert found and set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, f"{what}: {name}"
        assert np.abs(found[name] - array).max(initial=0) < 2e-5, f"{what}: {name}"


def drawn(seed):
    """A network with one or two layers that look ahead, beside others; its inputs; and the options of a stream."""
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    time_first = rng.random() < 0.3
    layout = "time_first" if time_first else "batch_first"
    cell = pick(LSTM, GRU, RNN)
    direction = pick("bidirectional", "bidirectional", "reverse")
    merge = pick("concat", "concat", "sum", "mul", "average", "separate") if direction == "bidirectional" else "concat"
    layers = pick(1, 2) if merge != "separate" else 1
    given, computed = rng.random() < 0.4, rng.random() < 0.3
    inputs = [Input("x", "float", ("T", "B", I) if time_first else ("B", "T", I))]
    nodes, read, width = [], "x", I
    if rng.random() < 0.3:
        nodes.append(Recurrent("front", GRU(I, 7), "x", layout=layout))
        read, width = "front", 7
    if computed:
        nodes += [
            Node("first", "Slice", "x", {"starts": (0,), "ends": (1,), "axes": (2,)}),
            Node("flat", "Squeeze", "first", {"axes": (2,)}),
            Node("zero", "Constant", (), {"dtype": "float", "value": 0.0}),
            Node("counts", "Greater", ("flat", "zero")),
        ]
    mask = "counts" if computed else ("mask" if given else None)
    options = {"layout": layout, "mask": mask, "masked_output": pick("repeat", "zero")}
    nodes.append(Recurrent(
        "r", cell(width, 6), read, layers=layers, direction=direction, merge=merge,
        trained_state=bool(rng.random() < 0.3), **options,
    ))  # fmt: skip
    if merge == "separate":
        outputs = ["r.forward", "r.reverse"]
    else:
        outputs, width = ["r"], nodes[-1].output_size
        if rng.random() < 0.4:
            nodes.append(Recurrent("q", LSTM(width, 5), "r", direction="bidirectional", **options))
            outputs, width = ["q"], 10
        nodes += [linear("head", outputs[0], width, 3), linear("side", "x", I, 3), Node("sum", "Add", ("head", "side"))]
        outputs = [outputs[0], "sum"] if rng.random() < 0.5 else ["sum"]
        outputs += ["r.h"] if rng.random() < 0.3 else []
    if given and not computed:
        inputs.append(Input("mask", "bool", ("T", "B") if time_first else ("B", "T"), optional=True))
    ahead = int(rng.integers(0, 6))
    block = None if rng.random() < 0.4 else int(rng.integers(1, 6))
    return Spec(inputs, nodes, outputs), time_first, {"lookahead": ahead, "block": block}


def masks_of(rng, spec, slices, time_first, rows, steps):
    """A mask, and for each piece whether it is given: where it is not, all steps count."""
    mask, shown = rng.random((rows, steps)) < 0.7, [True] * len(slices)
    if "mask" not in [entry.name for entry in spec.inputs]:
        return None, [False] * len(slices)
    for place, piece in enumerate(slices):
        if rng.random() < 0.3:
            shown[place], mask[:, piece] = False, True
    return (mask.T if time_first else mask), shown


def piece_of(array, piece, time_first):
    return array[piece] if time_first else array[:, piece]


@pytest.mark.parametrize("seed", range(60))
def test_any_cut_gives_the_definition(seed):
    """Streams: masks in some pieces, saved and loaded on the way; every cut gives the same bits."""
    spec, time_first, options = drawn(seed)
    dtype = "float64" if seed % 5 == 4 else "float32"
    model = make(spec, seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    rows, steps = int(rng.integers(1, 4)), int(rng.integers(1, 25))
    x = rng.standard_normal((steps, rows, I) if time_first else (rows, steps, I)).astype(np.float32)
    slices = cuts(rng, steps, 7)
    mask, shown = masks_of(rng, spec, slices, time_first, rows, steps)
    size = options["block"] or max(1, options["lookahead"])
    inputs = {"x": x} if mask is None else {"x": x, "mask": mask}
    expected = definition(spec, model.weights, inputs, options["lookahead"], size)
    stream = model.stream(rows, **options)
    found = []
    for piece, with_mask in zip(slices, shown, strict=True):
        own = piece_of(mask, piece, time_first) if with_mask else None
        found.append(stream.feed(piece_of(x, piece, time_first), mask=own))
        if rng.random() < 0.3:
            saved, stream = stream.save(), model.stream(rows, **options)
            stream.load(saved)
    found = joined(spec, [*found, stream.finish()])
    assert_close(found, expected, seed)
    again = model.stream(rows, **options)
    whole = joined(spec, [again.feed(x, mask=mask), again.finish()])
    assert all(equal(found[name], array) for name, array in whole.items())


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed):
    """Every option of every cell, initial states that are given, reverse directions with cells of their own."""
    network = random_network(seed, batch=2, steps=9)
    spec, shapes = network.spec, {entry.name: entry.shape for entry in network.spec.inputs}
    model = Model(spec, network.weights, network.dtype)
    given = {name: array for name, array in network.given.items() if name != "lengths"}
    static = {name: array for name, array in given.items() if "T" not in shapes[name]}
    try:
        stream = model.stream(2, lookahead=2, block=3, inputs=static)
    except UnsupportedError as error:
        assert "final states only" in str(error) or "begins with the end" in str(error)
        return
    parts = []
    for piece in cuts(np.random.default_rng(seed), 9):
        chunk = {name: a[(slice(None),) * shapes[name].index("T") + (piece,)] for name, a in given.items()
                 if name not in static}  # fmt: skip
        parts.append(outputs_of(spec, stream.feed(chunk)))
    parts.append(outputs_of(spec, stream.finish()))
    expected = definition(spec, model.weights, given, 2, 3)
    for name, last in parts[-1].items():
        if "T" in spec.values[name].shape:
            last = np.concatenate([part[name] for part in parts], spec.values[name].shape.index("T"))
        assert np.abs(last - expected[name]).max(initial=0) < 2e-4 * max(1, np.abs(expected[name]).max(initial=0)), name


@pytest.mark.parametrize("seed", range(60, 90))
def test_pools_give_the_definition(seed):
    """Each row of a pool has pieces of its own, and is what a stream of its own would be."""
    spec, time_first, options = drawn(seed)
    if time_first:
        spec = Spec.from_json(spec.to_json())
    model = make(spec, seed)
    rng = np.random.default_rng(seed)
    size = options["block"] or max(1, options["lookahead"])
    pool, sequences, found = model.pool(4, **options), {}, {}
    given = {name: [] for name in range(3)}
    for name in given:
        pool.open(name)
        sequences[name] = rng.standard_normal((int(rng.integers(1, 20)), I)).astype(np.float32)
        found[name] = []
    masked = "mask" in [entry.name for entry in spec.inputs]
    masks = {name: rng.random(len(x)) < 0.7 for name, x in sequences.items()}
    at = dict.fromkeys(given, 0)
    while any(at[name] < len(x) for name, x in sequences.items()):
        chunks = {}
        for name, x in sequences.items():
            piece = slice(at[name], at[name] + int(rng.integers(0, 6)))
            at[name] = min(len(x), piece.stop)
            chunks[name] = {"x": x[piece], "mask": masks[name][piece]} if masked else x[piece]
        for name, array in pool.step(chunks).items():
            found[name].append(array)
        if rng.random() < 0.2:
            saved, pool = pool.save_all(), model.pool(4, **options)
            pool.load_all(saved)
    for name, x in sequences.items():
        found[name].append(pool.finish(name))
        batch = {"x": x[:, None] if time_first else x[None]}
        if masked:
            batch["mask"] = masks[name][:, None] if time_first else masks[name][None]
        expected = definition(spec, model.weights, batch, options["lookahead"], size)
        parts = [outputs_of(spec, part) for part in found[name]]
        row = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert_close(row, {key: array[:, 0] if time_first else array[0] for key, array in expected.items()}, seed)


# --- models that people have ----------------------------------------------------------------------------------------


def bare_checkpoint(tmp_path):
    torch.manual_seed(0)
    torch.save(nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True).state_dict(), tmp_path / "net.pt")
    return rnncore.load(tmp_path / "net.pt")


def built(tmp_path, **options):
    rng = np.random.default_rng(0)

    def arrays():
        return {"weight_ih": rng.uniform(-0.5, 0.5, (24, 5)), "weight_hh": rng.uniform(-0.5, 0.5, (24, 6))}

    return rnncore.LSTM(**arrays(), reverse=arrays(), **options)


def traced(tmp_path):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(5, 6, bidirectional=True, batch_first=True), nn.Linear(12, 3)

        def forward(self, x):
            y, states = self.lstm(x)
            return self.fc(y), states

    torch.manual_seed(0)
    return Model(*from_torch(Tagger(), torch.zeros(2, 7, 5)))


def exported(tmp_path):
    """PyTorch's own ONNX file, whose states begin with zeros that it makes, and are outputs."""
    torch.manual_seed(0)
    module = nn.GRU(5, 6, num_layers=2, bidirectional=True)
    torch.onnx.export(
        module, (torch.zeros(7, 2, 5),), tmp_path / "net.onnx", dynamo=False, input_names=["x"],
        output_names=["y", "h"], dynamic_axes={"x": {0: "T", 1: "B"}},
    )  # fmt: skip
    return rnncore.load(tmp_path / "net.onnx")


def tagger(tmp_path):
    return rnncore.load("zoo:tagger")


REAL = {
    "a checkpoint": bare_checkpoint,
    "arrays": built,
    "a sum": lambda path: built(path, merge="sum"),
    "a module": traced,
    "an ONNX file": exported,
    "the zoo's tagger": tagger,
}


@pytest.mark.parametrize("name", REAL)
def test_real_models(name, tmp_path):
    model = REAL[name](tmp_path)
    spec, rng = model.spec, np.random.default_rng(1)
    entry, steps = spec.inputs[0], 40
    time_first = name == "an ONNX file"
    shape = [{"T": steps, "B": 2}.get(size, size) for size in entry.shape]
    if entry.dtype == "int64":
        x = rng.integers(0, 4, shape) * rng.integers(1, 10, shape)  # a padding among them here and there
    else:
        x = rng.standard_normal(shape).astype(np.float32)
    for options in ({"lookahead": 6}, {"lookahead": 3, "block": 8}, {"lookahead": steps}):
        size = options.get("block") or options["lookahead"]
        stream = model.stream(2, **options)
        found = [stream.feed(piece_of(x, piece, time_first)) for piece in cuts(rng, steps, 9)]
        expected = definition(spec, model.weights, {entry.name: x}, options["lookahead"], size)
        axis = 0 if time_first else 1
        parts = [outputs_of(spec, part) for part in [*found, stream.finish()]]
        found = {key: np.concatenate([part[key] for part in parts], axis) for key in parts[0]}
        expected = {key: array for key, array in expected.items() if key in found}
        assert_close(found, expected, f"{name}, {options}")
    whole = outputs_of(spec, model(x))
    assert all(equal(array, whole[key]) for key, array in found.items())  # which looked ahead to the end


# --- what only the end of the sequence decides ----------------------------------------------------------------------


def test_final_states_are_left_out(tmp_path):
    model = bare_checkpoint(tmp_path)
    x = np.random.default_rng(2).standard_normal((1, 9, 5)).astype(np.float32)
    stream, pool = model.stream(lookahead=2), model.pool(2, lookahead=2)
    pool.open("a")
    for found in (stream.feed(x), stream.finish(), pool.step({"a": x[0]})["a"], pool.finish("a")):
        assert list(found) == ["lstm"]
    with pytest.raises(UnsupportedError, match="lookahead=n"):
        model.stream()


def test_what_is_computed_from_them_is_left_out_too():
    nodes = [
        Recurrent("both", LSTM(I, 3), "x", direction="bidirectional"),
        Recurrent("one", GRU(I, 4), "x"),
        Node("ends", "Concat", ("both.last", "one.last"), {"axis": 1}),
        linear("head", "ends", 10, 2),
        linear("tags", "both", 6, 2),
    ]
    model = make(Spec([X], nodes, ["head", "tags", "one.last"]))
    found = model.stream(lookahead=2).feed(np.zeros((1, 9, I), np.float32))
    assert list(found) == ["tags", "one.last"]
    for outputs in (["head"], ["both.last"]):
        with pytest.raises(UnsupportedError, match=r"output .*node 'both' \(Recurrent\) has its final states only"):
            make(Spec([X], nodes, outputs)).stream(lookahead=2)
    spread = [*nodes, Node("wide", "Unsqueeze", "both.last", {"axes": (1,)}), Node("sum", "Add", ("both", "wide"))]
    with pytest.raises(UnsupportedError, match=r"node 'sum' \(Add\).*node 'both' \(Recurrent\) has its final states"):
        make(Spec([X], spread, ["sum", "tags"])).stream(lookahead=2)


def test_a_mask_that_waits_is_never_taken_for_another_piece():
    """A convolution that looks ahead before a layer with a mask: the mask's steps wait, in whatever piece they came."""
    turned = {"perm": (0, 2, 1)}
    conv = {"input_size": I, "output_size": I, "kernel_shape": (5,), "pads": (2, 2)}
    nodes = [
        Node("t", "Transpose", "x", turned), Node("c", "Conv", "t", conv), Node("b", "Transpose", "c", turned),
        Recurrent("r", GRU(I, 4), "b", mask="mask"),
    ]  # fmt: skip
    spec = Spec([X, Input("mask", "bool", ("B", "T"), optional=True)], nodes, ["r"])
    model, rng = make(spec), np.random.default_rng(3)
    x, mask = rng.standard_normal((2, 20, I)).astype(np.float32), rng.random((2, 20)) < 0.5
    mask[:, 7:13] = True
    stream = model.stream(2)
    found = [stream.feed(x[:, :7], mask=mask[:, :7]), stream.feed(x[:, 7:13])]
    found += [stream.feed(x[:, 13:], mask=mask[:, 13:]), stream.finish()]
    assert equal(np.concatenate(found, axis=1), model(x, mask=mask))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(InputError, match="mask"):
        built(None).stream(lookahead=2).feed(np.zeros((1, 4, 5), np.float32), mask=np.ones((1, 3), bool))


def test_a_look_ahead_is_only_advised_where_it_helps():
    assert "stream(lookahead=n)" in rnncore.load("zoo:tagger").unstreamable
    for name, other in (("speakers", "output 'probabilities.softmax'"), ("sentiment", r"node 'attention' \(Word")):
        with pytest.raises(UnsupportedError, match=f"'bidirectional'.* a look-ahead is not enough: .*{other}"):
            rnncore.load(f"zoo:{name}").stream()
