"""A model over Parquet files on Apache Beam, through RunInference.

pip install "rnncore[beam]"
python examples/batch_beam.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference
from batch_data import check, prepare

from rnncore.batch import BatchPredictor


class RnncoreHandler(ModelHandler[dict[str, Any], dict[str, Any], BatchPredictor]):
    """Rows as dicts in, with the outputs in them out; the model is loaded once in each process."""

    def __init__(self, path: str):
        super().__init__(max_batch_size=128)
        self._path = path

    def load_model(self) -> BatchPredictor:
        return BatchPredictor(self._path)

    def run_inference(
        self, batch: Sequence[dict[str, Any]], model: BatchPredictor, inference_args=None
    ) -> Iterable[dict[str, Any]]:
        found = model({"id": [row["id"] for row in batch], "tokens": [np.array(row["tokens"]) for row in batch]})
        return [{"id": name, "tags": tags} for name, tags in zip(found["id"], found["tags"], strict=True)]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with beam.Pipeline() as pipeline:
            (
                pipeline
                | beam.io.ReadFromParquet(str(folder / "texts" / "*.parquet"))
                | RunInference(RnncoreHandler(str(folder / "tagger.safetensors")))
                | beam.Map(lambda row: json.dumps({"id": row["id"], "tags": row["tags"].tolist()}))
                | beam.io.WriteToText(str(folder / "tags"), file_name_suffix=".jsonl")
            )
        lines = [line for path in folder.glob("tags*.jsonl") for line in path.read_text().splitlines()]
        check(folder, map(json.loads, lines))


if __name__ == "__main__":
    main()
