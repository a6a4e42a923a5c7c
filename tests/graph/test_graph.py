"""Walking a graph: what steps get, what is dropped behind them, how errors are named; outputs that share no memory."""

import signal

import numpy as np
import pytest

from rnncore.errors import InputError, SpecError, StreamError
from rnncore.kernels._graph import OpStep, unalias, walk


def step(run, inputs, names):
    return OpStep(run, inputs, names, "node 'n' (Op)", {})


def test_steps_get_their_values_and_give_theirs():
    seen = []

    def other(values, before, after):
        seen.append((dict(values), before))
        after["state"] = values["sum"]

    steps = [
        step(lambda x: x + 1, ("x",), ("more",)),
        step(lambda x, y: (x + y, x - y), ("x", "more"), ("sum", "difference")),
        step(lambda x, y: (x * y, "unused"), ("sum", "more"), ("product",)),
        step(lambda *given: [given.count(None), *given], ("sum", "", "more"), ("absent", "first", "second", "third")),
        other,
    ]
    values, after = {"x": 3}, {}
    walk(steps, [(), ("x", "nowhere"), ("difference",), (), ("more",)], values, "before", after)
    assert seen == [
        ({"more": 4, "sum": 7, "product": 28, "absent": 1, "first": 7, "second": None, "third": 4}, "before")
    ]
    assert after == {"state": 7} and "more" not in values
    again = {"x": 3, "more": 4, "sum": 7}
    walk(steps[:2], None, again, None, {})
    assert again == {"x": 3, "more": 4, "sum": 7, "difference": -1}
    with pytest.raises(ValueError, match="shorter"):
        steps[1].__class__(lambda x: (x,), ("x",), ("a", "b"), "n", {})({"x": 1}, None, None)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InputError("too long"), InputError, r"^node 'n' \(Op\): too long$"),
        (IndexError("beyond"), InputError, r"^node 'n' \(Op\): inputs of shape \(2, 3\): beyond$"),
        (ValueError("no"), InputError, r"^node 'n' \(Op\): inputs of shape \(2, 3\): no$"),
        (SpecError("of these sizes"), InputError, r"^node 'n' \(Op\): of these sizes$"),
        (StreamError("as it is"), StreamError, "^as it is$"),
        (ZeroDivisionError("no"), InputError, r"^node 'n' \(Op\): inputs of shape \(2, 3\): ZeroDivisionError: no$"),
    ],
)
def test_errors_name_the_node(error, kind, text):
    def run(*given):
        raise error

    for inputs in (("x",), ("x", ""), ("", "x", "")):
        with pytest.raises(kind, match=text) as found:
            step(run, inputs, ("y",))({"x": np.zeros((2, 3))}, None, None)
        assert found.value.__suppress_context__ or error in (found.value, found.value.__cause__)


class Stop(TimeoutError):
    """What a caller's handler raises."""


@pytest.mark.parametrize("error", [Stop("now"), RuntimeError("now"), ValueError("now")])
def test_what_a_handler_of_a_signal_raises_passes(error):
    """Also where it has the type of an error that an op could raise."""

    def handler(number, frame):
        raise error

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(type(error), match=r"^now$") as found:
            step(lambda x: signal.raise_signal(signal.SIGUSR1), ("x",), ("y",))({"x": np.zeros((2, 3))}, None, None)
        assert found.value is error
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outputs_share_no_memory():
    given, base = np.arange(6.0), np.arange(12.0)
    view = base[2:][::2]  # its owner is not the array that it was made from
    values = {
        "same": given,
        "part": given[1:3],
        "own": np.ones(3),
        "twice": base[:4],
        "beside": base[4:8],
        "over": base[6:10],
        "far": view[1:],
        "number": np.float32(3),
    }
    found = unalias(tuple(values), values, [given, None])
    assert found["own"] is values["own"] and found["twice"] is values["twice"]
    assert isinstance(found["number"], np.ndarray)
    names = list(values)
    for place, name in enumerate(names):
        np.testing.assert_array_equal(found[name], values[name])
        assert not np.shares_memory(found[name], given)
        assert not any(np.shares_memory(found[name], found[other]) for other in names[:place])
