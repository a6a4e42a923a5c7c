"""npz_file against numpy: what np.save, np.savez and np.savez_compressed write."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hostile_files import FLOATS, npy
from real_models import real_file

from rnncore.errors import FormatError, UnsupportedError
from rnncore.formats import npz_file, read_checkpoint

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7), (2, 1, 3)])
def test_npy(tmp_path, code, order, shape):
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape), order + code)
    np.save(tmp_path / "a.npy", array)
    found = read_checkpoint(tmp_path / "a.npy")
    assert found.format == "npy"
    read = found.tensors["array"]
    assert read.dtype == np.dtype(code) and read.dtype.isnative and read.shape == shape
    assert np.array_equal(read, array) and not read.flags.writeable
    assert found.source_dtypes == {"array": array.dtype.name}


def test_fortran_order(tmp_path):
    array = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.save(tmp_path / "a.npy", array)
    assert b"'fortran_order': True" in (tmp_path / "a.npy").read_bytes()
    read = read_checkpoint(tmp_path / "a.npy").tensors["array"]
    assert np.array_equal(read, array) and read.flags.f_contiguous and not read.flags.writeable


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(tmp_path, version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(3.0), version=version)
    (tmp_path / "a").write_bytes(file.getvalue())
    assert read_checkpoint(tmp_path / "a").tensors["array"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    random = np.random.default_rng(2)
    arrays = {
        "lstm.w": random.standard_normal((8, 3)),
        "b": random.standard_normal(4).astype("f4"),
        "dir/x": np.eye(3).T,
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_checkpoint(tmp_path / "a.npz")
    assert found.format == "npz" and list(found.tensors) == list(arrays)
    for name, array in arrays.items():
        assert found.tensors[name].dtype == array.dtype and np.array_equal(found.tensors[name], array)
    assert list(npz_file.read(tmp_path / "a.npz").tensors) == list(arrays)


def test_other_dtypes_are_skipped_with_their_reason(tmp_path):
    others = {
        "objects": np.array([{"a": 1}], dtype=object),
        "words": np.array(["a", "bc"]),
        "raw": np.array([b"a"]),
        "complex": np.ones(2, complex),
        "record": np.zeros(2, [("a", "f4"), ("b", "i4")]),
        "time": np.zeros(2, "M8[s]"),
    }
    np.savez(tmp_path / "a.npz", w=np.ones(2), **others)
    found = read_checkpoint(tmp_path / "a.npz")
    assert list(found.tensors) == ["w"]
    reasons = dict(found.skipped)
    assert set(reasons) == set(others)
    for name, word in {"objects": "a pickle", "words": "<U2", "raw": "S1", "complex": "<c16", "time": "<M8"}.items():
        assert word in reasons[name]
    assert "structured" in reasons["record"]


def test_object_array_alone_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedError, match="an array of objects, which are a pickle"):
        read_checkpoint(tmp_path / "a.npy")


def test_members_that_are_no_arrays_are_skipped(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("notes.txt", "hello")
    assert dict(read_checkpoint(tmp_path / "a.npz").skipped) == {"notes.txt": "not a .npy member"}


def test_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, w=np.full(100, 1.5))
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(1.5).tobytes() * 100) + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"w\.npy: checksum"):
        read_checkpoint(path)


def test_sparse_weights_may_be_compressed_well(tmp_path):
    """10 MB of zeros in a small file are within the budget of any archive."""
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(10 << 20, "u1"))
    assert read_checkpoint(tmp_path / "a.npz").tensors["w"].size == 10 << 20


HEADERS = {
    "keys in another order": "{'shape': (4,), 'fortran_order': False, 'descr': '<f4'}",
    "no spaces": "{'descr':'<f4','fortran_order':False,'shape':(4,)}",
    "padding and newline": "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 40 + "\n",
    "two dimensions": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_of_other_writers(tmp_path, header):
    (tmp_path / "a").write_bytes(npy(header))
    assert read_checkpoint(tmp_path / "a").tensors["array"].ravel().tolist() == [1, 2, 3, 4]


BAD_HEADERS = {
    "a fourth key": "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}",
    "a missing comma": "{'descr': '<f4' 'fortran_order': False, 'shape': (4,)}",
    "a number for a bool": "{'descr': '<f4', 'fortran_order': 0, 'shape': (4,)}",
    "a list for a tuple": "{'descr': '<f4', 'fortran_order': False, 'shape': [4]}",
    "arithmetic": "{'descr': '<f4', 'fortran_order': False, 'shape': (2*2,)}",
    "no dict": "('<f4', False, (4,))",
    "a comment behind": "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)} # x",
    "digits apart": "{'descr': '<f4', 'fortran_order': False, 'shape': (1 6,)}",
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_headers_that_are_refused(tmp_path, header):
    (tmp_path / "a").write_bytes(npy(header))
    with pytest.raises(FormatError, match="header"):
        read_checkpoint(tmp_path / "a")


def test_bool_that_is_no_bool(tmp_path):
    (tmp_path / "a").write_bytes(npy(descr="'|b1'", data=b"\0\1\2\1"))
    with pytest.raises(FormatError, match="a bool is 2, expected 0 or 1"):
        read_checkpoint(tmp_path / "a")


def test_message_names_member_found_and_expected(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("w.npy", npy(shape="(3,)", data=FLOATS))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(tmp_path / "a")
    assert str(caught.value) == f"{tmp_path / 'a'}: w.npy: 16 bytes of data, expected 12 for float32 (3,)"


def test_published_grapheme_model():
    """g2p_en's GRU encoder and decoder, an .npz of 2018: every array equals numpy's own reading."""
    path = real_file("g2p_en==2.1.0", "g2p_en/checkpoint20.npz")
    found = read_checkpoint(path)
    with np.load(path) as expected:
        assert list(found.tensors) == expected.files
        for name in expected.files:
            assert np.array_equal(found.tensors[name], expected[name])
    assert found.tensors["enc_w_ih"].shape[0] % 3 == 0
