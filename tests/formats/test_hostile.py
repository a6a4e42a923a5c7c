"""Every file of hostile_files.py: refused with our error and a message that says why, or read; never executed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from hostile_files import BENIGN, CANARY, HOSTILE, write
from refusals import SECONDS, assert_refused, assert_touches_nothing
from yardstick import within

from rnncore.errors import FormatError, RnncoreError
from rnncore.formats import npz_file, read_checkpoint, safetensors_file
from rnncore.formats.torch import file as torch_file


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name, tmp_path):
    case = HOSTILE[name]
    assert len(assert_refused(read_checkpoint, case, write(case, tmp_path))) < 1000


@pytest.mark.parametrize("name", BENIGN)
def test_benign_file_is_read(name, tmp_path):
    case = BENIGN[name]
    path = write(case, tmp_path)
    found = within(SECONDS, lambda: read_checkpoint(path))
    assert tuple(found.tensors) == case.tensors, case.why
    assert list(found.source_dtypes) == list(found.tensors)
    for array in found.tensors.values():
        assert not array.flags.writeable and array.dtype.isnative and array.flags.aligned


def test_there_are_enough_cases():
    assert len(HOSTILE) >= 100 and len(BENIGN) >= 20
    assert all(case.says and case.why and case.error for case in HOSTILE.values())


@pytest.mark.parametrize("name", [*HOSTILE, *BENIGN])
def test_every_reader_stands_every_file(name, tmp_path):
    """Each reader on each file, of whichever format: a Checkpoint or one of our errors."""
    path = write({**HOSTILE, **BENIGN}[name], tmp_path)
    for read in (torch_file.read, safetensors_file.read, npz_file.read):
        try:
            read(path)
        except RnncoreError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("name", [name for name, case in BENIGN.items() if len(case.build()) <= 10_000])
def test_damaged_file_is_our_error(name, tmp_path):
    """Every prefix of a benign file, and every byte of it changed: read, or refused with one of our errors."""
    case = BENIGN[name]
    data = case.build()
    path = tmp_path / "file"
    random = np.random.default_rng(0)
    variants = [data[:end] for end in range(0, len(data), 3)]
    for at in range(len(data)):
        variants += [
            data[:at] + bytes([byte]) + data[at + 1 :] for byte in {0, 0xFF, data[at] ^ 1, random.integers(256)}
        ]
    for variant in variants:
        path.write_bytes(variant)
        try:
            read_checkpoint(path)
        except RnncoreError as error:
            assert str(path) in str(error)


def test_nothing_is_opened_imported_or_run(tmp_path):
    (tmp_path / "evil_module.py").write_text(f"open({CANARY!r}, 'w').close()\ndef run(): pass\nclass Evil: pass\n")
    paths = [write(case, tmp_path) for case in {**HOSTILE, **BENIGN}.values()]
    warm = [tmp_path / f"fine_{name}.file" for name in ("torch_zip", "stream", "safetensors", "npz")]
    warm.append(tmp_path / "other_hdf5.file")  # Keras's reader is loaded at first use
    assert_touches_nothing(["read_checkpoint"], paths, warm, tmp_path)
    assert not (tmp_path / CANARY).exists()


def test_audit_would_see_a_payload(tmp_path):
    """The proof that the test above can fail: the same payload under Python's pickle leaves its canary."""
    (tmp_path / "evil_module.py").write_text(f"open({CANARY!r}, 'w').close()\n")
    script = "import pickle; pickle.loads(b'\\x80\\x02cevil_module\\nrun\\n.')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, timeout=280)
    assert (tmp_path / CANARY).exists()


def test_missing_file(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        read_checkpoint(tmp_path / "missing.pt")


def test_directory(tmp_path):
    with pytest.raises(FormatError, match="a directory, expected a regular file"):
        read_checkpoint(tmp_path)


def test_path_with_nul():
    with pytest.raises(FormatError, match="null"):
        read_checkpoint("a\0b")


def test_path_of_another_type():
    with pytest.raises(FormatError, match="path is int"):
        read_checkpoint(3)


def test_fifo_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FormatError, match="a fifo, expected a regular file"):
        read_checkpoint(tmp_path / "fifo")


def test_device():
    with pytest.raises(FormatError, match="a device, expected a regular file"):
        read_checkpoint("/dev/zero")


def test_unreadable_file(tmp_path, monkeypatch):
    """The system's refusal is made here, because tests may run as root, who may read everything."""
    path = tmp_path / "secret.pt"
    path.write_bytes(b"x")

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(FormatError, match="Permission denied"):
        read_checkpoint(path)


def test_sparse_file_of_a_terabyte_is_refused_at_once(tmp_path):
    """Its size promises a terabyte; nothing is read but what is needed to refuse."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(HOSTILE["safetensors_past_end"].build())
        file.truncate(1 << 40)

    def refusal():
        with pytest.raises(FormatError, match="where the last tensor ends"):
            read_checkpoint(path)

    within(SECONDS, refusal)
