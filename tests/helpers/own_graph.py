"""A format with the network in the file, as one file: a line of the Spec's JSON, then the weights' bytes in order."""

import json
import math

import numpy as np

from rnncore import Spec, Weights
from rnncore.formats._arrays import from_bytes
from rnncore.formats.listing import ListedNode, Listing
from rnncore.formats.native import ModelFile

MAGIC = b"own graph\n"


def looks_like(head):
    return head.startswith(MAGIC)


def read(cursor):
    cursor.seek(0)
    cursor.expect(MAGIC, "magic")
    spec = Spec.from_json(cursor.line())
    arrays = {
        name: from_bytes(cursor.bytes(4 * math.prod(shape)), "float32", cursor.place).reshape(shape)
        for name, shape in spec.weight_shapes().items()
    }
    return ModelFile(spec, Weights(spec, arrays), source="own")


def listing(cursor):
    found = read(cursor)
    nodes = tuple(ListedNode(f"nodes[{i}]", node.name, node.op) for i, node in enumerate(found.spec.nodes))
    return Listing(cursor.place, "own graph", nodes, facts={"version": "1"})


def write(path, spec, weights):
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in weights.values())
    path.write_bytes(MAGIC + json.dumps(spec.to_json()).encode() + b"\n" + data)
