"""Streams of what moves steps: slices, pads and concatenations along time, running sums, products by constants."""

import numpy as np
import paths
import pytest
import torch
from moved_modules import WRITTEN, Written
from stream_models import I, X, cuts, equal, make

import rnncore
from rnncore import Input, InputError, Model, Node, Recurrent, Spec, StreamError
from rnncore.cells import GRU
from rnncore.errors import UnsupportedError
from rnncore.export import from_torch

LATER = (1 << 31) - 1
GOLDEN = paths.GOLDEN / "moved"


class Drawn:
    """A random chain of nodes on values (B, T, I) that move steps, or (B, I, T) for those that look at windows."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], {}

    def emit(self, op, inputs, attributes, **weights):
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, attributes))
        self.weights.update({f"{name}.{key}": array for key, array in weights.items()})
        return name

    def constant(self, array):
        return self.emit("Constant", (), {"dtype": "float", "shape": array.shape}, value=array.astype(np.float32))

    def slice(self, x, start, end):
        return self.emit("Slice", x, {"starts": (start,), "ends": (end,), "axes": (1,)})

    def pad(self, x, begin, end):
        value = self.rng.choice([None, 0.5])
        return self.emit("Pad", x, {"pads": (0, begin, 0, 0, end, 0), "constant_value": value})

    def rows(self, steps):
        """So many steps for each row of the batch, of zeros or numbers."""
        sizes = self.emit("Shape", "x", {"start": 0, "end": 1})
        rest = self.emit("Constant", (), {"dtype": "int64", "shape": (2,), "value": (steps, I)})
        shape = self.emit("Concat", (sizes, rest), {"axis": 0})
        return self.emit("Expand", (self.constant(self.rng.standard_normal((1, steps, I))), shape), {})

    def move(self, x):
        """One step of the chain; returns the value and how many steps it has more than x."""
        n, k = (int(self.rng.integers(1, 4)) for _ in range(2))
        match int(self.rng.integers(0, 9)):
            case 0:
                return self.slice(x, n, LATER), -n
            case 1:
                return self.slice(x, 0, -n), -n
            case 2:
                return self.slice(x, n, -k), -n - k
            case 3:
                return self.pad(x, n, 0), n
            case 4:
                return self.pad(x, *(int(i) for i in self.rng.integers(-2, 3, 2))), None
            case 5:
                return self.emit("Concat", (self.rows(n), x), {"axis": 1}), n
            case 6:
                return self.emit("Concat", (self.rows(n), x, self.rows(k)), {"axis": -2}), n + k
            case 7:
                options = {"axis": 1, "exclusive": bool(self.rng.integers(0, 2))}
                return self.emit(self.rng.choice(["CumSum", "CumSum", "CumProd"]), x, options), 0
            case _:
                t = self.emit("Transpose", x, {"perm": (0, 2, 1)})
                weight = self.rng.uniform(-0.4, 0.4, (I, I, 3)).astype(np.float32)
                pads = [(2, 0), (1, 1), (2, 2)][self.rng.integers(0, 3)]
                options = {"input_size": I, "output_size": I, "kernel_shape": (3,), "pads": pads, "bias": False}
                c = self.emit("Conv", t, options, weight=weight)
                return self.emit("Transpose", c, {"perm": (0, 2, 1)}), sum(pads) - 2

    def network(self):
        x, grown = "x", 0
        for _ in range(int(self.rng.integers(1, 5))):
            x, more = self.move(x)
            grown = None if None in (grown, more) else grown + more
        outputs = [x]
        if grown == 0:  # as many steps as the input, which it meets again
            outputs.append(self.emit("Sub", ("x", x), {}))
        elif grown == 1:
            outputs.append(self.emit("Add", (self.slice(x, 1, LATER), "x"), {}))
        if self.rng.random() < 0.4:
            self.nodes.append(Recurrent("r", GRU(I, 4), outputs[-1]))
            outputs.append("r")
        spec = Spec([X], self.nodes, outputs)
        weights = {**make(spec).weights, **self.weights}
        return Model(spec, {name: weights[name] for name in spec.weight_shapes()})


def arrays(model, found):
    return found if isinstance(found, dict) else {model.spec.outputs[0]: found}


def whole_of(model, x):
    """The outputs; None where the sequence is too short for the model."""
    try:
        return arrays(model, model(x))
    except InputError as error:
        assert "smaller than the window" in str(error) or "could not be broadcast" in str(error)
        return None


def joined(model, parts, axis=1):
    parts = [arrays(model, part) for part in parts]
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}


@pytest.mark.parametrize("seed", range(80))
def test_any_cut_gives_the_whole(seed):
    model = Drawn(seed).network()
    rng = np.random.default_rng(seed)
    for steps in (0, 1, 2, int(rng.integers(3, 8)), 25):
        x = rng.standard_normal((2, steps, I)).astype(np.float32)
        whole = whole_of(model, x)
        if whole is None:
            continue
        stream = model.stream(2)
        parts = []
        for piece in cuts(rng, steps, 6):
            parts.append(stream.feed(x[:, piece]))
            if rng.random() < 0.2:
                saved, stream = stream.save(), model.stream(2)
                stream.load(saved)
        try:
            found = joined(model, [*parts, stream.finish()])
        except StreamError as error:  # sizes met that only fit because the sequence is so short
            assert "expected at least" in str(error) and steps < 12
            continue
        for name, array in whole.items():
            assert equal(found[name], array), f"{steps} steps: {name}: {found[name].shape}, expected {array.shape}"


@pytest.mark.parametrize("seed", range(80, 100))
def test_pools_with_rows_in_any_phase(seed):
    model = Drawn(seed).network()
    rng = np.random.default_rng(seed)
    pool = model.pool(4)
    given = {
        name: rng.standard_normal((steps, I)).astype(np.float32) for name, steps in zip("abc", (3, 9, 17), strict=True)
    }
    found, at = {name: [] for name in given}, dict.fromkeys(given, 0)
    for name in given:
        pool.open(name)
    while any(at[name] < len(x) for name, x in given.items()):
        some = [name for name in given if rng.random() < 0.7]
        chunks = {name: given[name][at[name] : at[name] + int(rng.integers(0, 5))] for name in some}
        for name, part in pool.step(chunks).items():
            at[name] += len(chunks[name])
            found[name].append(part)
    for name, x in given.items():
        parts = joined(model, [*found[name], pool.finish(name)], 0)
        for key, array in arrays(model, model(x[None])).items():
            assert equal(parts[key], array[0]), f"{name}: {key}"


# --- as people write it, and exporters ------------------------------------------------------------------------------


def written(how, path):
    """Names of what the outputs are, the module's outputs for x, and the model."""
    if how == "dynamo":  # recorded with its outputs by golden/moved/make.py: the exporter takes long
        stored = np.load(GOLDEN / "dynamo.npz")
        return list(WRITTEN), stored["x"], [stored[str(i)] for i in range(len(WRITTEN))], GOLDEN / "dynamo.onnx"
    torch.manual_seed(0)
    module, x = Written().eval(), torch.randn(2, 23, I)
    expected = [array.detach().numpy() for array in module(x)]
    if how == "from_torch":
        return list(WRITTEN), x.numpy(), expected, Model(*from_torch(module, x[:, :11]))
    sizes = {"x": {0: "B", 1: "T"}}
    torch.onnx.export(module, (x,), path / "net.onnx", dynamo=False, input_names=["x"], dynamic_axes=sizes)
    return list(WRITTEN), x.numpy(), expected, path / "net.onnx"


@pytest.mark.parametrize("how", ["from_torch", "dynamo", "torchscript"])
def test_as_people_write_it(how, tmp_path):
    names, x, outputs, model = written(how, tmp_path)
    model = model if isinstance(model, Model) else rnncore.load(model)
    rng = np.random.default_rng(0)
    whole = list(model(x).values())
    stream = model.stream(2)
    parts = [list(stream.feed(x[:, piece]).values()) for piece in cuts(rng, 23, 6)]
    parts.append(list(stream.finish().values()))
    for place, (what, expected) in enumerate(zip(names, outputs, strict=True)):
        found = np.concatenate([part[place] for part in parts], 1)
        assert equal(found, whole[place]), what
        assert np.abs(found - expected).max() < 1e-5, what
    assert stream.latency == 1  # of those that look at the next one


def test_causal_ones_answer_each_step_at_once():
    causal = [name for name in WRITTEN if "next" not in name and "window" not in name]
    for name in causal:
        stream = Model(*from_torch(Written([name]).eval(), torch.randn(2, 11, I))).stream()
        assert stream.latency == 0, name
        assert stream.feed(np.zeros((1, 1, I), np.float32)).shape[1] >= 1, name


# --- what cannot be, and by which name ------------------------------------------------------------------------------


def node(op, inputs="x", **attributes):
    return Node("n", op, inputs, attributes)


def sliced(start, end, step=1):
    return node("Slice", starts=(start,), ends=(end,), axes=(1,), steps=(step,))


REFUSED = {
    "the last three": ([sliced(-3, LATER)], "its start is counted from the end"),
    "every second": ([sliced(0, LATER, 2)], "each 2th step"),
    "backwards": ([sliced(-1, -LATER, -1)], "each -1th step"),
    "steps in the middle": ([sliced(2, 5)], "its end is counted from the beginning"),
    "the first five": ([sliced(0, 5), Node("o", "Relu", "n")], "'n' \\(Slice\\) is the first 5 steps"),
    "reflected": ([node("Pad", pads=(0, 2, 0, 0, 0, 0), mode="reflect")], "mode='reflect' pads with other steps"),
    "twice": ([node("Concat", ("x", "x"), axis=1)], "puts one sequence after another"),
    "a sum from the end": ([node("CumSum", axis=1, reverse=True)], "reverse=True begins with the end"),
    "the first behind the others": ([sliced(0, 1), Node("o", "Concat", ("x", "n"), {"axis": 1})], "'n' \\(Slice\\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what):
    nodes, words = REFUSED[what]
    spec = Spec([X], nodes, [nodes[-1].name])
    with pytest.raises(UnsupportedError, match=f"node '{nodes[-1].name}'.*{words}"):
        Model(spec, {}).stream()


def test_a_sequence_shorter_than_what_is_taken_from_its_beginning():
    nodes = [
        sliced(0, 1), Node("shape", "Shape", "n"), Node("zeros", "ConstantOfShape", "shape", {"dtype": "float"}),
        Node("rest", "Slice", "x", {"starts": (0,), "ends": (-1,), "axes": (1,)}),
        Node("o", "Concat", ("zeros", "rest"), {"axis": 1}),
    ]  # fmt: skip
    model = Model(Spec([X], nodes, ["o"]), {})
    with pytest.raises(StreamError, match="ends after 0 steps, expected at least 1"):
        model.stream().finish()
    pool = model.pool(2)
    pool.open("a")
    pool.step({"a": np.ones((0, I), np.float32)})
    with pytest.raises(StreamError, match="ends after 0 steps, expected at least 1"):
        pool.finish("a")


def test_sums_of_integers_and_long_ones():
    """A running sum keeps its bits over any number of pieces, -0.0 too."""
    spec = Spec([Input("x", "int64", ("B", "T"))], [node("CumSum", axis=1)], ["n"])
    model, x = Model(spec, {}), np.arange(40).reshape(2, 20) - 7
    stream = model.stream(2)
    assert equal(np.concatenate([stream.feed(x[:, t : t + 1]) for t in range(20)], 1), model(x))
    for exclusive in (False, True):
        model = Model(Spec([X], [node("CumSum", axis=1, exclusive=exclusive)], ["n"]), {})
        x = np.random.default_rng(0).standard_normal((1, 900, I)).astype(np.float32)
        x[:, :3] = -0.0
        stream = model.stream()
        assert equal(np.concatenate([stream.feed(x[:, t : t + 3]) for t in range(0, 900, 3)], 1), model(x))


@pytest.mark.parametrize("shape", [("T", "B", I), ("T", I), (1, "T", I), ("T", 1, I)])
def test_other_layouts(shape):
    """Time first; no batch, or one of 1: streams alone, and pools, whose rows then run one by one."""
    axis = shape.index("T")
    more = tuple(1 if size == "T" else size for size in shape)
    rows = [2 if size == "B" else size for size in more]
    nodes = [
        Node("pad", "Pad", "x", {"pads": tuple(int(at == axis) * 2 for at in range(len(shape))) + (0,) * len(shape)}),
        Node("cut", "Slice", "pad", {"starts": (0,), "ends": (-2,), "axes": (axis,)}),
        Node("sum", "CumSum", "cut", {"axis": axis, "exclusive": True}),
        Node("first", "Slice", "x", {"starts": (0,), "ends": (1,), "axes": (axis,)}),
        Node("rest", "Slice", "x", {"starts": (0,), "ends": (-1,), "axes": (axis,)}),
        Node("before", "Concat", ("first", "rest"), {"axis": axis}),
        Node("both", "Add", ("sum", "before")),
        Node("rows", "Unsqueeze", "both", {"axes": (1,)}) if len(shape) == 2 else Node("rows", "Relu", "both"),
        Recurrent("r", GRU(I, I), "rows", layout="time_first" if axis == 0 else "batch_first"),
        Node("y", "Squeeze", "r", {"axes": (1,)}) if len(shape) == 2 else Node("y", "Relu", "r"),
    ]
    model = make(Spec([Input("x", "float", shape)], nodes, ["y"]))
    rng = np.random.default_rng(0)
    x = rng.standard_normal([17 if size == "T" else size for size in [*rows[:axis], "T", *rows[axis + 1 :]]])
    x = x.astype(np.float32)
    whole, batch = model(x), 2 if "B" in shape else 1
    stream = model.stream(batch)
    parts = [stream.feed(x[(slice(None),) * axis + (piece,)]) for piece in cuts(rng, 17, 5)]
    assert equal(np.concatenate([*parts, stream.finish()], axis), whole)
    pool, alone = model.pool(2), x.take(0, shape.index("B")) if "B" in shape else x.reshape(17, I)
    pool.open("a"), pool.open("b")
    found = {"a": [], "b": []}
    for piece in cuts(rng, 17, 5):
        for name, part in pool.step({"a": alone[piece], "b": alone[piece]}).items():
            found[name].append(part)
    for name, parts in found.items():
        parts.append(pool.finish(name))
        assert equal(np.concatenate(parts), whole.take(0, shape.index("B")) if "B" in shape else whole.reshape(17, I))
