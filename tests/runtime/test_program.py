"""Bound programs: what calls of sizes that come again give, to the bit what the model's steps give, or their errors."""

import gc
import random
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from paths import ROOT
from random_networks import draw_inputs, draw_weights, random_network, seeds

from rnncore import Input, Model, Node, Recurrent, Spec, load, zoo
from rnncore.cells import GRU, LSTM
from rnncore.errors import InputError
from rnncore.kernels import _linear, _normalization, _program, _recurrent
from rnncore.kernels._program import Binding, Copy, Elements, Operand, Signatures, Softmax
from rnncore.ops import OPS, Value, numpy_dtype
from rnncore.ops.recording import record


def same(outputs, expected):
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        assert outputs[name].dtype == array.dtype, name
        np.testing.assert_array_equal(outputs[name], array, name)
        assert outputs[name].tobytes() == array.tobytes(), name


def by_steps(model, inputs, *state):
    program, model._program = model._program, None
    try:
        return model.run(inputs, *state)
    finally:
        model._program = program


def bound(model, inputs, *state):
    """The model, with a binding for such inputs."""
    for _ in range(2):
        model.run(inputs, *state)
    assert len(model._program.signatures)
    return model


def instructions(model):
    return [one for binding in model._program.signatures.bound.values() for one in binding.instructions]


def linear(name, read, inputs, outputs):
    return Node(name, "Linear", (read,), {"input_size": inputs, "output_size": outputs, "bias": True})


def decoder(layers=1, cell=GRU):
    """An embedding, recurrent layers with their states as inputs, a head: one step of a decoder."""
    states = cell(12, 20).states
    sizes = [Input(f"{key}0", "float", (layers, "B", 20)) for key in states]
    nodes = [
        Node("e", "Embedding", ("ids",), {"input_size": 30, "output_size": 12}),
        Recurrent("r", cell(12, 20), "e", layers=layers, initial=tuple(entry.name for entry in sizes)),
        linear("l", "r", 20, 30),
        Node("p", "LogSoftmax", ("l",), {"axis": -1}),
    ]
    spec = Spec([Input("ids", "int64", ("B", "T")), *sizes], nodes, ["p", *(f"r.{key}" for key in states)])
    return Model(spec, draw_weights(spec, np.random.default_rng(0)), num_threads=1)


def decoder_inputs(model, rng, batch=1, steps=1):
    given = {"ids": rng.integers(0, 30, (batch, steps))}
    for entry in model.inputs[1 : 1 + len(model.spec.recurrent[0].cell.states)]:
        given[entry.name] = rng.standard_normal((entry.shape[0], batch, 20)).astype(np.float32)
    return given


# --- the same bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(300))
def test_random_networks(seed):
    rng = np.random.default_rng(seed)
    batch, steps = (int(rng.integers(1, 6)) for _ in range(2))
    network = random_network(seed, batch, steps)
    model = Model(network.spec, network.weights, network.dtype, num_threads=1)
    inputs, given = network.given, () if seed % 3 else (network.state,)
    for _ in range(3):
        outputs, expected = model.run(inputs, *given), by_steps(model, inputs, *given)
        if given:
            (outputs, after), (expected, expected_after) = outputs, expected
            same(after.arrays, expected_after.arrays)
            given = (after,)
        same(outputs, expected)
        changed = draw_inputs(network.spec, rng, batch, steps)
        inputs = {name: changed.get(name, array).astype(array.dtype) for name, array in inputs.items()}


@pytest.mark.parametrize("name", zoo.models())
def test_zoo(name):
    model = load(f"zoo:{name}")
    spec, rng = model.spec, np.random.default_rng(1)
    sizes = {}
    for _ in range(3):
        inputs = {}
        for entry in spec.inputs:
            if entry.optional:
                continue
            shape = [size if isinstance(size, int) else sizes.setdefault(size, 3) for size in entry.shape]
            integers = rng.integers(1, 3, shape)
            inputs[entry.name] = (
                rng.uniform(-1, 1, shape).astype(np.float32) if entry.dtype == "float" else integers.astype(entry.dtype)
            )
        same(model.run(inputs), by_steps(model, inputs))


@pytest.mark.parametrize("cell", [GRU, LSTM])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_decoder_s_step(cell, layers):
    model, rng = decoder(layers, cell), np.random.default_rng(3)
    for batch, steps in [(1, 1), (3, 1), (1, 1), (2, 5), (3, 1), (2, 5), (1, 1)] * 2:
        inputs = decoder_inputs(model, rng, batch, steps)
        same(model.run(inputs), by_steps(model, inputs))
    assert len(model._program.signatures) == 3
    assert not [one for one in instructions(model) if isinstance(one, _program.Call)]


def test_arrays_that_are_not_plain():
    model, rng = decoder(), np.random.default_rng(4)
    inputs = decoder_inputs(model, rng, 4, 3)
    bound(model, inputs)
    expected = by_steps(model, inputs)
    other = {"ids": np.asfortranarray(inputs["ids"]).astype(np.int32), "h0": inputs["h0"][:, ::-1][:, ::-1]}
    read_only = {name: array.copy() for name, array in inputs.items()}
    for array in read_only.values():
        array.flags.writeable = False
    for given in (other, read_only, {name: array.tolist() for name, array in inputs.items()}):
        same(model.run(given), expected)


def test_outputs_are_the_caller_s():
    """No output shares memory with another one, with an input, or with the next call's."""
    split = Node("e", "Split", ("a",), {"axis": 1, "num_outputs": 2})
    spec = Spec(
        [Input("x", "float", ("B", 6))],
        [
            Node("a", "Relu", ("x",)),
            Node("b", "Reshape", ("a",), {"shape": (-1, 2, 3)}),
            Node("c", "Transpose", ("b",), {"perm": (0, 2, 1)}),
            Node("d", "Reshape", ("x",), {"shape": (-1, 3, 2)}),
            split,
        ],
        ["a", "b", "c", "d", *split.names, "a"],
    )
    model = Model(spec, {})
    for _ in range(4):
        x = np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32)
        outputs = model.run({"x": x})
        arrays = [x, *outputs.values()]
        same(outputs, by_steps(model, {"x": x}))
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        for array in outputs.values():
            array[...] = np.nan
    assert not [one for one in instructions(model) if isinstance(one, _program.Call)]


def test_what_sizes_decide_is_settled():
    """Positions, masks and shapes that are made of sizes alone are constants of the binding."""
    spec = Spec(
        [Input("x", "float", ("B", "T", 4))],
        [
            Node("s", "Shape", ("x",)),
            Node("t", "Gather", ("s",), {"indices": 1, "axis": 0}),
            Node("zero", "Constant", (), {"shape": (), "dtype": "int64"}),
            Node("one", "Constant", (), {"shape": (), "dtype": "int64"}),
            Node("r", "Range", ("zero", "t", "one")),
            Node("f", "Cast", ("r",), {"to": "float"}),
            Node("u", "Unsqueeze", ("f",), {"axes": (1,)}),
            Node("y", "Add", ("x", "u")),
        ],
        ["y"],
    )
    model = Model(spec, {"zero.value": np.array(0), "one.value": np.array(1)})
    for steps in (3, 5, 3, 5, 3, 5):
        x = np.random.default_rng(steps).standard_normal((2, steps, 4)).astype(np.float32)
        same(model.run({"x": x}), {"y": x + np.arange(steps, dtype=np.float32)[:, None]})
    assert [type(one) for one in instructions(model)] == [Elements, Elements]


def test_what_contents_decide_is_not_bound():
    nodes = [Node("zero", "Constant", (), {"shape": (1,), "dtype": "int64"}), Node("y", "Slice", ("x", "zero", "n"))]
    spec = Spec([Input("x", "float", ("N",)), Input("n", "int64", (1,))], nodes, ["y"])
    model = Model(spec, {"zero.value": np.zeros(1, np.int64)})
    for end in (2, 3, 4, 2, 5):
        x = np.arange(6, dtype=np.float32)
        same(model.run({"x": x, "n": np.array([end])}), {"y": x[:end]})


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_steps():
    model, rng = decoder(), np.random.default_rng(6)
    inputs = decoder_inputs(model, rng, 2, 2)
    bound(model, inputs)
    for wrong in ({"ids": np.array([[1, 30], [0, 0]])}, {"ids": np.array([[1, 2], [-1, 0]])}, {"h0": np.zeros(3)}):
        errors = []
        for run in (model.run, lambda given: by_steps(model, given)):
            with pytest.raises(InputError) as error:
                run({**inputs, **wrong})
            errors.append(str(error.value))
        assert errors[0] == errors[1]
        same(model.run(inputs), by_steps(model, inputs))  # which is as it was


def test_a_step_that_raises_leaves_the_binding_usable():
    """A step that is called in Python, which the last elements of its input make raise."""
    spec = Spec(
        [Input("x", "float", ("N", 3)), Input("i", "int64", ("N",))],
        [Node("y", "GatherND", ("x", "k")), Node("k", "Unsqueeze", ("i",), {"axes": (1,)})][::-1],
        ["y"],
    )
    model = Model(spec, {})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    bound(model, {"x": x, "i": np.array([0, 1])})
    for _ in range(3):
        with pytest.raises(InputError):
            model.run({"x": x, "i": np.array([0, 2])})
        same(model.run({"x": x, "i": np.array([1, 0])}), {"y": x[::-1]})


# --- the cache -----------------------------------------------------------------------------------------------------


def test_bindings_are_few():
    model, rng = decoder(), np.random.default_rng(7)
    for _ in range(2):
        for batch in range(1, 60):
            for _ in range(2):
                model.run(decoder_inputs(model, rng, batch))
            assert len(model._program.signatures) <= model._program.signatures.most
            assert len(model._program._seen) <= 64
    inputs = decoder_inputs(model, rng, 59)
    same(model.run(inputs), by_steps(model, inputs))


def test_sizes_that_seldom_come_make_no_bindings():
    """Sequences of fifty lengths in turn do not pay for bindings that others displace."""
    model, rng, made = decoder(), np.random.default_rng(7), []
    bind = model._program._bind
    model._program._bind = lambda *arguments: made.append(arguments[0]) or bind(*arguments)
    for _ in range(6):
        for steps in range(1, 51):
            model.run(decoder_inputs(model, rng, 1, steps))
    assert len(made) == model._program.signatures.most
    for _ in range(40):
        model.run(decoder_inputs(model, rng, 1, 50))
    assert len(made) == model._program.signatures.most + 1


def test_threads_share_a_binding():
    model, rng = decoder(2, LSTM), np.random.default_rng(8)
    given = [decoder_inputs(model, rng, 3, 2) for _ in range(6)]
    expected = [by_steps(model, inputs) for inputs in given]
    bound(model, given[0])
    failures = []

    def run(place):
        try:
            for i in range(200):
                same(model.run(given[(place + i) % 6]), expected[(place + i) % 6])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_steady_call_makes_its_outputs_and_nothing_else():
    model, rng = decoder(), np.random.default_rng(9)
    inputs = decoder_inputs(model, rng, 2, 3)
    bound(model, inputs)
    signatures = model._program.signatures
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(3):
            signatures.call(inputs, None, False)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(1000):
            signatures.call(inputs, None, False)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    outputs = sum(array.nbytes for array in model.run(inputs).values())
    assert after - before < 512
    assert peak - before < outputs + 2048


def test_no_python_frame_is_entered():
    model, rng = decoder(2, LSTM), np.random.default_rng(10)
    inputs = decoder_inputs(model, rng)
    bound(model, inputs)
    entered = []
    sys.setprofile(lambda frame, event, argument: entered.append(frame.f_code.co_name) if event == "call" else None)
    try:
        model._program.signatures.call(inputs, None, False)
    finally:
        sys.setprofile(None)
    assert not entered


# --- loops over elements -------------------------------------------------------------------------------------------

SPREADING = sorted(name for name, op in OPS.items() if op.spreads)
RECORDED = {
    *("Abs", "Add", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"),
    *("HardSigmoid", "HardSwish", "LeakyRelu", "Less", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu"),
    *("Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt"),
    *("Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "And", "Or", "Not", "Cast", "IsNaN"),
}
"""Ops that must become loops over blocks."""


def drawn(rng, dtype, shape):
    dtype = numpy_dtype(dtype)
    if dtype.kind == "f":
        numbers = rng.standard_normal(shape) * rng.choice([0.1, 1, 30], shape)
        odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])[rng.integers(0, 5, shape)]
        return np.where(rng.random(shape) < 0.1, odd, numbers).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 9, shape).astype(dtype)


def spread_shapes(rng, count):
    """Shapes that spread over each other, and what they give."""
    full = tuple(int(size) for size in rng.choice([1, 2, 3, 7], rng.integers(0, 4)))
    full = (*full, int(rng.choice([1, 5, 40, 600])))
    shapes = []
    for _ in range(count):
        cut = tuple(size if rng.random() < 0.7 else 1 for size in full)
        shapes.append(cut[rng.integers(0, len(cut)) :] if rng.random() < 0.3 else cut)
    return [full, *shapes[1:]]


def options(name, rng):
    attributes = dict(OPS[name].attributes)
    if name == "Cast":
        attributes["to"] = str(rng.choice(["float", "int64", "int32", "bool", "float64"]))
    if name == "BitShift":
        attributes["direction"] = "LEFT"
    if name in ("Gelu",):
        attributes["approximate"] = str(rng.choice(["none", "tanh"]))
    if name == "Clip":
        attributes.update(min=-1.0, max=2.0)
    return attributes


@pytest.mark.parametrize("name", SPREADING)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_recorded_ops(name):
    """A recording run over blocks gives the bits of the op, over all dtypes that it takes and shapes that spread."""
    op, rng, recorded = OPS[name], np.random.default_rng(11), 0
    count = max(1, op.arity[0]) if op.arity[1] < 4 else 3
    for _ in range(60):
        dtype = str(rng.choice(["float", "float64", "bool", "int64", "int32", "uint8"]))
        dtypes = ["bool" if (name, place) == ("Where", 0) else dtype for place in range(count)]
        shapes = spread_shapes(rng, count)
        try:
            attributes = options(name, rng)
            op.infer(attributes, [Value(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)])
        except Exception:
            continue
        arrays = [drawn(rng, dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
        run = op.compiled(attributes, {}, 1, np.float32, [Value(d, s) for d, s in zip(dtypes, shapes, strict=True)])
        with np.errstate(all="ignore"):
            expected = run(*arrays)
            recording = record(run, [(array.dtype, array.ndim) for array in arrays])
        if recording is None or not recording.steps or isinstance(expected, tuple):
            continue
        recorded += 1
        expected = np.asarray(expected)
        np.testing.assert_array_equal(played(recording, arrays, expected), expected)
        assert played(recording, arrays, expected).tobytes() == np.ascontiguousarray(expected).tobytes()
    assert recorded or name not in RECORDED


def played(recording, arrays, like):
    """The result of a recording by an instruction; the inputs transposed in memory, each in a slot of its own."""
    given = [np.asfortranarray(array) for array in arrays]
    operands = [Operand(i, 0, array.shape, array.strides, array.dtype) for i, array in enumerate(given)]
    y = np.empty(like.shape, recording.steps[-1].dtypes[-1])
    operands.append(Operand(len(given), 0, y.shape, y.strides, y.dtype))
    constants, count, registers = [], len(operands), len(recording.steps) - 1

    def place(argument):
        kind, what = argument
        if kind == "constant":
            constants.append(what)
            return count + registers + len(constants) - 1
        return what if kind == "input" else (count - 1 if what == registers else count + what)

    assert recording.outputs == [("step", registers)]
    steps = [
        (step.function, list(step.dtypes), [*map(place, step.arguments), place(("step", i))])
        for i, step in enumerate(recording.steps)
    ]
    return run_one(Elements(operands, constants, registers, steps), given, operands[-1])


def run_one(instruction, arrays, result):
    """The result of one instruction, whose operands are these arrays, slots 0, 1, ..., and the next slot."""
    binding = Binding([instruction], [*arrays, None], 0, [], [result])
    signatures = Signatures((), (), ("y",), (), 1)
    signatures.add(signatures.key([], False), binding)
    outputs, _ = signatures.call({}, None, False)
    return outputs["y"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax(dtype, logarithm):
    op, rng = OPS["LogSoftmax" if logarithm else "Softmax"], np.random.default_rng(12)
    for n in [*range(1, 70), 127, 128, 129, 300, 1000, 9000]:
        x = (rng.standard_normal((3, n)) * 10).astype(dtype)
        x[1, rng.random(n) < 0.2] = -np.inf
        with np.errstate(all="ignore"):
            expected = op.run({"axis": -1}, {}, x)
        operands = [Operand(i, 0, x.shape, x.strides, x.dtype) for i in range(2)]
        assert run_one(Softmax(*operands, logarithm), [x], operands[1]).tobytes() == expected.tobytes(), n


def test_copies():
    rng = np.random.default_rng(13)
    for _ in range(300):
        shape = tuple(rng.integers(0 if rng.random() < 0.1 else 1, 5, rng.integers(0, 6)))
        dtype = rng.choice(["float32", "float64", "bool", "int16"])
        whole = drawn(rng, {"float32": "float"}.get(dtype, dtype), tuple(2 * size for size in shape))
        source = whole[tuple(slice(None, None, int(rng.choice([-2, 2]))) for _ in shape)]
        source = source.transpose(rng.permutation(len(shape)))
        first = source.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        y = Operand(1, 0, source.shape, np.empty(source.shape, dtype).strides, dtype)
        copy = Copy(Operand(0, first, source.shape, source.strides, dtype), y)
        np.testing.assert_array_equal(run_one(copy, [whole], y), source)


def stack_call(x, y=None, state=None):
    """A call of a GRU of 6 units over 4 inputs."""
    model = Model(*stack_of_units())
    return _recurrent.StackCall(
        model._steps[0].stack, x, y, "set", False, False, () if state is None else (state,), (), 1
    )


def stack_of_units():
    spec = Spec([Input("x", "float", ("B", "T", 4))], [Recurrent("r", GRU(4, 6), "x")], ["r"])
    return spec, draw_weights(spec, np.random.default_rng(0))


def test_refused_operands():
    x = Operand(0, 0, (2, 3), (12, 4), "float32")
    for wrong in (
        lambda: Operand(0, 0, (2,), (4, 4), "float32"),
        lambda: Operand(-1, 0, (2,), (4,), "float32"),
        lambda: Copy(x, Operand(1, 0, (3, 2), (8, 4), "float32")),
        lambda: Copy(x, Operand(1, 0, (2, 3), (24, 8), "float64")),
        lambda: Elements([x, Operand(1, 0, (3,), (4,), "float32")], [], 0, [(np.abs, ["f4", "f4"], [0, 1])]),
        lambda: Elements([x, x], [], 0, [(np.abs, ["f4", "f4"], [0, 2])]),
        lambda: Elements([x, x], [], 0, [(np.abs, ["f8", "f8"], [0, 1])]),
        lambda: Elements([x, x], [], 0, [(np.add, ["f4", "f4"], [0, 1])]),
        lambda: Elements([x, x], [1.0], 0, [(np.abs, ["f4", "f4"], [0, 2])]),
        lambda: Elements([x, x], [], 1000, [(np.abs, ["f4", "f4"], [0, 1])]),
        lambda: Softmax(x, Operand(1, 0, (3, 2), (8, 4), "float32"), False),
        lambda: Softmax(Operand(0, 0, (2, 3), (4, 8), "float32"), x, False),
        lambda: _program.Rows(x, Operand(1, 0, (2,), (8,), "int64"), Operand(2, 0, (2, 4), (16, 4), "float32")),
        lambda: _program.Rows(x, Operand(1, 0, (2,), (4,), "int32"), Operand(2, 0, (2, 3), (12, 4), "float32")),
        lambda: _linear.MatrixCall(_linear.Matrix(np.ones((4, 2)), None, 1), x, Operand(1, 0, (2, 4), (16, 4), "f4")),
        lambda: _linear.MatrixCall(_linear.Matrix(np.ones((4, 3)), None, 1), x, Operand(1, 0, (4, 2), (8, 4), "f4")),
        lambda: _linear.MatrixCall(_linear.Matrix(np.ones((4, 3)), None, 1), x, Operand(1, 0, (2, 4), (16, 4), "f8")),
        lambda: _normalization.Normalize(x, x, 4, 1, 1, True, 1e-5, x),
        lambda: _normalization.Normalize(x, x, 3, 1, 1, True, 1e-5, x),
        lambda: _normalization.Normalize(x, x, 0, 1, 1, True, 1e-5, x),
        lambda: _program.Choice(x, [], [], []),
        lambda: _program.Body(Binding([], [None] * 9, 0, [], []), x, x),
        lambda: stack_call(Operand(0, 0, (2, 3, 5), (60, 20, 4), "float32")),
        lambda: stack_call(Operand(0, 0, (2, 3, 4), (48, 16, 8), "float32")),
        lambda: stack_call(Operand(0, 0, (0, 3, 4), (48, 16, 4), "float32")),
        lambda: stack_call(Operand(0, 0, (2, 3, 4), (48, 16, 4), "float64")),
        lambda: stack_call(
            Operand(0, 0, (2, 3, 4), (48, 16, 4), "float32"), Operand(1, 0, (2, 3, 5), (60, 20, 4), "f4")
        ),
        lambda: stack_call(
            Operand(0, 0, (2, 3, 4), (48, 16, 4), "float32"), None, Operand(1, 0, (1, 3, 6), (72, 24, 4), "f4")
        ),
        lambda: Binding([], [None], 0, [1], []),
        lambda: Binding([], [100], 10, [], []),
        lambda: Binding([], [None], 0, [], [Operand(2, 0, (1,), (4,), "float32")]),
    ):
        with pytest.raises(InputError):
            wrong()


def test_random_graphs():
    """Graphs of all ops, drawn as fuzzing draws them, over contents that change."""
    sys.path.insert(0, str(ROOT / "fuzz"))
    try:
        from targets import specs
    finally:
        sys.path.remove(str(ROOT / "fuzz"))
    for seed in seeds(1500):
        try:
            specs.run(random.Random(seed).randbytes(800))
        except Exception as error:
            assert type(error).__module__ == "rnncore.errors", (seed, error)


def test_large_settled_values_are_not_kept():
    """A view of one number as a million is a view in a binding too; what is made of it is made by each call."""
    spec = Spec(
        [Input("x", "float", ("B", 4))],
        [
            Node("n", "Shape", ("x",)),
            Node("size", "Constant", (), {"shape": (2,), "dtype": "int64"}),
            Node("one", "Constant", (), {"shape": (1, 1), "dtype": "float"}),
            Node("e", "Expand", ("one", "size")),
            Node("s", "ReduceSum", ("e",), {"axes": (0, 1), "keepdims": 0}),
            Node("y", "Add", ("x", "s")),
        ],
        ["y"],
    )
    weights = {"size.value": np.array([1 << 11, 1 << 10]), "one.value": np.ones((1, 1), np.float32)}
    model = Model(spec, weights)
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
        same(model.run({"x": x}), by_steps(model, {"x": x}))
    assert not instructions(model) or sum(array.nbytes for array in kept_arrays(model)) < 1 << 20


def kept_arrays(model):
    """What the bindings of a model keep, as the garbage collector sees it."""
    referents = gc.get_referents(*model._program.signatures.bound.values())
    return [one for entry in referents if isinstance(entry, list) for one in entry if isinstance(one, np.ndarray)]


def test_a_step_in_python_keeps_its_constants():
    """It gets the same arrays in each call, so that what it prepares of them once stays prepared."""
    spec = Spec(
        [Input("x", "uint8", ("B", 8))],
        [Node("w", "Constant", (), {"shape": (8, 3), "dtype": "int8"}), Node("y", "MatMulInteger", ("x", "w"))],
        ["y"],
    )
    model = Model(spec, {"w.value": np.arange(24).reshape(8, 3).astype(np.int8)})
    seen = []
    step = model._program.steps[-1]
    model._program.steps[-1] = lambda values, before, after: (seen.append(values["w"]), step(values, before, after))
    for _ in range(5):
        model.run({"x": np.ones((2, 8), np.uint8)})
    assert len(seen) == 4
    assert all(array is seen[0] for array in seen)
