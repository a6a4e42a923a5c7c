"""Writes onnx_nodes.zip: for each op the smallest of ONNX's own node tests that has it and no other of its kind.

python fuzz/seeds/make.py, with the package onnx (1.23.2 made the file that is committed). The other seeds are files
that once did harm; more come from the tests' builders when a target starts.
"""

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "helpers"))

from onnx_nodes import node_tests  # noqa: E402 - the tests' folder has to be known before

MOST = 4000


def main() -> None:
    smallest: dict[tuple, tuple[str, bytes]] = {}
    for name, case in sorted(node_tests().items()):
        data = case.model.SerializeToString()
        nodes = case.model.graph.node
        kind = tuple((node.op_type, len(node.input), len(node.output)) for node in nodes[:3])
        if len(data) <= MOST and (kind not in smallest or len(data) < len(smallest[kind][1])):
            smallest[kind] = (name, data)
    with zipfile.ZipFile(HERE / "onnx_nodes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(smallest.values()):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    print(len(smallest), "models")


if __name__ == "__main__":
    main()
