"""A model with a Budget: every call within it has the bits of the model without, and no node runs beyond it."""

import pickle

import numpy as np
import pytest

import rnncore
from rnncore import Budget, Control, Input, InputError, Model, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM
from rnncore.errors import RnncoreError
from rnncore.graph.nodes import AttentionDecoder
from rnncore.kernels import runs_native
from rnncore.runtime.budget import Meter

X = Input("x", "float", ("B", "T", 8))
LARGE = Budget(work=1e12, memory=1e12)


def arrays(spec, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}


def tagger():
    nodes = [
        Recurrent("lstm", LSTM(8, 16), "x", direction="bidirectional"),
        Node("linear", "Linear", "lstm", {"input_size": 32, "output_size": 5}),
        Node("scores", "Softmax", "linear"),
    ]
    return Spec([X], nodes, ["scores", "lstm.h"])


def attention():
    turned = Node("k", "Transpose", "x", {"perm": (0, 2, 1)})
    return Spec([X], [turned, Node("scores", "MatMul", ("x", "k")), Node("y", "MatMul", ("scores", "x"))], ["y"])


def decoder():
    memory = Input("memory", "float", ("B", "Tk", 6))
    node = AttentionDecoder("decoder", LSTM(8 + 6, 5), "x", "memory", 6, "bahdanau", attention_size=4)
    return Spec([X, memory], [node], ["decoder"])


def loop(body_node="MatMul"):
    """y, the identity at first, times x again and again; every product is collected."""
    sizes = (8, 8)
    body = Spec(
        [Input("i", "int64", ()), Input("going", "bool", ()), Input("y", "float", sizes), Input("x", "float", sizes)],
        [Node("same", "Identity", "going"), Node("next", body_node, ("y", "x"))],
        ["same", "next", "next"],
    )
    inputs = [Input("count", "int64", ()), Input("y", "float", sizes), Input("x", "float", sizes)]
    node = Control("loop", "Loop", ("count", "", "y", "x"), (body,), ("x",))
    return Spec(inputs, [node], ["loop", "loop.1"])


def scan():
    body = Spec(
        [Input("h", "float", ("B", 8)), Input("e", "float", ("B", 8))],
        [Node("sum", "Add", ("h", "e"))],
        ["sum", "sum"],
    )
    inputs = [Input("h", "float", ("B", 8)), Input("x", "float", ("T", "B", 8))]
    return Spec(inputs, [Control("scan", "Scan", ("h", "x"), (body,), sequences=1)], ["scan", "scan.1"])


def embedded():
    nodes = [
        Node("rows", "Embedding", "ids", {"input_size": 9, "output_size": 8}),
        Recurrent("lstm", LSTM(8, 4), "rows"),
    ]
    return Spec([Input("ids", "int64", ("B", "T"))], nodes, ["lstm"])


NETWORKS = {
    "tagger": (tagger, {"x": (2, 7, 8)}),
    "attention": (attention, {"x": (2, 7, 8)}),
    "decoder": (decoder, {"x": (2, 3, 8), "memory": (2, 5, 6)}),
    "loop": (loop, {"count": 5, "y": (8, 8), "x": (8, 8)}),
    "scan": (scan, {"h": (2, 8), "x": (4, 2, 8)}),
    "embedded": (embedded, {"ids": None}),
}


def inputs_of(shapes, seed=1):
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        if isinstance(shape, tuple):
            made[name] = rng.uniform(-1, 1, shape).astype(np.float32)
        else:
            made[name] = rng.integers(0, 9, (2, 6)) if shape is None else np.array(shape, np.int64)
    return made


def least(build, shapes, field):
    """The smallest budget of one kind, to a part in a thousand, that a call fits into."""
    spec = build()
    weights, given = arrays(spec), inputs_of(shapes)
    low, high = 1.0, 1e12
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        try:
            Model(spec, weights, budget=Budget(**{field: middle})).run(given)
            high = middle
        except InputError:
            low = middle
    return high


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_budget_changes_no_bit(name, dtype):
    build, shapes = NETWORKS[name]
    spec = build()
    weights, given = arrays(spec), inputs_of(shapes)
    given = {key: array.astype(dtype) if array.dtype == np.float32 else array for key, array in given.items()}
    plain = Model(spec, weights, dtype).run(given, None)
    found = Model(spec, weights, dtype, budget=LARGE).run(given, None)
    for key, array in plain[0].items():
        np.testing.assert_array_equal(found[0][key], array)
    assert found[1].arrays.keys() == plain[1].arrays.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_work_is_bounded_and_grows_with_the_call(name):
    build, shapes = NETWORKS[name]
    needed = least(build, shapes, "work")
    spec = build()
    Model(spec, arrays(spec), budget=Budget(work=1.01 * needed)).run(inputs_of(shapes))
    with pytest.raises(InputError, match=r"node '\w+' \(\w+\): .* operations after .*, expected at most"):
        Model(spec, arrays(spec), budget=Budget(work=0.9 * needed)).run(inputs_of(shapes))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "decoder"])
def test_memory_is_bounded(name):
    build, shapes = NETWORKS[name]
    needed = least(build, shapes, "memory")
    spec = build()
    outputs = Model(spec, arrays(spec)).run(inputs_of(shapes))
    assert needed >= 0.99 * max(array.nbytes for array in outputs.values())
    with pytest.raises(InputError, match=r"node '\w+' \(\w+\): .* bytes besides .*, expected at most .* at one time"):
        Model(spec, arrays(spec), budget=Budget(memory=0.9 * needed)).run(inputs_of(shapes))


def test_a_node_beyond_the_budget_does_not_run(monkeypatch):
    """It is refused from the shapes: nothing of its size is made."""
    import tracemalloc

    spec = attention()
    model = Model(spec, {}, budget=Budget(memory=1 << 24))
    x = np.zeros((1, 20_000, 8), np.float32)  # scores of 1.6 GB
    tracemalloc.start()
    with pytest.raises(InputError, match="node 'scores'"):
        model(x)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_rounds_of_a_loop_count_one_by_one():
    spec, given = loop(), inputs_of(NETWORKS["loop"][1])
    one = least(loop, {**NETWORKS["loop"][1], "count": 1}, "work")
    ten = least(loop, {**NETWORKS["loop"][1], "count": 10}, "work")
    assert 5 * one < ten < 11 * one
    model = Model(spec, {}, budget=Budget(work=100 * one))
    with pytest.raises(InputError, match="in one call by the model's budget"):
        model.run({**given, "count": np.array(1 << 40)})
    model.run(given)  # each call begins anew


def test_what_a_loop_carries_does_not_pile_up():
    """Only what it collects does: a thousand rounds of a carried value need no more than ten."""
    body = Spec(
        [Input("i", "int64", ()), Input("going", "bool", ()), Input("y", "float", (64, 64))],
        [Node("same", "Identity", "going"), Node("next", "Relu", "y")],
        ["same", "next"],
    )
    inputs = [Input("count", "int64", ()), Input("y", "float", (64, 64))]
    spec = Spec(inputs, [Control("loop", "Loop", ("count", "", "y"), (body,))], ["loop"])
    model = Model(spec, {}, budget=Budget(memory=8 * 64 * 64 * 4))
    for count in (10, 1000):
        model.run({"count": np.array(count), "y": np.zeros((64, 64), np.float32)})


def test_memory_of_what_nobody_reads_any_more_is_free_again():
    nodes = [Node(f"n{place}", "Relu", f"n{place - 1}" if place else "x") for place in range(50)]
    spec = Spec([X], nodes, ["n49"])
    size = 100 * 8 * 4
    x = np.zeros((1, 100, 8), np.float32)
    Model(spec, {}, budget=Budget(memory=2 * size)).run({"x": x})
    everything = Spec([X], nodes, [node.name for node in nodes])
    with pytest.raises(InputError, match="bytes besides"):
        Model(everything, {}, budget=Budget(memory=40 * size)).run({"x": x})


def test_sizes_that_contents_decide_are_counted():
    """A shape, or the ends of a Range, that is an input of the call."""
    spec = Spec([Input("shape", "int64", (2,))], [Node("y", "ConstantOfShape", "shape")], ["y"])
    model = Model(spec, {}, budget=Budget(memory=1 << 20))
    assert model.run({"shape": np.array([3, 4])})["y"].shape == (3, 4)
    assert model.run({"shape": np.array([30, 4])})["y"].shape == (30, 4)
    with pytest.raises(InputError, match="node 'y' \\(ConstantOfShape\\)"):
        model.run({"shape": np.array([1 << 20, 1 << 20])})
    ends = [Input(name, "float", ()) for name in ("start", "limit", "delta")]
    model = Model(Spec(ends, [Node("y", "Range", ("start", "limit", "delta"))], ["y"]), {}, budget=Budget(work=1e6))
    one, zero = np.float32(1), np.float32(0)
    assert len(model.run({"start": zero, "limit": np.float32(9), "delta": one})["y"]) == 9
    with pytest.raises(InputError, match="node 'y' \\(Range\\)"):
        model.run({"start": zero, "limit": np.float32(1e9), "delta": one})


def test_a_budget_is_checked_and_kept():
    for wrong in (0, -1, 1.5, True, "9", 100_001, 1 << 70):
        with pytest.raises(InputError, match=r"nodes=.*expected an integer from 1 to 100000 or None"):
            Budget(nodes=wrong)
    for wrong in ({"work": 0}, {"memory": -1}, {"work": "1"}, {"memory": True}, {"work": float("nan")}):
        with pytest.raises(InputError, match="expected a positive number"):
            Budget(**wrong)
    spec = attention()
    with pytest.raises(InputError, match="expected a Budget"):
        Model(spec, {}, budget=1e9)
    model = pickle.loads(pickle.dumps(Model(spec, {}, budget=Budget(work=1e3))))
    assert model.budget == Budget(work=1e3) and Model(spec, {}).budget is None
    with pytest.raises(InputError, match="budget"):
        model(np.zeros((1, 100, 8), np.float32))


def test_load_takes_a_budget(tmp_path):
    path = rnncore.save(tmp_path / "tagger.safetensors", Model(tagger(), arrays(tagger())))
    model = rnncore.load(path, budget=Budget(work=1e4))
    with pytest.raises(InputError, match="node 'lstm' \\(Recurrent\\)"):
        model.run({"x": np.zeros((2, 7, 8), np.float32)})
    rnncore.load(path, budget=LARGE).run({"x": np.zeros((2, 7, 8), np.float32)})


@pytest.fixture(params=["native", "onnx", "keras"])
def seven(request, tmp_path):
    """A file of seven nodes or more, and what its format refuses."""
    if request.param == "native":
        nodes = [Node(f"n{place}", "Relu", f"n{place - 1}" if place else "x") for place in range(6)]
        nodes.append(Recurrent("lstm", LSTM(8, 4), "n5", layers=1))
        spec = Spec([X], nodes, ["lstm"])
        return rnncore.save(tmp_path / "seven.safetensors", Model(spec, arrays(spec)))
    if request.param == "onnx":
        from hostile_onnx import model_of, node, value

        nodes = [node("Relu", f"n{place - 1}" if place else "x", f"n{place}") for place in range(7)]
        path = tmp_path / "seven.onnx"
        path.write_bytes(model_of(*nodes, outputs=[value("n6", None)]).SerializeToString())
        return path
    import keras

    path = tmp_path / "seven.keras"
    keras.Sequential([keras.Input((3,)), *(keras.layers.Activation("relu") for _ in range(7))]).save(path)
    return path


def test_the_nodes_of_a_file_are_limited(seven, monkeypatch, tmp_path):
    """By a budget, else by the environment, else to 20,000; what a program makes itself is not."""
    with pytest.raises(RnncoreError, match=r"(?s)seven.*expected at most 6 .*of a file; load\(\.\.\., budget=Budget"):
        rnncore.load(seven, budget=Budget(nodes=6))
    with pytest.raises(RnncoreError, match="expected at most 6 "):
        rnncore.convert(seven, tmp_path / "six.safetensors", budget=Budget(nodes=6))
    model = rnncore.load(seven, budget=Budget(nodes=30))
    assert rnncore.load(seven).spec == model.spec
    monkeypatch.setenv("RNNCORE_MAX_NODES", "6")
    with pytest.raises(RnncoreError, match="expected at most 6 "):
        rnncore.load(seven, budget=Budget(work=1e9))
    assert rnncore.load(seven, budget=Budget(nodes=30)).spec == model.spec
    assert Model(Spec(model.spec.inputs, model.spec.nodes, model.spec.outputs), model.weights).spec == model.spec
    for wrong in ("0", "-1", "many", "1e3", "100001", "9" * 5000):
        monkeypatch.setenv("RNNCORE_MAX_NODES", wrong)
        with pytest.raises(InputError, match=r"RNNCORE_MAX_NODES.*expected an integer from 1 to 100000"):
            rnncore.load(seven)


STREAMED = {
    "stack": lambda: Spec([X], [Recurrent("lstm", LSTM(8, 16), "x")], ["lstm"]),
    "states": lambda: Spec([X], [Recurrent("gru", GRU(8, 16), "x", layers=2)], ["gru", "gru.h"]),
    "layers": lambda: Spec(
        [X],
        [
            Recurrent("lstm", LSTM(8, 16), "x"),
            Node("y", "Linear", "lstm", {"input_size": 16, "output_size": 3}),
            Node("end", "Softmax", "y"),
        ],
        ["end"],
    ),
    "window": lambda: Spec(
        [X],
        [
            Node("turned", "Transpose", "x", {"perm": (0, 2, 1)}),
            Node("conv", "Conv", "turned",
                 {"input_size": 8, "output_size": 4, "kernel_shape": (5,), "pads": (4, 0), "bias": False}),
            Node("back", "Transpose", "conv", {"perm": (0, 2, 1)}),
        ],
        ["back"],
    ),
    "blocks": lambda: Spec([X], [Recurrent("lstm", LSTM(8, 16), "x", direction="bidirectional")], ["lstm"]),
    "history": lambda: Spec(
        [X], [Node("y", "KerasAttention", ("x", "x"), {"causal": True})], ["y"]
    ),
    "scan": lambda: Spec(
        [Input("h", "float", ("B", 8)), Input("x", "float", ("T", "B", 8))],
        [Control("scan", "Scan", ("h", "x"), (scan().nodes[0].branches[0],), sequences=1)],
        ["scan.1"],
    ),
}  # fmt: skip
STREAM_OPTIONS = {"blocks": {"lookahead": 2, "block": 4}, "history": {"history": 6}}


def pieces(name):
    """Inputs of three pieces of a stream of two rows; the second is the longest."""
    rng = np.random.default_rng(3)
    found = [rng.uniform(-1, 1, (2, steps, 8)).astype(np.float32) for steps in (3, 9, 3)]
    return [piece.swapaxes(0, 1).copy() if name == "scan" else piece for piece in found]


def streams_of(name, budget, kind="stream"):
    """What feeds a piece to two rows: a stream, or a pool by handles or by ids."""
    spec = STREAMED[name]()
    model = Model(spec, arrays(spec), budget=budget)
    inputs = {"h": np.ones((2, 8), np.float32)} if name == "scan" else None
    options = STREAM_OPTIONS.get(name, {})
    if kind == "stream":
        return model.stream(batch=2, inputs=inputs, **options).feed
    pool = model.pool(2, **options)
    for id in "ab":
        pool.open(id, inputs=None if inputs is None else {"h": inputs["h"][:1]})
    if kind == "handles":
        return lambda x: pool.step(x, pool.handles("ab"))
    axis = 1 if name == "scan" else 0
    return lambda x: np.stack([*pool.step({id: x.take(row, axis) for row, id in enumerate("ab")}).values()], axis)


@pytest.mark.parametrize("field", ["work", "memory"])
@pytest.mark.parametrize("kind", ["stream", "handles", "ids"])
@pytest.mark.parametrize("name", STREAMED)
def test_pieces_of_streams_are_counted(name, kind, field):
    """Each piece is a call: an affordable one has the bits of a model without a budget, before a refusal and after."""
    if name == "states" and kind != "stream":
        kind = "handles"
    plain = streams_of(name, None, kind)
    expected = [plain(piece) for piece in pieces(name)]
    feed = streams_of(name, LARGE, kind)
    for piece, right in zip(pieces(name), expected, strict=True):
        assert_same(feed(piece), right)
    low, high = 1.0, 1e12  # the least that the short pieces fit into
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        try:
            feed = streams_of(name, Budget(**{field: middle}), kind)
            feed(pieces(name)[0])
            feed(pieces(name)[2])
            high = middle
        except InputError as error:
            assert "by the model's budget" in str(error)
            low = middle
    feed = streams_of(name, Budget(**{field: high}), kind)
    first, _, last = pieces(name)
    assert_same(feed(first), expected[0])
    with pytest.raises(InputError, match="by the model's budget"):
        feed(np.repeat(pieces(name)[1], 40, axis=0 if name == "scan" else 1))
    plain = streams_of(name, None, kind)
    plain(first)
    assert_same(feed(last), plain(last))


def assert_same(found, expected):
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            assert_same(found[key], expected[key])
    else:
        np.testing.assert_array_equal(found, expected)


def test_states_of_pools_and_streams_are_counted_before_they_are_made():
    import tracemalloc

    for name in STREAMED:
        spec, options = STREAMED[name](), STREAM_OPTIONS.get(name, {})
        model = Model(spec, arrays(spec))
        given = {"inputs": {"h": np.ones((1, 8), np.float32)}} if name == "scan" else {}
        model.stream(**given, **options)
        tracemalloc.start()
        with pytest.raises(InputError, match=r"capacity=1000000000: .* bytes, expected at most the .* memory"):
            model.pool(10**9, **options)
        with pytest.raises(InputError, match=r"batch=1000000000: .* bytes, expected at most the .* memory"):
            model.stream(10**9, **given, **options)
        bounded = Model(spec, arrays(spec), budget=Budget(memory=1 << 16))
        with pytest.raises(InputError, match=r"capacity=100000: .* bytes, expected at most 65,536 by the model's"):
            bounded.pool(100_000, **options)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
        assert bounded.pool(2, **options).capacity == 2


def letters():
    """Scores of the next of nine tokens."""
    nodes = [
        Node("rows", "Embedding", "ids", {"input_size": 9, "output_size": 8}),
        Recurrent("lstm", LSTM(8, 4), "rows"),
        Node("scores", "Linear", "lstm", {"input_size": 4, "output_size": 9}),
    ]
    return Spec([Input("ids", "int64", ("B", "T"))], nodes, ["scores"])


DECODING = {
    "greedy": lambda model, count: model.generate([[1, 2]], count),
    "draws": lambda model, count: model.generate([[1, 2]], count, temperature=1.0, samples=3, seed=1),
    "beams": lambda model, count: model.generate([[1, 2]], count, beams=3),
    "score": lambda model, count: model.score([np.arange(count + 2) % 9]),
}


@pytest.mark.parametrize("name", DECODING)
def test_decoding_is_counted_as_one_call(name):
    spec = letters()
    model = lambda **budget: Model(spec, arrays(spec), budget=Budget(**budget) if budget else None)  # noqa: E731
    decode = DECODING[name]
    least = 1.0
    while True:
        try:
            found = decode(model(work=least), 10)
            break
        except InputError as error:
            assert "by the model's budget" in str(error)
            least *= 1.3
    assert least > 1000
    plain = decode(model(), 10)
    assert [one.log_prob for one in found] == [one.log_prob for one in plain]
    with pytest.raises(InputError, match="in one call by the model's budget"):
        decode(model(work=least), 100)
    decode(model(memory=1 << 20), 100)  # which is free again behind each step
    with pytest.raises(InputError, match="by the model's budget"):
        model(memory=1 << 20).generate([[1, 2]] * 10_000, 3)
    with pytest.raises(InputError, match=r"samples=1000000000: .* by the model's budget"):
        model(memory=1 << 20).generate([[1, 2]], 3, temperature=1.0, samples=10**9)
    with pytest.raises(InputError, match=r"samples=1000000000: .* that there is memory for"):
        model().generate([[1, 2]], 3, temperature=1.0, samples=10**9)


def test_ctc_is_counted():
    from rnncore import decode

    scores = np.random.default_rng(0).normal(size=(2, 30, 5)).astype(np.float32)
    for run in (decode.ctc_greedy, decode.ctc_beam, lambda *a, **k: decode.ctc_log_prob(a[0], [[1, 2], [3]], **k)):
        plain, found = run(scores), run(scores, budget=Budget(work=1e7, memory=1e6))
        for one, other in zip(plain, found, strict=True):
            assert getattr(one, "log_prob", one) == getattr(other, "log_prob", other)
        for small in (Budget(work=1e3), Budget(memory=1e3)):
            with pytest.raises(InputError, match=r"CTC of scores \(2, 30, 5\): .* by the model's budget"):
                run(scores, budget=small)
        with pytest.raises(InputError, match="expected a Budget or None"):
            run(scores, budget=1e9)


def test_sizes_that_were_affordable_are_not_counted_again(monkeypatch):
    """But where contents decide what a call costs, every call is."""
    taken = []
    monkeypatch.setattr(Meter, "take", lambda self, where, wanted: taken.append(where))
    for build, settled in ((tagger, True), (attention, True), (loop, False)):
        spec = build()
        model = Model(spec, arrays(spec), budget=LARGE)
        given = inputs_of(next(shapes for other, shapes in NETWORKS.values() if other is build))
        for _ in range(2):
            taken.clear()
            model.run(given)
        assert bool(taken) is not settled
    spec = Spec([Input("x", "float", (4,))], [Node("y", "NonZero", "x"), Node("z", "Abs", "y")], ["z"])
    model = Model(spec, {}, budget=LARGE)
    for _ in range(2):
        taken.clear()
        model.run({"x": np.ones(4, np.float32)})
    assert taken == ["node 'y' (NonZero)", "node 'z' (Abs)"]


def test_no_budget_no_cost():
    """Without limits there is no metered step, and a single layer keeps its short way with them too."""
    spec = Spec([X], [Recurrent("lstm", LSTM(8, 4), "x")], ["lstm"])
    plain, bounded = Model(spec, arrays(spec)), Model(spec, arrays(spec), budget=LARGE)
    unlimited = Model(spec, arrays(spec), budget=Budget(nodes=10))
    assert {type(step).__name__ for step in bounded._walk} == {"MeteredStep"}
    x = np.ones((1, 3, 8), np.float32)
    for model in (plain, bounded, unlimited):
        assert (model._direct is not None) == runs_native(model.dtype)
        assert model is bounded or "MeteredStep" not in {type(step).__name__ for step in model._walk}
        np.testing.assert_array_equal(plain(x), model(x))


@pytest.mark.parametrize("field", ["work", "memory"])
def test_the_short_way_goes_as_far_as_is_certain_to_be_within_the_budget(field):
    spec = Spec([X], [Recurrent("lstm", LSTM(8, 4), "x")], ["lstm"])
    most = Budget(**{field: 1e6})
    plain, bounded = Model(spec, arrays(spec)), Model(spec, arrays(spec), budget=most)
    steps = 500
    if runs_native(plain.dtype):  # else there is no short way
        assert bounded._direct(np.zeros((2, 100, 8), np.float32)) is not None
        steps = next(n for n in range(100, 10**6) if bounded._direct(np.zeros((2, n, 8), np.float32)) is None)
    x = np.random.default_rng(5).normal(size=(2, steps, 8)).astype(np.float32)
    for short in (x[:, :-1].copy(), x[:, : steps // 2].copy()):
        np.testing.assert_array_equal(bounded(short), plain(short))
        for found, expected in zip(bounded(short, None), plain(short, None), strict=True):
            assert_same(getattr(found, "arrays", found), getattr(expected, "arrays", expected))
    with pytest.raises(InputError, match=r"node 'lstm' .*by the model's budget"):
        bounded(np.repeat(x, 3, axis=1))


def test_the_service_has_a_budget(monkeypatch):
    from click.testing import CliRunner

    pytest.importorskip("starlette")
    from rnncore.cli.serve import serve
    from rnncore.serve import server

    taken = []
    monkeypatch.setattr(server, "run", lambda service, *rest: taken.append(service))
    for options, expected in (([], Budget(1e12, 4 << 30)), (["--max-work", "5e6"], Budget(5e6, 4 << 30))):
        done = CliRunner().invoke(serve, ["sunspots=zoo:sunspots", *options])
        assert done.exit_code == 0, done.output
        assert taken.pop().models["sunspots"].model.budget == expected
