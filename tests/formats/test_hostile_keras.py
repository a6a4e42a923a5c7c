"""Every file of hostile_keras.py: refused with one of our errors and a message that says why, or read; never run."""

import json

import h5py
import numpy as np
import paths
import pytest
from hostile_files import CANARY, write
from hostile_keras import BENIGN, BIAS, HOSTILE, KERNEL
from refusals import SECONDS, assert_refused, assert_touches_nothing
from yardstick import within

import rnncore
from rnncore.errors import RnncoreError
from rnncore.formats import read_file

GOLDEN = paths.GOLDEN / "keras"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name, tmp_path):
    case = HOSTILE[name]
    path = write(case, tmp_path)
    assert assert_refused(read_file, case, path).startswith(str(path))


@pytest.mark.parametrize("name", BENIGN)
def test_benign_file_is_read(name, tmp_path):
    model = rnncore.load(write(BENIGN[name], tmp_path))
    x = np.array([[1, -2, 0.5]], np.float32)
    np.testing.assert_allclose(model(x), x @ KERNEL + BIAS, rtol=1e-6, err_msg=BENIGN[name].why)


def test_there_are_enough_cases():
    assert len(HOSTILE) >= 35 and len(BENIGN) >= 20
    assert all(case.why and case.error for case in HOSTILE.values())


def read_or_refuse(path):
    """Read, or refused with one of our errors that names the file."""
    try:
        read_file(path)
    except RnncoreError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("name", ["fine_h5", "latest_headers", "gzip_chunks"])
def test_damaged_file_is_our_error(name, tmp_path):
    """Prefixes of a benign file, and bytes of it changed: read, or refused with one of our errors, within time."""
    data = BENIGN[name].build()
    path = tmp_path / "file"
    random = np.random.default_rng(0)
    variants = [data[:end] for end in range(0, len(data), len(data) // 60)]
    for at in random.integers(0, len(data), 300):
        byte = int(random.choice([0, 0xFF, data[at] ^ 1, data[at] ^ 0x80]))
        variants.append(data[:at] + bytes([byte]) + data[at + 1 :])
    for variant in variants:
        path.write_bytes(variant)
        within(SECONDS, lambda: read_or_refuse(path))


ODD = [
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    "",
    "relu",
    "..",
    [],
    {},
    [None],
    [[1]],
    {"class_name": "LSTM"},
    {"a": {"b": 1}},
]


def mutated(found, random):
    """A config with one value of it, anywhere, replaced by another."""
    places = []

    def visit(item):
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            places.append((item, key))
            visit(item[key])

    visit(found)
    item, key = places[random.integers(len(places))]
    item[key] = ODD[random.integers(len(ODD))]
    return found


@pytest.mark.parametrize(
    "name", ["convolutions", "encoder_decoder", "stacked_cells", "attentions", "nested_sequential"]
)
def test_damaged_config_is_our_error(name, tmp_path):
    """Any value of a config replaced by anything: read, or refused with one of our errors that names the file."""
    path = tmp_path / "model.h5"
    path.write_bytes((GOLDEN / f"{name}.h5").read_bytes())
    with h5py.File(path) as file:
        text = file.attrs["model_config"]
    for seed in range(120):
        config = mutated(json.loads(text), np.random.default_rng([seed, 4]))
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = json.dumps(config)
        within(SECONDS, lambda: read_or_refuse(path))


def test_nothing_is_opened_imported_or_run(tmp_path):
    (tmp_path / "evil_module.py").write_text(f"open({CANARY!r}, 'w').close()\nclass Evil: pass\n")
    paths = [write(case, tmp_path) for case in {**HOSTILE, **BENIGN}.values()]
    warm = [tmp_path / f"{name}.file" for name in ("fine_h5", "fine_keras", "gzip_chunks", "many_attributes")]
    assert_touches_nothing(["read_file"], paths, warm, tmp_path)
    assert not (tmp_path / CANARY).exists()
