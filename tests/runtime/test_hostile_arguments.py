"""Whatever a method is given: its result, or an error of rnncore's with nothing foreign behind it."""

import inspect
import math

import numpy as np
import pytest
from every_op import weights_of
from wrong_values import NESTED, assert_ours

from rnncore import Engine, TestPair
from rnncore.cells import GRU, LSTM
from rnncore.decode import PrefixCache
from rnncore.errors import InputError, RnncoreError
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model
from rnncore.runtime.state import State

pytestmark = pytest.mark.filterwarnings("ignore:.* is cast:UserWarning")

F = np.float32
X = np.ones((2, 5, 4), F)
IDS = np.ones((2, 5), np.int64)
FAR = 1 << 52
HUGE = [
    np.broadcast_to(F(0), (2, FAR, 4)),
    np.broadcast_to(F(0), (FAR, 5, 4)),
    np.broadcast_to(F(0), (2, 5, FAR)),
    np.broadcast_to(np.int64(0), (FAR,)),
    np.broadcast_to(np.int64(0), (1 << 30, 1 << 22)),
]
"""More than any memory holds, in a few bytes."""
WRONG = [
    *(
        None,
        0,
        1,
        -1,
        1.5,
        math.nan,
        math.inf,
        2**63,
        2**64,
        10**400,
        10**5000,
        True,
        "a",
        "\ud800",
        b"a",
        object(),
        ...,
    ),
    *([], [[]], {}, {"a": 1}, {1: 2}, [1, 2], [[1, 2], [3]], [None], ["a"], NESTED, lambda: 1, 1j, {1}, range(3)),
    *(np.ones(shape, F) for shape in ((), (2,), (2, 5), (2, 5, 3), (2, 0, 4), (0, 5, 4), (0, 0, 4), (2, 5, 4, 1))),
    np.ones((1,) * 64, F),
    *(np.ones((2, 5, 4), dtype) for dtype in (int, bool, np.float64, np.longdouble, np.float16, complex, object)),
    *(np.full((2, 5, 4), "a"), np.ones((2, 5, 4), "M8[s]"), np.zeros((2, 5, 4), "V4")),
    *(np.zeros((2, 5, 4), [("a", F), ("b", F)]), np.recarray((2, 5, 4), [("a", F)])),
    *(np.ma.masked_array(X, mask=X > 0), np.ma.masked_array(X)),
    *(
        X[::-1],
        X[:, ::-1, ::-1],
        np.asfortranarray(X),
        X.astype(">f4"),
        np.ndarray((2, 5, 4), F, b"\0" + X.tobytes(), 1),
    ),
    np.lib.stride_tricks.as_strided(X, (2, 5, 4), (0, 0, 0)),
    *(np.array(given) for given in ([5, 5], [6, 5], [-1, 5], [1 << 62, 5], [math.nan, 5], [5.0, 5.0], [5], [[5, 5]])),
    *(np.array([5, 5], dtype) for dtype in (np.uint64, object, bool)),
    *(np.array([2**64 - 1, 5], np.uint64), [5, 5], [5.5, 5], np.full((2, 5, 4), np.nan, F), State({})),
    *(memoryview(b"abcd"), np.int64(3), np.float64(2), np.datetime64("2020"), np.str_("a")),
]


def sequences(mask=None, tail=False):
    nodes = [Recurrent("r", LSTM(4, 3), "x", mask=mask)]
    spec = Spec(
        [Input("x", "float", ("B", "T", 4))], [*nodes, *[Node("t", "Tanh", "r")] * tail], ["t" if tail else "r"]
    )
    return Model(spec, weights_of(spec))


def language():
    spec = Spec(
        [Input("ids", "int64", ("B", "T"))],
        [
            Node("e", "Embedding", "ids", {"input_size": 7, "output_size": 4}),
            Recurrent("r", GRU(4, 3), "e"),
            Node("l", "Linear", "r", {"input_size": 3, "output_size": 7}),
        ],
        ["l"],
    )
    tokens = list("abcdefg")
    return Model(spec, weights_of(spec), vocabulary={"ids": tokens, "l": tokens})


MODELS = {
    "one layer": sequences(),
    "masked": sequences("mask"),
    "two nodes": sequences(tail=True),
    "tokens": language(),
}
LM = MODELS["tokens"]
SPEC = MODELS["one layer"].spec


def small(value, most=1000):
    """What a count may be without much work."""
    return not isinstance(value, (int, np.integer)) or value <= most


def on_pool(method, *more):
    def call(model, x, value):
        pool = model.pool(4)
        pool.open("k")
        return getattr(pool, method)(value, *more)

    return call


def with_handle(model):
    pool = model.pool(4)
    return pool, np.array([pool.open()])


def set_state(model, x, value):
    stream = model.stream(2)
    stream.state = value


def states(model, value):
    return dict.fromkeys(model.initial_state(2), value)


CALLS = {
    "call": lambda model, x, value: model(value),
    "call state": lambda model, x, value: model(x, value),
    "call states": lambda model, x, value: model(x, states(model, value)),
    "call lengths": lambda model, x, value: model(x, lengths=value),
    "call mask": lambda model, x, value: model(x, mask=value),
    "call threads": lambda model, x, value: model(x, num_threads=value),
    "run": lambda model, x, value: model.run(value),
    "run input": lambda model, x, value: model.run({model.inputs[0].name: value}),
    "run name": lambda model, x, value: model.run({value if isinstance(value, (str, int, float)) else "q": x}),
    "predict": lambda model, x, value: model.predict(value),
    "predict one": lambda model, x, value: model.predict([value]),
    "predict batch_size": lambda model, x, value: model.predict([x[0]], batch_size=value),
    "initial_state": lambda model, x, value: model.initial_state(value),
    "stream": lambda model, x, value: model.stream(value),
    "stream lookahead": lambda model, x, value: model.stream(lookahead=value),
    "stream block": lambda model, x, value: model.stream(block=value),
    "stream history": lambda model, x, value: model.stream(history=value),
    "stream inputs": lambda model, x, value: model.stream(inputs=value),
    "over_time": lambda model, x, value: model.over_time(value),
    "feed": lambda model, x, value: model.stream(2).feed(value),
    "feed one": lambda model, x, value: model.stream().feed(value),
    "feed input": lambda model, x, value: model.stream(2).feed({model.inputs[0].name: value}),
    "feed out": lambda model, x, value: model.stream(2).feed(x, out=value),
    "feed lengths": lambda model, x, value: model.stream(2).feed(x, lengths=value),
    "feed mask": lambda model, x, value: model.stream(2).feed(x, mask=value),
    "stream state": set_state,
    "stream states": lambda model, x, value: set_state(model, x, states(model, value)),
    "stream load": lambda model, x, value: model.stream(2).load(value),
    "stream reset": lambda model, x, value: model.stream(2).reset(value),
    "pool": lambda model, x, value: model.pool(value) if small(value) else None,
    "pool open": on_pool("open"),
    "pool close": on_pool("close"),
    "pool step": on_pool("step"),
    "pool piece": lambda model, x, value: on_pool("step")(model, x, {"k": value}),
    "pool load": on_pool("load"),
    "pool reset": on_pool("reset"),
    "pool fork": on_pool("fork"),
    "pool idle": on_pool("idle"),
    "pool evict": on_pool("evict"),
    "pool state": on_pool("state"),
    "pool save": on_pool("save"),
    "pool finish": on_pool("finish"),
    "pool load_all": on_pool("load_all"),
    "pool handles": on_pool("handles"),
    "pool handles step": lambda model, x, value: with_handle(model)[0].step(value, x),
    "pool arrays": lambda model, x, value: (lambda pool, handles: pool.step(handles, value))(*with_handle(model)),
}
ALONE = {
    "State": State,
    "from_bytes": State.from_bytes,
    "from_bytes fingerprint": lambda value: State.from_bytes(LM.initial_state(2).to_bytes(), value),
    "to_bytes fingerprint": lambda value: LM.initial_state(2).to_bytes(value),
    "TestPair": lambda value: TestPair(value, value),
    "TestPair arrays": lambda value: TestPair({"x": value}, {"y": value}),
    "Model spec": lambda value: Model(value, {}),
    "Model weights": lambda value: Model(SPEC, value),
    "Model weight": lambda value: Model(SPEC, {**weights_of(SPEC), "r.bias_l0": value}),
    "Model dtype": lambda value: Model(SPEC, weights_of(SPEC), value),
    "Model threads": lambda value: Model(SPEC, weights_of(SPEC), num_threads=value),
    "Model vocabulary": lambda value: Model(SPEC, weights_of(SPEC), vocabulary=value),
    "Model tokens": lambda value: Model(LM.spec, weights_of(LM.spec), vocabulary={"ids": value}),
    "generate": lambda value: LM.generate(value, 5),
    "generate one": lambda value: LM.generate([value], 5),
    "generate length": lambda value: LM.generate([[1, 2]], value) if small(value) else None,
    **{
        f"generate {name}": lambda value, name=name: LM.generate([[1, 2]], 3, **{name: value}) if small(value) else None
        for name in (
            *("temperature", "top_k", "top_p", "seed", "stop", "beams", "n_best", "length_penalty", "samples"),
            *("inputs", "state", "cache", "tokens", "output", "scores"),
        )
    },
    "score": lambda value: LM.score(value),
    "score one": lambda value: LM.score([value]),
    "PrefixCache": lambda value: PrefixCache(LM, value),
    "PrefixCache model": PrefixCache,
}
LISTS = ("predict", "generate", "generate one", "generate stop", "score", "score one", "pool handles", "Model tokens")
"""Calls that go through what they are given one by one: never through something endless here."""


def assert_answers(name, call):
    for value in (*WRONG, *(() if name in LISTS or name.startswith(("predict", "Model vocab")) else HUGE)):
        try:
            found = call(value)
            if inspect.isgenerator(found):
                list(found)
        except RnncoreError as error:
            assert_ours(error, "")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", CALLS)
def test_methods(name, kind):
    model = MODELS[kind]
    x = IDS if model is LM else X
    assert_answers(name, lambda value: CALLS[name](model, x, value))


@pytest.mark.parametrize("name", ALONE)
def test_others(name):
    assert_answers(name, ALONE[name])


def test_engine():
    model = MODELS["two nodes"]
    with Engine(model) as engine:
        assert_answers("", lambda value: engine.submit(value).result(60))
        assert_answers("", lambda value: engine.submit({"x": value}).result(60))
        assert_answers("", lambda value: engine.submit(X, state=value).result(60))
        assert_answers("", lambda value: engine.submit(X, lengths=value).result(60))
        assert_answers("", lambda value: Engine(value))


def test_masked_elements_are_not_numbers():
    """The mask of a masked array is not ours to ignore; without masked elements it is an array like any other."""
    model = MODELS["one layer"]
    with pytest.raises(InputError, match="x: a masked array with masked elements"):
        model(np.ma.masked_array(X, mask=X > 0))
    np.testing.assert_array_equal(model(np.ma.masked_array(X)), model(X))


def test_seeds_are_an_array_too():
    """One for each prompt, as NumPy has them."""
    a, b = (LM.generate([[1, 2], [3]], 6, seed=seed) for seed in (np.array([3, 4]), [3, 4]))
    assert [one.tokens.tolist() for one in a] == [one.tokens.tolist() for one in b]
