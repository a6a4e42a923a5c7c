"""inspect's line "over time" and ``stream()`` agree: for every op, random graphs, the zoo and the tests' own models."""

import json
import random
import re

import numpy as np
import pytest
from click.testing import CliRunner
from draw import Draw
from every_op import example, spec_of
from every_op import weights_of as ones_of
from op_forms import CASES
from random_networks import draw_inputs, draw_weights, random_network, seeds
from step_models import PAIRS, signal_model, step_model
from stream_models import SPECS, make
from targets._graphs import drawn_graph
from targets._runs import inputs_of, weights_of
from window_models import WINDOWS

import rnncore
from rnncore import Input, Model, Node, Recurrent, Spec, zoo
from rnncore.cells import GRU
from rnncore.cli.application import application
from rnncore.cli.output import limited
from rnncore.errors import RnncoreError, UnsupportedError
from rnncore.ops import OPS
from rnncore.streaming.flow import plan

STREAMS = "it can run step by step, as a stream"


def inspected(path, *options):
    result = CliRunner().invoke(application, ["inspect", *options, str(path)], prog_name="rnncore")
    assert result.exit_code == 0, result.output
    return result.stdout


def check_line(model, path):
    """inspect says what ``unstreamable`` does, of the same node, which the model has."""
    (line,) = [line for line in inspected(path).splitlines() if line.startswith("over time: ")]
    reason = model.unstreamable
    assert line == f"over time: {STREAMS if reason is None else limited(reason)}"
    named = re.match(r"node '(.*?)' \(", reason or "")
    assert named is None or named[1] in [node.name for node in model.spec.nodes]
    if reason is not None and reason.endswith("it needs the whole sequence"):
        nodes = json.loads(inspected(path, "--json"))["nodes"]
        (seen,) = [node["time"] for node in nodes if node["name"] == named[1]]
        assert seen in ("whole", ""), "a node that needs all steps, or gives none"


def check_refused(model):
    with pytest.raises(UnsupportedError) as caught:
        model.stream()
    assert str(caught.value) == model.unstreamable


def check_streams(model, given, what=""):
    """Pieces of a model that inspect calls streamable, joined, are the outputs of the whole."""
    flows = plan(model.spec).flows
    whole = model.run(given)
    steps = {name: flows[name] for name in given if flows[name].kind == "steps"}
    once = {name: array for name, array in given.items() if flows[name].kind == "static"}
    count = next(given[name].shape[flow.time] for name, flow in steps.items())
    batch = next((given[name].shape[flow.batch] for name, flow in steps.items() if flow.batch is not None), 1)
    stream = model.stream(batch, inputs=once)
    given_out = []
    for piece in (range(1), range(1, 1), range(1, count)):
        pieces = {name: given[name].take(piece, flow.time) for name, flow in steps.items()}
        given_out.append(stream.feed(pieces if len(pieces) > 1 else next(iter(pieces.values()))))
    given_out.append(stream.finish())
    for name in model.spec.outputs:
        parts = [out if not isinstance(out, dict) else out.get(name) for out in given_out]
        if parts[0] is None:  # known at the end alone
            continue
        joined = parts[-1] if flows[name].time is None else np.concatenate(parts, flows[name].time)
        np.testing.assert_allclose(joined, whole[name], 1e-4, 1e-5, err_msg=f"{what}: {name}")


def open_stream(model, given):
    """Open a stream and close it. given: inputs, of which those without steps are used."""
    flows = plan(model.spec).flows
    model.stream(inputs={name: array for name, array in given.items() if flows[name].kind == "static"}).close()


def over_steps(op, attributes, arrays):
    """A model of one node whose first input, and those of its shape, have a batch and a time; None if there is none."""
    first = arrays[0].shape
    longer = 3 if first[1] == 1 else 1  # a Squeeze asks for more than one step
    shapes = {
        f"x{place}": ("B", "T", *first[2:]) if array.shape == first else array.shape
        for place, array in enumerate(arrays)
        if array is not None
    }
    arrays = [array.repeat(longer, 1) if getattr(array, "shape", None) == first else array for array in arrays]
    try:
        spec, given = spec_of(op, attributes, arrays, shapes)
        weights = draw_weights(spec, np.random.default_rng(1))
        dtypes = spec.weight_dtypes()
        weights = {name: array.astype(dtypes.get(name, "float32")) for name, array in weights.items()}
        return Model(spec, weights), given
    except RnncoreError:
        return None


OF_STEPS = [case for case in CASES if case[2] and case[2][0] is not None and case[2][0].ndim > 1]


@pytest.mark.parametrize("op, attributes, arrays", OF_STEPS, ids=[f"{n}-{case[0]}" for n, case in enumerate(OF_STEPS)])
def test_forms_of_every_op(op, attributes, arrays):
    """A model that is said to stream streams; another is refused with the same words."""
    model, given = over_steps(op, attributes, arrays) or pytest.fail("refused")
    if model.unstreamable is not None:
        check_refused(model)
    else:
        check_streams(model, given, op)


FIRST_FORMS = {op: (attributes, arrays) for op, attributes, arrays in reversed(CASES)}


@pytest.mark.parametrize("op", sorted(OPS))
def test_line_of_every_op(op, tmp_path):
    attributes, arrays = FIRST_FORMS.get(op) or example(op)
    made = over_steps(op, attributes, arrays) if (op, attributes, arrays) in OF_STEPS else None
    if made is None:  # of no inputs, of vectors, or of fixed sizes
        spec, _ = spec_of(op, attributes, arrays)
        made = Model(spec, ones_of(spec)), {}
    check_line(made[0], rnncore.save(tmp_path / "m.safetensors", made[0]))


def own_models():
    """Models of the tests, with what they are asked about."""
    x = Input("x", "float", ("B", "T", 5))
    yield from ((name, lambda spec=spec: make(spec)) for name, spec in SPECS.items())
    yield from ((name, lambda spec=spec: make(spec)) for name, (spec, _) in WINDOWS.items())
    yield "a cell of ops", lambda: step_model("B").over_time(PAIRS, given={"gain": 0.1})
    yield "a signal", lambda: signal_model("B").over_time({"state": "state_next"}, chunk=4, context=2)
    yield "a softmax", lambda: make(Spec([x], [Node("p", "Softmax", "x", {"axis": 1})], ["p"]))
    yield "a third free size", lambda: make(third_free_size())


def third_free_size():
    """A convolution over time and over a frequency of any size, of which a stream would have to keep steps."""
    attributes = {"input_size": 1, "output_size": 2, "kernel_shape": (3, 1), "pads": (2, 0, 0, 0)}
    inputs = [Input("x", "float", ("B", 1, "T", "F")), Input("z", "float", ("B", "T", 5))]
    return Spec(inputs, [Node("c", "Conv", "x", attributes), Recurrent("r", GRU(5, 2), "z")], ["c", "r"])


OWN = dict(own_models())


@pytest.mark.parametrize("name", OWN)
def test_own_models(name, tmp_path):
    model = OWN[name]()
    check_line(model, rnncore.save(tmp_path / "m.safetensors", model))
    if model.unstreamable is None:
        model.stream().close()
    else:
        check_refused(model)


@pytest.mark.parametrize("name", zoo.models())
def test_zoo(name):
    model = rnncore.load(f"zoo:{name}")
    check_line(model, f"zoo:{name}")
    if model.unstreamable is not None:
        check_refused(model)
        return
    sizes, rng = {"B": 2, "T": 6}, np.random.default_rng(1)
    given = {}
    for entry in model.inputs:
        shape = [sizes.get(size, 3) if isinstance(size, str) else size for size in entry.shape]
        if entry.dtype == "float" and not entry.optional:
            given[entry.name] = rng.standard_normal(shape).astype(np.float32)
        elif not entry.optional:
            given[entry.name] = rng.integers(1, 4, shape).astype(entry.dtype)
    check_streams(model, given, name)


@pytest.mark.parametrize("seed", seeds(12))
def test_random_networks(seed, tmp_path):
    network = random_network(seed)
    model = Model(network.spec, network.weights)
    check_line(model, rnncore.save(tmp_path / "m.safetensors", model))
    if model.unstreamable is None:
        open_stream(model, draw_inputs(model.spec, np.random.default_rng(seed), 1, 3))
    else:
        check_refused(model)


@pytest.mark.parametrize("seed", seeds(40))
def test_random_graphs(seed):
    """Of all ops, control nodes among them: what does not stream says so before a stream is opened."""
    draw = Draw(random.Random(seed).randbytes(600))
    spec = drawn_graph(draw, 4).spec()
    weights = None if spec is None else weights_of(spec, draw.rng())
    try:
        model = None if weights is None else Model(spec, weights)
    except RnncoreError:
        model = None
    if model is not None and model.unstreamable is not None:
        check_refused(model)
    elif model is not None:
        open_stream(model, inputs_of(spec, draw, dict.fromkeys("BTN", 1), "float32"))
