"""What the environment decides: instruction set and number of threads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import rnncore
from rnncore import InputError, Model, UnsupportedError
from rnncore.kernels import _runtime
from rnncore.runtime.config import config
from rnncore.runtime.threads import check_threads


def run(code, **environment):
    """Standard output of a fresh interpreter with these environment words."""
    kept = {key: value for key, value in os.environ.items() if not key.endswith("NUM_THREADS") and key != "RNNCORE_ISA"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **environment})


@pytest.mark.parametrize("isa", [*_runtime.usable_isas(), "blas"])
def test_rnncore_isa_forces_one(isa):
    done = run("from rnncore.runtime.config import config; print(config()['float32'])", RNNCORE_ISA=isa)
    assert done.stdout.strip() == isa


def test_the_impossible_is_refused():
    done = run("import rnncore", RNNCORE_ISA="avx1024")
    assert done.returncode == 1
    assert "UnsupportedError: instruction set 'avx1024': this machine and build run" in done.stderr
    with pytest.raises(UnsupportedError, match=r"instruction set .*: this machine and build run"):
        _runtime.choose_isa("neon" if "neon" not in _runtime.usable_isas() else "avx512")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"RNNCORE_NUM_THREADS": "1"}, "1"),
        ({"RNNCORE_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, "3"),
        ({"OMP_NUM_THREADS": "2,4"}, "2"),
        ({"RNNCORE_NUM_THREADS": "1000"}, "64"),
    ],
)
def test_threads_from_the_environment(words, expected):
    assert (
        run("from rnncore.runtime.threads import default_threads; print(default_threads())", **words).stdout.strip()
        == expected
    )


def test_threads_follow_affinity():
    cpu = min(os.sched_getaffinity(0))
    code = f"""
import os; os.sched_setaffinity(0, {{{cpu}}})
from rnncore.runtime.threads import default_threads
print(default_threads())
"""
    assert run(code).stdout.strip() == "1"


def test_bad_thread_counts():
    done = run("import rnncore; rnncore.runtime.threads.default_threads()", RNNCORE_NUM_THREADS="many")
    assert "InputError: environment RNNCORE_NUM_THREADS='many', expected an integer from 1 to 64" in done.stderr
    for wrong in (0, -1, 65, 1.5, True, "2"):
        with pytest.raises(InputError, match=r"num_threads=.*expected an integer from 1 to 64"):
            check_threads(wrong)
    spec = rnncore.load("zoo:sunspots").spec
    weights = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()}
    with pytest.raises(InputError, match="num_threads=0"):
        Model(spec, weights, num_threads=0)


def test_show_config(capsys):
    rnncore.show_config()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["rnncore"] == rnncore.__version__
    assert lines["float32"] == str(config()["float32"])


def test_scipy_is_not_imported_where_it_is_not_used():
    """It takes 100 ms, and the packed kernels do not need it."""
    code = (
        "import sys, numpy, rnncore\n"
        "rnncore.load('zoo:sunspots')(numpy.ones((1, 3, 1), 'float32'))\n"
        "print('scipy.linalg' in sys.modules)"
    )
    assert run(code, RNNCORE_ISA=_runtime.usable_isas()[0]).stdout.strip() == "False"


def test_what_running_a_model_does_not_need_is_imported_when_asked_for():
    """Of each package the modules that are imported after a step are those that it needs."""
    code = """
import json, sys, rnncore
def of(package):
    return [name for name in sys.modules if name == f"rnncore.{package}" or name.startswith(f"rnncore.{package}.")]
LATER = ("formats", "streaming", "decode", "engine", "export", "zoo", "batch", "serve", "cli", "conventions.detect")
by_import = {name: of(name) for name in LATER}
model = rnncore.load("zoo:sunspots")
by_load = {name: of(name) for name in (*LATER[1:], "formats.onnx", "formats.verification", "formats.listing")}
missing = [name for name in rnncore.__all__ if not hasattr(rnncore, name)]
for name in ("formats", "decode", "export", "engine", "streaming"):
    assert of(name), name  # by the public names, which were all asked for
print(json.dumps([by_import, by_load, missing, sorted(set(rnncore.__all__) - set(dir(rnncore)))]))
"""
    by_import, by_load, missing, hidden = json.loads(run(code).stdout)
    assert not any(by_import.values()) and not any(by_load.values()), (by_import, by_load)
    assert missing == hidden == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = rnncore.Nothing
