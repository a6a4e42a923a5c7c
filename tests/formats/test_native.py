"""rnncore's own file: what is saved is what is loaded, to the byte; everything else is refused; writing is atomic."""

import hashlib
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_agrees, assert_same_bits
from oracle import run_oracle
from paths import GOLDEN
from random_networks import draw_weights, random_network, seeds, stack

from rnncore.cells import GRU, LSTM
from rnncore.errors import FormatError, InputError, RnncoreError, SpecError, VerificationError, WeightError
from rnncore.files import atomic
from rnncore.formats import loading, native
from rnncore.formats.native import ModelFile
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.graph.weights import Weights
from rnncore.runtime.model import Model

SPEC = stack(LSTM(3, 4), direction="bidirectional")


def small(pair=True, seed=0):
    """A ModelFile of a small LSTM in float32, its pair computed by the oracle."""
    rng = np.random.default_rng(seed)
    weights = Weights(SPEC, {name: array.astype(np.float32) for name, array in draw_weights(SPEC, rng).items()})
    inputs = {"x": rng.standard_normal((2, 5, 3)).astype(np.float32), "lengths": np.array([5, 2])}
    proof = TestPair(inputs, run_oracle(SPEC, weights, inputs)) if pair else None
    return ModelFile(SPEC, weights, proof, "torch 2.13.0", "ab" * 32, ("dropout left out", "ünïcode"))


def read_parts(path):
    """Header and data of a safetensors file, read by the four lines of its specification."""
    content = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_parts(path, header, data):
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def change_metadata(path, change):
    """Rewrite the JSON object under the metadata key "rnncore"."""
    header, data = read_parts(path)
    found = json.loads(header["__metadata__"]["rnncore"])
    found = change(found) or found
    header["__metadata__"]["rnncore"] = found if isinstance(found, str) else json.dumps(found)
    write_parts(path, header, data)


def change_tensors(path, change):
    """Rewrite the tensors: a dict of name to array goes in, and comes out changed."""
    header, data = read_parts(path)
    metadata = header.pop("__metadata__")
    dtypes = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
    names = {np.dtype(dtype): name for name, dtype in dtypes.items()}
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(entry["shape"]).copy()
        for name, entry in header.items()
    }
    change(arrays)
    header, data = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    write_parts(path, header, data)


@pytest.fixture
def path(tmp_path):
    return native.write(tmp_path / "model.safetensors", small())


# --- round trip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(60))
def test_random_networks_come_back(seed, tmp_path):
    network = random_network(seed)
    dtype = ["float16", "float32", "float64"][seed % 3]
    weights = Weights(network.spec, {name: array.astype(dtype) for name, array in network.weights.items()})
    pair = TestPair(network.inputs, run_oracle(network.spec, weights, network.inputs)) if seed % 2 else None
    saved = ModelFile(network.spec, weights, pair, source=f"seed {seed}", notes=("a", "b"))
    found = native.read(native.write(tmp_path / "model.safetensors", saved))
    assert found.spec == saved.spec
    assert (found.source, found.sha256, found.notes, found.producer) == (saved.source, "", ("a", "b"), saved.producer)
    assert list(found.weights) == list(weights)
    for name, array in weights.items():
        assert_same_bits(found.weights[name], array, name)
    assert (found.test_pair is None) == (pair is None)
    if pair is not None:
        for side in ("inputs", "outputs"):
            ours, theirs = getattr(found.test_pair, side), getattr(pair, side)
            assert set(ours) == set(theirs)
            for name, array in theirs.items():
                assert_same_bits(ours[name], array, name)
        model = loading.load(tmp_path, dtype="float64", check=True)
        assert model.spec == network.spec


def backwards(arrays):
    return dict(reversed(list(arrays.items())))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """Whatever the order in which its parts were made, and through a load and a save."""
    model = small()
    shuffled = ModelFile(
        model.spec,
        Weights(SPEC, backwards(model.weights)),
        TestPair(backwards(model.test_pair.inputs), backwards(model.test_pair.outputs)),
        model.source,
        model.sha256,
        model.notes,
    )
    paths = [native.write(tmp_path / f"{i}.safetensors", each) for i, each in enumerate((model, model, shuffled))]
    paths.append(native.write(tmp_path / "again.safetensors", native.read(paths[0])))
    assert len({path.read_bytes() for path in paths}) == 1


def test_where_it_is_written(tmp_path):
    model = small()
    (tmp_path / "there").mkdir()
    for target, expected in [
        ("a.safetensors", "a.safetensors"),
        ("there", "there/model.safetensors"),
        ("new", "new/model.safetensors"),
        ("deep/er", "deep/er/model.safetensors"),
    ]:
        written = loading.save(tmp_path / target, model)
        assert written == tmp_path / expected
        assert native.read(written).spec == SPEC
        assert loading.load(str(tmp_path / target), check=True).spec == SPEC


def test_other_libraries_can_read_it(path):
    """It is a plain safetensors file."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    model = small()
    assert set(arrays) == {
        *model.weights,
        *(f"test_pair.inputs.{name}" for name in model.test_pair.inputs),
        *(f"test_pair.outputs.{name}" for name in model.test_pair.outputs),
    }
    for name, array in model.weights.items():
        assert_same_bits(arrays[name], array)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_model_computes_the_same_bits(path, dtype):
    model = small()
    pair = model.test_pair.inputs
    inputs = {name: array.astype(dtype) if array.dtype == "f4" else array for name, array in pair.items()}
    expected = Model(model.spec, model.weights, dtype).run(inputs)
    found = loading.load(path, dtype=dtype).run(inputs)
    for name, array in expected.items():
        assert_same_bits(found[name], array, name)


def test_float16_is_stored_as_it_is(tmp_path):
    """Half the size, the same numbers; what computes is float32."""
    model = small(pair=False)
    half = Weights(SPEC, {name: array.astype(np.float16) for name, array in model.weights.items()})
    path = loading.save(tmp_path / "half.safetensors", ModelFile(SPEC, half))
    found = loading.load(path)
    assert {array.dtype.name for array in found.weights.values()} == {"float16"}
    assert len(read_parts(path)[1]) == half.nbytes == sum(array.nbytes for array in model.weights.values()) // 2
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    exact = run_oracle(SPEC, half, {"x": x})
    assert_agrees(found.run({"x": x}), exact, "float32")


def test_save_takes_a_model_and_a_pair(tmp_path):
    file = small()
    model = Model(SPEC, file.weights)
    bare = loading.save(tmp_path / "bare.safetensors", model)
    assert native.read(bare).test_pair is None
    proved = loading.save(tmp_path / "proved.safetensors", model, test_pair=file.test_pair)
    assert loading.load(proved, check=True).spec == SPEC
    wrong = TestPair({"x": np.zeros((2, 5, 4), np.float32)}, file.test_pair.outputs)
    with pytest.raises(InputError, match=r"test pair: input 'x': float32 \(2, 5, 4\), expected float \(B, T, 3\)"):
        loading.save(tmp_path / "wrong.safetensors", model, test_pair=wrong)
    assert not (tmp_path / "wrong.safetensors").exists()


# --- proof --------------------------------------------------------------------------------------------------------


def test_check_passes_for_what_was_saved(path):
    assert loading.load(path, check=True).spec == SPEC
    assert loading.load(path, check=True, dtype="float64").dtype == "float64"


@pytest.mark.parametrize("name", sorted(SPEC.weight_shapes()))
def test_check_fails_for_any_altered_weight(path, name):
    """One number of one weight, by as little as a hundredth."""
    change_tensors(path, lambda arrays: arrays[name].reshape(-1).__setitem__(0, arrays[name].flat[0] + 0.01))
    loading.load(path)
    with pytest.raises(VerificationError, match=rf"{path}: rnn.*: DIFFERENT, largest error"):
        loading.load(path, check=True)


def test_check_fails_for_an_altered_pair(path):
    change_tensors(path, lambda arrays: arrays["test_pair.outputs.rnn.c"].__setitem__((0, 0, 0), np.nan))
    with pytest.raises(VerificationError, match=r"rnn\.c: DIFFERENT, largest error inf at \[0, 0, 0\]"):
        loading.load(path, check=True)


def test_check_fails_for_an_altered_spec(path):
    """Another activation has the same weights: only the proof can tell."""

    def alter(found):
        found["spec"]["nodes"][0]["cell"]["activations"] = ["sigmoid", "sigmoid", "tanh", "sigmoid", "softsign"]

    change_metadata(path, alter)
    loading.load(path)
    with pytest.raises(VerificationError):
        loading.load(path, check=True)


def test_check_without_a_pair(tmp_path):
    path = native.write(tmp_path / "m.safetensors", small(pair=False))
    loading.load(path)
    with pytest.raises(VerificationError, match=f"{path}: no test pair in this file, so there is nothing to verify"):
        loading.load(path, check=True)


def test_convert_verifies_before_it_writes(path, tmp_path):
    target, found, report = loading.convert(path, tmp_path / "copy.safetensors", verify=True)
    assert target.read_bytes() == path.read_bytes()
    assert report.passed and {difference.output for difference in report.differences} == set(SPEC.outputs)
    assert found.spec == SPEC
    change_tensors(path, lambda arrays: arrays["rnn.bias_l0"].__iadd__(0.1))
    with pytest.raises(VerificationError):
        loading.convert(path, tmp_path / "other.safetensors", verify=True)
    assert not (tmp_path / "other.safetensors").exists()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            lambda m: m.update(magic=1),
            FormatError,
            "metadata 'rnncore': .*magic.*, expected an object with dtype, format",
        ),
        (lambda m: m.update(format=2), FormatError, "format 2, this version of rnncore reads 1"),
        (lambda m: m.update(format=0), FormatError, "format 0"),
        (lambda m: m.update(format="1"), FormatError, "format '1'"),
        (lambda m: m.update(format=None), FormatError, "format None"),
        (lambda m: m.pop("format") and None, FormatError, "expected an object with dtype, format"),
        (lambda m: m.pop("spec") and None, FormatError, "expected an object with dtype, format"),
        (lambda m: m.update(spec="{}"), FormatError, "spec: str, expected an object"),
        (lambda m: m.update(spec=[]), FormatError, "spec: list, expected an object"),
        (lambda m: m["spec"].update(format=2), SpecError, "Spec: format 2, this version of rnncore reads 1"),
        (lambda m: m["spec"].update(extra=2), SpecError, "Spec: unknown key 'extra'"),
        (lambda m: m["spec"]["nodes"][0].update(op="LSTM"), SpecError, "unknown key 'cell'|op 'LSTM' is unknown"),
        (
            lambda m: m["spec"]["nodes"][0]["cell"].update(hidden_size=5),
            RnncoreError,
            "test pair: output 'rnn': .*expected float .B, T, 10.",
        ),
        (lambda m: m["spec"]["nodes"][0]["cell"].update(hidden_size=10**400), SpecError, "hidden_size"),
        (lambda m: m.update(notes="a"), FormatError, "notes: expected a list of strings"),
        (lambda m: m.update(notes=[1]), FormatError, "notes: expected a list of strings"),
        (lambda m: m.update(source=5), FormatError, "source: int, expected a string"),
        (lambda m: m.update(sha256=None), FormatError, "sha256: NoneType, expected a string"),
        (lambda m: m.update(producer=[]), FormatError, "producer: list, expected a string"),
        (lambda m: "{", FormatError, "metadata 'rnncore': not JSON"),
        (lambda m: "[]", FormatError, "metadata 'rnncore': list, expected an object"),
        (lambda m: "5", FormatError, "metadata 'rnncore': int"),
        (lambda m: "[" * 200_000, FormatError, "metadata 'rnncore': not JSON"),
    ],
)
def test_metadata_that_is_refused(path, change, error, says):
    change_metadata(path, change)
    with pytest.raises(error, match=says) as caught:
        loading.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(error, match=says):
        native.read(path)


def without(name):
    return lambda arrays: arrays.pop(name)


def with_array(name, array):
    return lambda arrays: arrays.update({name: array})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (without("rnn.bias_l0"), WeightError, "1 missing: rnn.bias_l0"),
        (with_array("rnn.bias_l1", np.zeros(16, "f4")), WeightError, "1 that the Spec does not have: rnn.bias_l1"),
        (with_array("rnn.bias_l0", np.zeros(15, "f4")), WeightError, r"rnn.bias_l0: shape \(15,\), expected \(16,\)"),
        (with_array("rnn.bias_l0", np.zeros((16, 1), "f4")), WeightError, r"rnn.bias_l0: shape \(16, 1\)"),
        (with_array("rnn.bias_l0", np.zeros(16, "i8")), WeightError, "rnn.bias_l0: dtype int64, expected float16"),
        (
            with_array("test_pair.weights.x", np.zeros(1, "f4")),
            FormatError,
            "tensor 'test_pair.weights.x', expected test_pair.inputs.NAME",
        ),
        (with_array("test_pair.inputs.y", np.zeros(1, "f4")), InputError, "test pair: inputs .*y, expected x, lengths"),
        (without("test_pair.inputs.x"), InputError, "test pair: inputs lengths, expected x, lengths"),
        (without("test_pair.outputs.rnn.h"), InputError, "test pair: outputs"),
        (with_array("test_pair.outputs.rnn.h", np.zeros((1, 2, 4), "f4")), InputError, "test pair: output 'rnn.h'"),
        (with_array("test_pair.inputs.x", np.zeros((2, 5, 3), "i8")), InputError, "test pair: input 'x': int64"),
    ],
)
def test_tensors_that_are_refused(path, change, error, says):
    change_tensors(path, change)
    with pytest.raises(error, match=says) as caught:
        loading.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, -1])
def test_a_file_cut_short(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(RnncoreError, match=str(path)):
        loading.load(path)


def test_every_flipped_byte_of_the_header_is_noticed_or_harmless(path):
    """A damaged file is an error of ours or still a model; never another exception."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    rng = np.random.default_rng(0)
    for at in sorted({*range(8), *rng.integers(8, 8 + size, 300).tolist()}):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert isinstance(loading.load(path), Model)
        except RnncoreError as error:
            assert str(path) in str(error), f"byte {at}: {error}"


def test_a_native_file_holds_its_own_spec(path):
    for options in ({"spec": SPEC}, {"names": {}}):
        with pytest.raises(SpecError, match=f"{path}: this file holds its own network, expected no spec or names"):
            loading.load(path, **options)


def test_a_safetensors_file_of_others_is_no_native_file(path):
    header, data = read_parts(path)
    del header["__metadata__"]
    write_parts(path, header, data)
    with pytest.raises(FormatError, match="a safetensors file without a Spec"):
        native.read(path)


def test_files_that_are_not_there(tmp_path):
    for missing in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises((RnncoreError, OSError), match=r"no.safetensors|model.safetensors"):
            loading.load(missing)
    with pytest.raises(FormatError, match="zoo:nothing: no such model, expected one of"):
        loading.load("zoo:nothing")
    with pytest.raises(FormatError, match="<int>: expected a path, bytes or a binary file"):
        loading.load(5)


# --- atomic writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod", "fdopen"])
def test_a_failing_write_leaves_the_old_file(path, step, monkeypatch):
    """Every system call on the way may fail; the old file stays, to the byte, and nothing lies beside it."""
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        native.write(path, small(seed=1))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    native.write(path, small(seed=1))
    assert path.read_bytes() != before


def test_an_interrupted_write_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_new_file_is_there_only_when_it_is_whole(tmp_path):
    target = tmp_path / "m.safetensors"
    with atomic.replacing(target) as file:
        file.write(b"abc")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert os.listdir(tmp_path) == [target.name]


def test_permissions_are_kept_or_those_of_a_new_file(tmp_path):
    target, plain = tmp_path / "m", tmp_path / "plain"
    plain.touch()
    atomic.write(target, b"1")
    assert target.stat().st_mode == plain.stat().st_mode
    target.chmod(0o640)
    atomic.write(target, b"2")
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.read_bytes() == b"2"


# --- golden -------------------------------------------------------------------------------------------------------

SHA256 = {"v1.safetensors": "9b0f9e22b7d7b3ca9e49ec9067f5f12cb2acc63f1f76081d5862e40847b9de96"}


@pytest.mark.parametrize("name", sorted(SHA256))
def test_golden_files_are_never_written_again(name):
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(SHA256))
@pytest.mark.filterwarnings("ignore:.*given to a float32 model is cast")
def test_golden_files_load_and_compute(name, dtype):
    model = loading.load(GOLDEN / name, check=True, dtype=dtype)
    found = native.read(GOLDEN / name)
    assert_agrees(found.test_pair.outputs, run_oracle(found.spec, found.weights, found.test_pair.inputs), "float64")
    assert model.spec == found.spec


def test_golden_v1_holds_what_its_generator_says(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN))
    try:
        import make_v1

        expected = make_v1.golden()
    finally:
        sys.modules.pop("make_v1", None)
    found = native.read(GOLDEN / "v1.safetensors")
    assert found.spec == expected.spec
    assert (found.source, found.sha256, found.notes, found.producer) == (
        expected.source, expected.sha256, expected.notes, expected.producer,
    )  # fmt: skip
    for name, array in expected.weights.items():
        assert_same_bits(found.weights[name], array, name)
    for name, array in expected.test_pair.inputs.items():
        assert_same_bits(found.test_pair.inputs[name], array, name)


def test_there_is_a_golden_file_for_every_format():
    assert len(SHA256) == native.FORMAT_VERSION
    assert sorted(SHA256) == sorted(path.name for path in GOLDEN.glob("*.safetensors"))


def test_names_that_look_like_others(tmp_path):
    """Nodes may be called anything printable: the file must not mix them up with its own names."""
    spec = Spec(
        [Input("test_pair.inputs.x", "float", ("B", "T", 2))],
        [Recurrent("rnncore", GRU(2, 3), "test_pair.inputs.x"), Recurrent("__metadata__", GRU(3, 2), "rnncore")],
        ["__metadata__", "rnncore.h"],
    )
    weights = Weights(spec, draw_weights(spec, np.random.default_rng(0)))
    inputs = {"test_pair.inputs.x": np.ones((1, 2, 2))}
    saved = ModelFile(spec, weights, TestPair(inputs, run_oracle(spec, weights, inputs)))
    path = native.write(tmp_path / "m.safetensors", saved)
    assert loading.load(path, dtype="float64", check=True).spec == spec


def test_a_node_called_like_the_test_pair(tmp_path):
    """Its weights would be read back as a test pair."""
    spec = Spec(
        [Input("x", "float", ("B", "T", 2))], [Recurrent("test_pair.inputs", GRU(2, 3), "x")], ["test_pair.inputs"]
    )
    saved = ModelFile(spec, Weights(spec, draw_weights(spec, np.random.default_rng(0))))
    with pytest.raises(SpecError, match=r"test_pair\.inputs\.weight_ih_l0: the node's name begins with 'test_pair\.'"):
        native.write(tmp_path / "m.safetensors", saved)
    assert not list(tmp_path.iterdir())
