"""Whatever an attribute, an input or a Spec holds: the right value, or an error of rnncore's that says where."""

import contextlib
import copy
import json
import math

import numpy as np
import pytest
from every_op import dtype_name, example, spec_of, weights_of
from random_networks import seeds
from wrong_values import JSON_VALUES, OBJECTS, assert_ours

from rnncore.errors import FormatError, InputError, RnncoreError, SpecError, shown
from rnncore.files.strict_json import read_json
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS
from rnncore.ops.schema import Integers
from rnncore.runtime.model import Model

SMALL = 10**5  # elements: what larger values ask for is not made here
BELONGS = ("node 'op'", "x")


def run_small(spec, given):
    """Compile and run a Spec where it asks for little."""
    sizes = [size for value in spec.values.values() for size in value.shape if isinstance(size, int)]
    shapes = [*spec.weight_shapes().values(), *(value.shape for value in spec.values.values())]
    elements = max(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
    if max(sizes, default=0) <= 1000 and elements <= SMALL:
        Model(spec, weights_of(spec)).run(given)


def is_small(value):
    """Whether nothing in an attribute could ask for much work."""
    if isinstance(value, (list, tuple)):
        return len(value) < 100 and all(map(is_small, value))
    return not isinstance(value, (int, float)) or not abs(value) > 1000


# --- schemas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_attribute_has_a_schema(op):
    """Each accepts its own default and refuses what no attribute can be; what may be absent has None as its default."""
    schema = OPS[op].schema
    assert list(schema) == list(OPS[op].attributes)
    for name, kind in schema.items():
        assert OPS[op].attributes[name] is kind.default
        if kind.default is not ...:
            kind.check(name, kind.default)
        for wrong in (object(), {}, {"a": 1}, b"1", 1j, ((1,),), ([1],), ("\ud800",), "\ud800", 10**400):
            with pytest.raises(SpecError, match=f"^{name}=.*, expected ") as caught:
                kind.check(name, wrong)
            assert_ours(caught.value, name)
    assert OPS[op].parameters == {name: kind.position for name, kind in schema.items() if kind.position is not None}


@pytest.mark.parametrize("op", sorted(OPS))
def test_examples_run(op):
    """The nodes that the other tests change are right before."""
    spec, given = spec_of(op, *example(op))
    found = Model(spec, weights_of(spec)).run(given)
    for name, array in found.items():
        value = spec.values[name]
        assert dtype_name(array) == value.dtype and len(value.shape) == array.ndim
        assert all(isinstance(size, str) or size == n for size, n in zip(value.shape, array.shape, strict=True))


@pytest.mark.parametrize("op", sorted(op for op in OPS if OPS[op].attributes))
def test_wrong_attributes(op):
    """Every attribute, replaced by everything: refused by name when the Spec is made, or it runs or says why not."""
    attributes, arrays = example(op)
    for name in OPS[op].attributes:
        for value in (*JSON_VALUES, *OBJECTS):
            try:
                spec, given = spec_of(op, {**attributes, name: value}, arrays)
                hash(spec)
                text = json.dumps(spec.to_json())
                assert json.dumps(Spec.from_json(text).to_json()) == text
                if is_small(value):
                    run_small(spec, given)
            except RnncoreError as error:
                assert_ours(error, "node 'op'")


# --- what a run is given -------------------------------------------------------------------------------------------


def drawn_inputs(rng, op):
    """Attributes, arrays and declared shapes of a node whose inputs say little of what they will be."""
    attributes, arrays = example(op)
    for name, position in OPS[op].parameters.items():
        if attributes.get(name) is not None and rng.random() < 0.5:
            value = np.array(attributes.pop(name))
            arrays += [None] * (position + 1 - len(arrays))
            arrays[position] = value.astype(np.float32) if value.dtype.kind == "f" else value
    shapes = {}
    for place, array in enumerate(arrays):
        if array is not None:
            rank = array.ndim if rng.random() < 0.8 else int(rng.integers(0, 8))
            rank = int(rng.integers(8, 65)) if rng.random() < 0.03 else rank
            names = tuple("?" if rng.random() < 0.8 else f"n{rng.integers(3)}" for _ in range(rank))
            shapes[f"x{place}"] = array.shape if rank == array.ndim and rng.random() < 0.4 else names
    return attributes, arrays, shapes


def drawn_array(rng, like, shape):
    """An array of a dtype, of a shape where it is fixed and else near that of ``like``; indices may be anything."""
    small = len(shape) < 8
    sizes = [
        size if isinstance(size, int)
        else like.shape[axis] if axis < like.ndim and rng.random() < 0.7
        else int(rng.integers(0, 5)) if small
        else int(rng.random() < 0.9)
        for axis, size in enumerate(shape)
    ]  # fmt: skip
    if like.dtype.kind == "f":
        found = rng.standard_normal(sizes)
    elif like.dtype.kind == "b" or like.dtype.itemsize == 1:
        found = rng.integers(0, 200, sizes) % (2 if like.dtype.kind == "b" else 256)
    else:
        found = rng.integers(*((-3, 9) if rng.random() < 0.5 else (0, 3)), sizes)
    return np.asarray(found, like.dtype)


@pytest.mark.parametrize("op", sorted(OPS))
def test_sizes_that_only_the_run_knows(op):
    """Ranks from 0 to 64, sizes from 0, indices beyond: a result of the rank and dtype inferred, or an InputError."""
    rng = np.random.default_rng([16, *map(ord, op)])
    for _ in seeds(15):
        attributes, arrays, shapes = drawn_inputs(rng, op)
        try:
            spec, _ = spec_of(op, attributes, arrays, shapes)
            model = Model(spec, weights_of(spec), "float64" if rng.random() < 0.1 else "float32")
        except RnncoreError as error:
            assert_ours(error, "node 'op'")
            continue
        given = {name: drawn_array(rng, arrays[int(name[1:])], shape) for name, shape in shapes.items()}
        try:
            found = model.run(given)
        except InputError as error:
            assert_ours(error, "node 'op'", "x")
            continue
        for name, array in found.items():
            assert array.ndim == len(spec.values[name].shape), (op, attributes, given)
            assert array.dtype.kind == np.dtype(spec.values[name].dtype).kind


GIVEN = [
    *(Input(f"f{rank}", "float", shape) for rank, shape in enumerate(((), ("a",), ("a", "b"), ("a", "b", 4)))),
    *(Input(f"g{rank}", "float", ("a", 4, "b", "c", "d")[:rank]) for rank in (4, 5)),
    *(Input(f"{name}{rank}", name, ("a", "b", "?")[:rank]) for name in ("int64", "uint8", "bool") for rank in range(4)),
]
HEAVY = {"Range", "ConstantOfShape", "Expand", "Tile", "OneHot", "Pad", "Resize", "Upsample"}
"""What makes as much as a number among its inputs says."""


def drawn_graph(rng):
    """Nodes of random ops on whatever their inputs' dtypes accept: values given, and of earlier nodes."""
    values = {entry.name: entry.value for entry in GIVEN}
    nodes, kinds = [], sorted(OPS)
    for _ in range(60):
        attributes, arrays = example(op := kinds[rng.integers(len(kinds))])
        inputs = []
        for array in arrays:
            fits = [name for name, value in values.items() if array is not None and value.dtype == dtype_name(array)]
            new = [name for name in fits if name in {value for node in nodes for value in node.names}]
            fits = new if new and rng.random() < 0.6 and op not in HEAVY else fits
            inputs.append(fits[rng.integers(len(fits))] if fits else "")
        with contextlib.suppress(RnncoreError, KeyError):
            node = Node(f"n{len(nodes)}", op, inputs, attributes)
            values.update(node.infer(values))
            nodes.append(node)
        if len(nodes) == 8:
            break
    return Spec(GIVEN, nodes, [node.name for node in nodes])


@pytest.mark.parametrize("seed", seeds(100))
def test_random_graphs(seed):
    """Ops one behind the other, run with sizes of which many do not fit: outputs as inferred, or an InputError."""
    rng = np.random.default_rng([18, seed])
    spec = drawn_graph(rng)
    model = Model(spec, weights_of(spec))
    for _ in range(3):
        sizes = {name: int(rng.integers(0, 5)) for name in "abcd"}
        given = {}
        for entry in GIVEN:
            shape = [sizes.get(size, 2) if isinstance(size, str) else size for size in entry.shape]
            dtype = "float32" if entry.dtype == "float" else entry.dtype
            given[entry.name] = np.asarray(rng.integers(0, 3, shape)).astype(dtype)
        try:
            found = model.run(given)
        except InputError as error:
            assert_ours(error, "node 'n")
            continue
        for name, array in found.items():
            assert array.ndim == len(spec.values[name].shape), name
            assert array.dtype.kind == np.dtype(spec.values[name].dtype).kind, name


# --- Specs as JSON -------------------------------------------------------------------------------------------------

STATE = [{"name": name, "dtype": "float", "shape": ["B", 3]} for name in ("h", "w")]
LOOP = {
    "inputs": [{"name": "i", "dtype": "int64", "shape": []}, {"name": "on", "dtype": "bool", "shape": []}, *STATE],
    "nodes": [{"name": "a", "op": "Add", "inputs": ["h", "w"]}],
    "outputs": ["on", "a", "a"],
}
SIDE = {
    "inputs": STATE[1:],
    "nodes": [{"name": "r", "op": "Relu", "inputs": ["w"]}],
    "outputs": ["r"],
}
SCAN = {
    "inputs": [STATE[0], {"name": "e", "dtype": "float", "shape": ["B", 4]}],
    "nodes": [{"name": "g", "op": "Relu", "inputs": ["h"]}],
    "outputs": ["g", "e"],
}
DOCUMENT = {
    "format": 1,
    "inputs": [
        {"name": "x", "dtype": "float", "shape": ["B", "T", 4]},
        {"name": "memory", "dtype": "float", "shape": ["B", "K", 4]},
        {"name": "n", "dtype": "int64", "shape": []},
        {"name": "yes", "dtype": "bool", "shape": []},
        {"name": "seen", "dtype": "bool", "shape": ["B", "K"], "optional": True},
    ],
    "nodes": [
        {
            "name": "lstm",
            "op": "Recurrent",
            "cell": {
                **{"kind": "LSTM", "input_size": 4, "hidden_size": 3, "bias": True, "peephole": True, "clip": 3.0},
                **{"activations": ["sigmoid", {"name": "hard_sigmoid", "alpha": 0.2, "beta": 0.5}, *["tanh"] * 3]},
                **{"coupled": "input", "projection": 2, "projection_bias": True, "cell_clip": 2.0, "proj_clip": 1.0},
                **{"forget_bias": 1.0, "layer_norm": "tflite", "layer_norm_epsilon": 1e-6},
            },
            "reverse_cell": {"kind": "LSTM", "input_size": 4, "hidden_size": 3, "projection": 2},
            **{"input": "x", "layers": 2, "direction": "bidirectional", "merge": "sum", "layout": "batch_first"},
            **{"lengths": "lengths", "mask": "mask", "masked_output": "zero", "output_order": "time"},
            "trained_state": True,
        },
        {
            **{"name": "gru", "op": "Recurrent", "input": "x", "initial": [], "lengths": None},
            "cell": {"kind": "GRU", "input_size": 4, "hidden_size": 3, "reset_after": True},
        },
        {
            **{"name": "decoder", "op": "AttentionDecoder", "input": "x", "memory": "memory", "memory_size": 4},
            "cell": {"kind": "GRU", "input_size": 8, "hidden_size": 3},
            **{"attention": "bahdanau", "attention_size": 3, "attention_bias": True, "order": "before"},
            **{"attentional_size": 3, "attentional_bias": True, "layers": 1, "memory_mask": "seen", "initial": []},
        },
        {"name": "relu", "op": "Relu", "inputs": ["lstm.last"]},
        {
            **{"name": "linear", "op": "Linear", "inputs": ["gru.last"]},
            "attributes": {"input_size": 3, "output_size": 3, "bias": False},
        },
        {
            **{"name": "loop", "op": "Loop", "inputs": ["n", "yes", "linear", "linear"], "captures": ["w"]},
            "branches": [LOOP],
        },
        {"name": "if", "op": "If", "inputs": ["yes", "linear"], "captures": ["w"], "branches": [SIDE, SIDE]},
        {
            **{"name": "scan", "op": "Scan", "inputs": ["linear", "x"], "branches": [SCAN], "sequences": 1},
            **{"axes": [1], "output_axes": [1], "backward": [False], "output_backward": [True]},
        },
    ],
    "outputs": ["decoder", "relu", "loop", "loop.1", "if", "scan", "scan.1"],
}


def paths(value, at=()):
    """The way to everything in a JSON value."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*at, key))


def changed(path, value):
    """The document with something else at a path."""
    if not path:
        return value
    found = copy.deepcopy(DOCUMENT)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def small_inputs(spec):
    """Inputs of a Spec whose free sizes are 2."""
    shapes = {entry.name: [2 if isinstance(size, str) else size for size in entry.shape] for entry in spec.inputs}
    dtypes = {entry.name: "float32" if entry.dtype == "float" else entry.dtype for entry in spec.inputs}
    return {name: np.full(shape, 1 if dtypes[name] == "float32" else 2, dtypes[name]) for name, shape in shapes.items()}


def test_the_document_runs():
    spec = Spec.from_json(DOCUMENT)
    assert len(Model(spec, weights_of(spec)).run(small_inputs(spec))) == 7
    for kind in ("Recurrent", "AttentionDecoder", "Loop", "If", "Scan", "Linear"):
        assert any(node["op"] == kind for node in DOCUMENT["nodes"])


@pytest.mark.parametrize("top", [(), *((key,) for key in DOCUMENT), *(("nodes", at) for at in range(8))], ids=str)
def test_everything_in_a_spec_replaced_by_everything(top):
    """Names, sizes, options, nodes, branches: an error, or a Spec that its JSON gives again, and which runs or not."""
    rng = np.random.default_rng([17, len(str(top))])
    places = [path for path in paths(DOCUMENT) if path[: len(top)] == top and (top != ("nodes",) or len(path) < 2)]
    values = [*JSON_VALUES, *OBJECTS]
    for path in places if top else [()]:
        for _ in seeds(6):
            value = values[rng.integers(len(values))]
            try:
                spec = Spec.from_json(changed(path, value))
                assert Spec.from_json(json.dumps(spec.to_json())) == spec
                if is_small(value):
                    run_small(spec, small_inputs(spec))
            except RnncoreError as error:
                assert_ours(error, "")


@pytest.mark.parametrize("name", ["", "\x00", "a\nb", "\ud800", "x" * 1_000_000, "\u202e", 5, None, ["x"], {}])
def test_names_that_are_none(name):
    for path in (("inputs", 0, "name"), ("nodes", 3, "name"), ("nodes", 0, "name"), ("nodes", 5, "name")):
        with pytest.raises(SpecError, match=r"name .*, expected a printable string") as caught:
            Spec.from_json(changed(path, name))
        assert_ours(caught.value, "")


# --- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"b": [{"a": 1, "c": 2, "a": 1}]}', "the key 'a' occurs twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[Infinity]", "Infinity is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("[1e5,]", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('"\\ud800"', "not valid Unicode"),
        ('{"\\udfff": 1}', "not valid Unicode"),
        ('"\ud800"', "not valid Unicode"),
    ],
)
def test_json_that_is_none(text, says):
    with pytest.raises(FormatError, match=f"^here: .*{says}") as caught:
        read_json(text, "here")
    assert_ours(caught.value, "here")


def test_json_that_is_some():
    assert read_json('{"a": [1, 2.5, "\\ud83d\\ude00", "\U0001f600", null]}', "") == {"a": [1, 2.5, *["😀"] * 2, None]}
    assert read_json("[Infinity]", "", constants=True) == [math.inf]
    assert read_json(b"9" * 300, "") == int("9" * 300)


def test_duplicate_keys_of_a_spec():
    """At every level: readers of JSON differ in which one counts."""
    text = json.dumps(DOCUMENT)
    assert Spec.from_json(text) == Spec.from_json(DOCUMENT)
    for key in ("format", "name", "op", "cell", "hidden_size", "alpha", "shape", "attributes", "branches", "outputs"):
        twice = text.replace(f'"{key}": ', f'"{key}": 1, "{key}": ', 1)
        with pytest.raises(SpecError, match=f"Spec: not JSON: the key '{key}' occurs twice"):
            Spec.from_json(twice)


# --- errors of a step ----------------------------------------------------------------------------------------------


def test_what_does_not_fit_in_memory():
    """The node, the bytes and the shape stand in the error; nothing is behind it."""
    spec, given = spec_of("Expand", {"shape": (1 << 22, 1 << 22, 1, 1)}, example("Expand")[1])
    with pytest.raises(InputError, match=r"node 'op' \(Expand\): .* would need 844,424,930,131,968 bytes") as caught:
        Model(spec, {}).run(given)
    assert_ours(caught.value, "node 'op'")


def test_interrupts_pass_through():
    """What is no fault of the inputs is not turned into one."""
    spec, given = spec_of("Relu", *example("Relu"))
    for error in (KeyboardInterrupt, SystemExit, DeprecationWarning):

        class Raises(np.ndarray):
            def __array_ufunc__(self, *args, _error=error, **options):
                raise _error("not yours")

        step = Model(spec, {})._steps[0]
        with pytest.raises(error, match="not yours"):
            step({"x0": given["x0"].view(Raises)}, None, {})


def test_shown():
    """Any value as text for a message: short, and no repr's own error."""

    class Silent:
        def __repr__(self):
            raise RuntimeError

    for value in (*JSON_VALUES, *OBJECTS, Silent(), {"a": Silent()}):
        assert len(shown(value)) < 2000
        shown(value).encode()
    assert shown("T") == "'T'" and shown([1, 2]) == "[1, 2]" and shown(10**5000) == "an integer of 16610 bits"
    assert Node("n", "Relu", "x").inputs == ("x",)
    with contextlib.suppress(SpecError):
        Node(Silent(), "Relu", "x")


def test_limits_of_a_kind():
    """Those that are not given are the kind's own; what is no limit of it is an error where the op is declared."""
    sizes = Integers(None, least=1, longest=3)
    assert (sizes.default, sizes.least, sizes.longest, sizes.single) == (None, 1, 3, False)
    changed = sizes.replace(default=..., least=0, position=2)
    assert (changed.default, changed.least, changed.longest, changed.position) == (..., 0, 3, 2)
    assert sizes.least == 1 and Integers().least < 0 and changed.accepts((0, 0, 0)) and not sizes.accepts((0,))
    with pytest.raises(TypeError, match="Integers has no limit 'lest'"):
        Integers(lest=1)
