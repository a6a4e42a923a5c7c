"""A format of tensors, as one file: lines of a tensor's name, dtype and sizes, each followed by its bytes."""

import math

from rnncore.errors import FormatError
from rnncore.formats._arrays import ITEM_SIZES, check_name, from_bytes
from rnncore.formats.checkpoint import Checkpoint

MAGIC = b"own weights\n"


def looks_like(head):
    return head.startswith(MAGIC)


def read_open(cursor):
    cursor.seek(0)
    cursor.expect(MAGIC, "magic")
    tensors, dtypes = {}, {}
    while cursor.remaining:
        name, dtype, *sizes = cursor.line().decode().split()
        check_name(name, cursor.place)
        if dtype not in ITEM_SIZES:
            raise FormatError(f"{cursor.place}: {name}: dtype {dtype!r}, expected one of {', '.join(ITEM_SIZES)}")
        shape = tuple(map(int, sizes))
        data = cursor.bytes(math.prod(shape) * ITEM_SIZES[dtype])
        tensors[name], dtypes[name] = from_bytes(data, dtype, cursor.place).reshape(shape), dtype
    return Checkpoint(cursor.place, "own weights", tensors, dtypes)


def write(path, tensors):
    pieces = [
        b"%s %s %s\n%s"
        % (name.encode(), array.dtype.name.encode(), " ".join(map(str, array.shape)).encode(), array.tobytes())
        for name, array in tensors.items()
    ]
    path.write_bytes(MAGIC + b"".join(pieces))
