"""The number of threads of one call: checked, used, and forgotten afterwards. Bits: test_exactness.py."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from random_networks import draw_weights, stack

from rnncore.cells import LSTM
from rnncore.errors import InputError
from rnncore.kernels import _native, runs_native
from rnncore.model import Model
from rnncore.spec import Spec


def network(size=8, **options):
    spec = stack(LSTM(size, size))
    return Model(
        Spec(spec.inputs, spec.nodes, ["rnn"]), draw_weights(spec, np.random.default_rng(0)), num_threads=1, **options
    )


X = np.zeros((2, 3, 8), np.float32)
CALLS = {
    "call": lambda model, **options: model(X, **options),
    "call with a state": lambda model, **options: model(X, None, **options)[0],
    "call with lengths": lambda model, **options: model(X, lengths=[3, 2], **options),
    "run": lambda model, **options: model.run({"x": X}, **options)["rnn"],
    "predict": lambda model, **options: np.stack(model.predict(list(X), **options)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [0, -1, 65, True, 1.0, "2"])
def test_refused(call, wrong):
    with pytest.raises(InputError, match=r"num_threads=.*expected an integer from 1 to 64"):
        CALLS[call](network(), num_threads=wrong)


@pytest.mark.parametrize("call", CALLS)
def test_forgotten_after_the_call(call):
    """And after one that fails, and by other threads at any time."""
    CALLS[call](network(), num_threads=3)
    with pytest.raises(InputError):
        network()(X[0], num_threads=3)
    assert _native.ask_threads(0) == 0


def test_each_thread_asks_for_itself():
    seen = []
    before = _native.ask_threads(5)
    try:
        thread = threading.Thread(target=lambda: seen.append(_native.ask_threads(0)))
        thread.start()
        thread.join()
    finally:
        assert _native.ask_threads(before) == 5
    assert (before, seen) == (0, [0])


COUNT = """
import numpy as np
from pathlib import Path
from test_threads import network
model = network(256)
x = np.zeros((64, 50, 256), np.float32)
model(x, num_threads=1)
tasks = Path("/proc/self/task")
before = len(list(tasks.iterdir()))
{call}
print(len(list(tasks.iterdir())) - before)
"""


@pytest.mark.parametrize(
    "call",
    ["model(x, num_threads=3)", 'model.run({"x": x}, num_threads=3)', "model.predict(list(x), num_threads=3)"],
)
def test_used(call):
    """The first call that wants workers starts them: two beside the caller; none for BLAS, which has its own."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(call=call)], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == ("2" if runs_native(np.float32) else "0"), done.stderr
