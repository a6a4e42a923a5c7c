"""safetensors_file against the reference implementation: what it writes, we read; the numbers are the same."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hostile_files import FLOATS, entry, safetensors_of

from rnncore.errors import FormatError, UnsupportedError
from rnncore.formats import read_checkpoint, safetensors_file

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7), (2, 1, 3)])
def test_what_the_library_writes(tmp_path, code, shape):
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape), code)
    safetensors.numpy.save_file({"x": array}, tmp_path / "a")
    found = read_checkpoint(tmp_path / "a")
    assert found.format == "safetensors"
    assert found.tensors["x"].dtype == array.dtype and found.tensors["x"].shape == shape
    assert found.tensors["x"].tobytes() == array.tobytes()
    assert found.source_dtypes == {"x": array.dtype.name}


def test_many_tensors_and_metadata(tmp_path):
    random = np.random.default_rng(1)
    arrays = {f"layer.{i}": random.standard_normal((i, 3)).astype(["f4", "f8", "f2"][i % 3]) for i in range(20)}
    safetensors.numpy.save_file(arrays, tmp_path / "a", metadata={"format": "np", "ключ": "значение"})
    found = safetensors_file.read(tmp_path / "a")
    assert set(found.tensors) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found.tensors[name], array) and not found.tensors[name].flags.writeable
        assert found.tensors[name].flags.aligned
    assert found.metadata == {"format": "np", "ключ": "значение"}


def test_tensors_come_in_the_order_of_their_data(tmp_path):
    header = {"z": entry(shape=(2,), begin=8, end=16), "y": entry(shape=(2,), begin=0, end=8)}
    (tmp_path / "a").write_bytes(safetensors_of(header))
    tensors = read_checkpoint(tmp_path / "a").tensors
    assert list(tensors) == ["y", "z"]
    assert tensors["y"].tolist() == [1, 2] and tensors["z"].tolist() == [3, 4]


def test_bfloat16_is_widened(tmp_path):
    import safetensors.torch
    import torch

    tensor = torch.randn(5, 3).bfloat16()
    safetensors.torch.save_file({"x": tensor}, tmp_path / "a")
    found = read_checkpoint(tmp_path / "a")
    assert found.tensors["x"].dtype == np.float32
    assert np.array_equal(found.tensors["x"], tensor.float().numpy())
    assert found.source_dtypes == {"x": "bfloat16"}


def test_float8_is_refused_by_name(tmp_path):
    import safetensors.torch
    import torch

    safetensors.torch.save_file({"layer.w": torch.ones(4).to(torch.float8_e5m2)}, tmp_path / "a")
    with pytest.raises(UnsupportedError, match=r"layer\.w: dtype F8_E5M2, expected one of F64"):
        read_checkpoint(tmp_path / "a")


def test_unaligned_header_gives_aligned_arrays(tmp_path):
    raw = json.dumps({"w": entry()}).encode()
    raw += b" " * ((8 - len(raw)) % 8 + 3)
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(raw)) + raw + FLOATS)
    array = read_checkpoint(tmp_path / "a").tensors["w"]
    assert array.flags.aligned and array.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "имя", "x" * 1000])
def test_names_are_labels(tmp_path, name):
    (tmp_path / "a").write_bytes(safetensors_of({name: entry()}))
    assert list(read_checkpoint(tmp_path / "a").tensors) == [name]


def test_name_too_long(tmp_path):
    (tmp_path / "a").write_bytes(safetensors_of({"x" * 1001: entry()}))
    with pytest.raises(FormatError, match="1001 characters, expected at most 1000"):
        read_checkpoint(tmp_path / "a")


FIELDS = {
    "shape as a number": ({**entry(), "shape": 4}, "shape is int, expected a list"),
    "three offsets": ({**entry(), "data_offsets": [0, 16, 16]}, "data_offsets are no two integers"),
    "an offset as text": ({**entry(), "data_offsets": [0, "16"]}, "data_offsets are no two integers"),
    "a negative offset": ({**entry(), "data_offsets": [-16, 0]}, "data_offsets are no two integers"),
    "a dtype as a number": ({**entry(), "dtype": 4}, "dtype 4 is unknown"),
    "an entry as a list": ([1], "expected an object of dtype, shape and data_offsets"),
}


@pytest.mark.parametrize(("found", "says"), FIELDS.values(), ids=FIELDS)
def test_fields(tmp_path, found, says):
    (tmp_path / "a").write_bytes(safetensors_of({"w": found}))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(tmp_path / "a")
    assert f"header: w: {says}" in str(caught.value)


def test_header_that_does_not_begin_with_a_brace(tmp_path):
    (tmp_path / "a").write_bytes(safetensors_of(" " + json.dumps({"w": entry()})))
    with pytest.raises(FormatError, match=r"header: begins with b' ', expected b'\{'"):
        safetensors_file.read(tmp_path / "a")


def test_message_names_file_tensor_found_and_expected(tmp_path):
    (tmp_path / "a").write_bytes(safetensors_of({"lstm.bias": entry(shape=(3,))}))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(tmp_path / "a")
    assert str(caught.value) == f"{tmp_path / 'a'}: header: lstm.bias: 16 bytes, expected 12 for F32 (3,)"


def test_large_file_is_not_copied(tmp_path):
    import tracemalloc

    safetensors.numpy.save_file({f"w{i}": np.zeros(1 << 20, "f4") for i in range(16)}, tmp_path / "a")
    tracemalloc.start()
    found = read_checkpoint(tmp_path / "a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.tensors) == 16 and peak < 1.2 * (64 << 20)
