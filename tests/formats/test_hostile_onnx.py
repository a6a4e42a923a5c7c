"""Every file of hostile_onnx.py: refused with our error and a message that says why, or read and run."""

from __future__ import annotations

import numpy as np
import pytest
from hostile_onnx import BENIGN, HOSTILE, external, weights_beside, with_tensor, write
from refusals import SECONDS, assert_refused, assert_touches_nothing
from yardstick import within

import rnncore
from rnncore.errors import FormatError, RnncoreError, UnsupportedError
from rnncore.formats import read_file, read_listing


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name, tmp_path):
    case = HOSTILE[name]
    assert len(assert_refused(read_file, case, write(case, tmp_path))) < 1000


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_supported_can_be_listed(name, tmp_path):
    """A file whose graph can be read has a listing that says what is wrong with it, and what is damaged has none."""
    case = HOSTILE[name]
    path = write(case, tmp_path)
    try:
        found = read_listing(path)
    except (FormatError, UnsupportedError) as error:
        assert str(path) in str(error)
    else:
        problems = [node.problem for node in found.nodes if node.problem] + [found.problem or ""]
        assert any(case.says in problem for problem in problems)


@pytest.mark.parametrize("name", BENIGN)
def test_benign_file_runs(name, tmp_path):
    case = BENIGN[name]
    inputs, outputs = case.run
    path = write(case, tmp_path)
    model = within(SECONDS, lambda: rnncore.load(path))
    found = model.run(inputs)
    assert found.keys() == outputs.keys()
    for key, array in outputs.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6, err_msg=case.why)


def test_there_are_enough_cases():
    assert len(HOSTILE) >= 35 and len(BENIGN) >= 15
    assert all(case.says and case.why and case.error for case in HOSTILE.values())


@pytest.mark.parametrize("name", ["fine_relu", "fine_function", "fine_nested_if", "fine_half_in_int32"])
def test_damaged_file_is_our_error(name, tmp_path):
    """Prefixes of a benign file, and bytes of it changed: read, or refused with one of our errors."""
    built = BENIGN[name].build()
    data = built if isinstance(built, bytes) else built.SerializeToString()
    path = tmp_path / "model.onnx"
    random = np.random.default_rng(0)
    variants = [data[:end] for end in range(3, len(data), 5)]
    for at in range(0, len(data), 2):
        variants += [data[:at] + bytes([byte]) + data[at + 1 :] for byte in {0, data[at] ^ 1, random.integers(256)}]
    for variant in variants:
        path.write_bytes(variant)
        try:
            rnncore.load(path)
        except RnncoreError as error:
            assert str(path) in str(error)


def test_external_data_follows_the_directory_that_was_opened(tmp_path):
    """A model that is reached through a linked directory has its weights there."""
    real = tmp_path / "real"
    real.mkdir()
    weights_beside(real)
    (real / "model.onnx").write_bytes(with_tensor(external("w.bin")).SerializeToString())
    (tmp_path / "link").symlink_to(real)
    found = rnncore.load(tmp_path / "link" / "model.onnx").run({"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(found["y"], [[1, 2, 3]])


def test_nothing_is_opened_outside_imported_or_run(tmp_path):
    """Only the model's own directory is opened."""
    paths = [write(case, tmp_path) for case in {**HOSTILE, **BENIGN}.values()]
    warm = [tmp_path / name / "model.onnx" for name in BENIGN]
    assert_touches_nothing(["read_file", "read_listing"], paths, warm, tmp_path, beside=True)
