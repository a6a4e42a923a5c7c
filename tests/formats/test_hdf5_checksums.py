"""Fletcher-32 of HDF5 against h5py: what it wrote is read, what was changed is refused."""

import io

import numpy as np
import pytest
from random_networks import seeds

from rnncore.errors import FormatError
from rnncore.files.cursor import Cursor
from rnncore.formats.hdf5_file import open_hdf5

h5py = pytest.importorskip("h5py")

KINDS = {
    "zeros": lambda rng, count: np.zeros(count, np.uint8),
    "ones": lambda rng, count: np.full(count, 0xFF, np.uint8),
    "words of 0 and 65535": lambda rng, count: np.repeat(rng.choice([0, 0xFF], -(-count // 2)), 2)[:count],
    "zeros at first": lambda rng, count: np.where(np.arange(count) < count // 2, 0, rng.integers(0, 256, count)),
    "sums of 65535": lambda rng, count: np.where(np.arange(count) % 4 < 2, rng.integers(0, 256), 0),
    "anything": lambda rng, count: rng.integers(0, 256, count),
}


def written(array, chunk, **options):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("a", data=array, chunks=(chunk,), fletcher32=True, **options)
    return buffer.getvalue()


def read(data):
    return open_hdf5(Cursor(data, "file")).dataset("a").read()


@pytest.mark.parametrize("kind", KINDS)
def test_what_h5py_wrote(kind):
    rng = np.random.default_rng([32, len(kind)])
    for _ in seeds(10):
        count = int(rng.integers(1, 40))
        array = KINDS[kind](rng, count).astype(np.uint8)
        np.testing.assert_array_equal(read(written(array, int(rng.integers(1, count + 1)))), array)
        np.testing.assert_array_equal(read(written(array, count, compression="gzip")), array)


@pytest.mark.parametrize("kind", ["zeros", "anything"])
def test_what_was_changed(kind):
    array = KINDS[kind](np.random.default_rng(32), 64).astype(np.uint8)
    data = written(array, 64)
    with h5py.File(io.BytesIO(data)) as file:
        place = file["a"].id.get_chunk_info(0).byte_offset
    for offset in (0, 31, 63, 64, 67):  # the last two are the checksum's own
        damaged = bytearray(data)
        damaged[place + offset] ^= 0x10
        with pytest.raises(FormatError, match="checksum"):
            read(bytes(damaged))
