"""A batch script: many sequences of different lengths through a model, from file to file.

    python examples/batch.py

`rnncore run MODEL -i SRC -o DST` does the same from a terminal for files of any size, in shards, and goes on after a
crash with --resume.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

import rnncore

model = rnncore.load("zoo:names")
letters, countries = model.vocabulary["tokens"], model.vocabulary["probabilities"]

with tempfile.TemporaryDirectory() as directory:
    source, target = Path(directory) / "names.jsonl", Path(directory) / "countries.jsonl"
    names = ["tanaka", "di stefano", "schroeder", "papadopoulos", "okonkwo"] * 200
    source.write_text("".join(json.dumps({"name": name}) + "\n" for name in names), encoding="utf-8")

    rows = [json.loads(line)["name"] for line in source.read_text(encoding="utf-8").splitlines()]
    shares = model.predict([np.array(letters.ids(name)) for name in rows], batch_size=256)  # in the order of the rows
    with open(target, "w", encoding="utf-8") as file:
        for name, share in zip(rows, shares, strict=True):
            file.write(json.dumps({"name": name, "country": countries[int(share.argmax())]}) + "\n")
    lines = target.read_text(encoding="utf-8").splitlines()
    print(f"{len(lines)} rows, the first: {lines[0]}")
