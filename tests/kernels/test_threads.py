"""The number of threads of one call: checked, used, and forgotten afterwards. Bits: test_exactness.py."""

import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from paths import ROOT, environment
from threaded_models import SHARED, network

from rnncore.errors import InputError
from rnncore.kernels import _runtime, runs_native

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
    assert _runtime.ask_threads(0) == 0


def test_each_thread_asks_for_itself():
    seen = []
    before = _runtime.ask_threads(5)
    try:
        thread = threading.Thread(target=lambda: seen.append(_runtime.ask_threads(0)))
        thread.start()
        thread.join()
    finally:
        assert _runtime.ask_threads(before) == 5
    assert (before, seen) == (0, [0])


COUNT = """
import numpy as np
from pathlib import Path
from threaded_models import network
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
    """The first call that needs workers starts them: two besides the caller; none for BLAS, which has its own."""
    env = environment()
    done = subprocess.run([sys.executable, "-c", COUNT.format(call=call)], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == ("2" if runs_native(np.float32) else "0"), done.stderr


# How often each worker went to sleep changes where one was woken. Where the cores are crowded, calls are made by one
# thread for a while, so that those which should wake one are made again.
WATCH = """
import time
from pathlib import Path
from threaded_models import SHARED, every_kernel
tasks = Path("/proc/self/task")
models = list(every_kernel({made}))
own = {{task.name for task in tasks.iterdir()}}
def workers():
    return sorted(task.name for task in tasks.iterdir() if task.name not in own)
def sleeps():
    time.sleep(0.01)
    lines = [line for name in workers() for line in (tasks / name / "status").read_text().splitlines()]
    return [line for line in lines if line.startswith("voluntary_ctxt_switches")]
if {before}:
    for name, model, x in every_kernel({before}):
        model(x)
for name, model, x in models:
    for _ in range(100 if name in SHARED and {expected} else 1):
        before = sleeps()
        model(x{call})
        woken = sleeps() != before
        if woken:
            break
    print(name, len(workers()), woken, sep=";")
"""


def watched(made, call="", expected=False, before=0):
    """For each model, after a call of it: how many workers there are, and whether one was woken.

    made: what the models were made with; before: what others were, which were called before.
    """
    env = environment()
    code = WATCH.format(made=made, call=call, expected=expected, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    lines = [line.split(";") for line in done.stdout.splitlines()]
    return {name: (int(count), woken == "True") for name, count, woken in lines}


@pytest.mark.parametrize(("made", "call"), [(1, ""), (4, ", num_threads=1")])
def test_one_thread_starts_no_other(made, call):
    """In every kernel, whatever a model was made with."""
    assert set(watched(made, call).values()) == {(0, False)}


@pytest.mark.parametrize(("made", "call"), [(3, ""), (1, ", num_threads=3")])
def test_a_process_has_one_pool_of_threads(made, call):
    """Two workers besides the caller, the same ones for every kernel that shares its work; over BLAS none."""
    native = runs_native(np.float32)
    found = watched(made, call, expected=native)
    assert {count for count, _ in found.values()} == {2 if native else 0}
    assert {name for name, (_, woken) in found.items() if woken} == (SHARED if native else set())


@pytest.mark.parametrize("call", ["", ", num_threads=1"])
def test_a_model_of_one_thread_wakes_no_worker_of_another(call):
    found = watched(2 if call else 1, call, before=2)
    assert set(found.values()) == {(1 if runs_native(np.float32) else 0, False)}


def test_threads_begin_in_one_file():
    """So that what limits them holds for every kernel, those of later too."""
    kernels = ROOT / "rnncore" / "kernels"
    made = {path.with_suffix(".c") for path in kernels.glob("*.pyx")}
    sources = [path for kind in ("*.c", "*.h", "*.pyx", "*.pxd") for path in kernels.rglob(kind) if path not in made]
    begins = re.compile(r"pthread_create|thrd_create|std::thread|#pragma omp|prange")
    assert [path.name for path in sources if begins.search(path.read_text(encoding="utf-8"))] == ["threads.c"]
