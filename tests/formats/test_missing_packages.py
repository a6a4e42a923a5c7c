"""Where a package is not installed that something needs, the error says so and how to install it.

One process in which none of them can be imported does everything; each test looks at one part of what it said.
"""

import json
import subprocess
import sys

import paths
import pytest

import rnncore

GOLDEN = paths.GOLDEN / "keras"

SCRIPT = """
import json, sys

class Blocked:
    names = set(sys.argv[3].split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import rnncore
from click.testing import CliRunner
from rnncore.cli.application import application

onnx_file, keras_file, _ = sys.argv[1:]

def command(*words):
    found = CliRunner().invoke(application, list(words))
    assert found.exit_code == 1 and not found.stdout, (found.exit_code, found.stdout)
    raise RuntimeError(found.stderr)

tasks = {
    "from_torch": lambda: rnncore.export.from_torch([("lstm", None)]),
    "from_keras": lambda: rnncore.export.from_keras(None),
    "from_onnx": lambda: rnncore.export.from_onnx(onnx_file),
    "load onnx": lambda: rnncore.load(onnx_file),
    "load keras": lambda: rnncore.load(keras_file),
    "convert onnx": lambda: command("convert", onnx_file, onnx_file + ".safetensors"),
    "convert keras": lambda: command("convert", keras_file, onnx_file + ".safetensors"),
    "ctc": lambda: rnncore.decode.ctc_beam([[[0.5, 0.5]]]),
    "parquet": lambda: __import__("rnncore.batch.readers.tables", fromlist=["pyarrow"]).pyarrow(),
    "serve": lambda: __import__("rnncore.serve"),
    "serve command": lambda: command("serve", "zoo:digits"),
}
found = {}
for name, task in tasks.items():
    try:
        task()
    except Exception as error:
        found[name] = [[kind.__name__ for kind in type(error).__mro__], str(error)]
print(json.dumps(found))
"""

BLOCKED = "torch,keras,onnx,onnxruntime,pyfive,fast_ctc_decode,pyarrow,starlette,prometheus_client"


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    from onnx import TensorProto, helper

    place = tmp_path_factory.mktemp("missing")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (place / "m.onnx").write_bytes(model.SerializeToString())
    words = [sys.executable, "-c", SCRIPT, str(place / "m.onnx"), str(GOLDEN / "chain.h5"), BLOCKED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in place.iterdir()] == ["m.onnx"]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("task", "how"),
    [
        ("from_torch", "pip install torch"),
        ("from_keras", "pip install keras"),
        ("from_onnx", 'pip install "rnncore[onnx]"'),
        ("load onnx", 'pip install "rnncore[onnx]"'),
        ("load keras", 'pip install "rnncore[keras]"'),
        ("ctc", 'pip install "rnncore[ctc]"'),
        ("parquet", 'pip install "rnncore[arrow]"'),
        ("serve", 'pip install "rnncore[serve]"'),
    ],
)
def test_functions(said, task, how):
    kinds, message = said[task]
    assert {"MissingPackageError", "UnsupportedError", "RnncoreError", "ImportError"} <= set(kinds)
    assert how in message


@pytest.mark.parametrize(
    ("task", "extra"), [("convert onnx", "onnx"), ("convert keras", "keras"), ("serve command", "serve")]
)
def test_commands(said, task, extra):
    _, message = said[task]
    assert message.startswith("error: ") and message.count("\n") == 1
    assert f'pip install "rnncore[{extra}]"' in message


def test_a_missing_file_is_both_errors(tmp_path):
    path = tmp_path / "none.pt"
    for found in (path, tmp_path, "zoo:nothing"):
        with pytest.raises(rnncore.MissingFileError) as caught:
            rnncore.load(found)
        assert isinstance(caught.value, FileNotFoundError) and isinstance(caught.value, rnncore.FormatError)
    with pytest.raises(FileNotFoundError) as caught:
        rnncore.load(path)
    assert str(caught.value) == f"{path}: No such file or directory"
    assert (caught.value.errno, caught.value.filename) == (2, str(path))
