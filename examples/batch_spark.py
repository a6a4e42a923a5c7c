"""A model over Parquet files on Spark, through predict_batch_udf.

    pip install "rnncore[spark]"  (and Java 17)
    python examples/batch_spark.py

predict_batch_udf gives rectangular arrays, so rows are filled up, and a column says how much of each counts. The model
is loaded once in each Python worker.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from pathlib import Path

from batch_data import check, prepare
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

from rnncore.batch import BatchPredictor

STEPS, TAGS = 32, 5


def make_predict(path: str):
    """What Spark calls in each worker: from arrays (rows, STEPS) and (rows,) to (rows, STEPS * TAGS)."""
    predictor = BatchPredictor(path)

    def predict(tokens, lengths):
        found = predictor({"tokens": tokens.astype("int64"), "lengths": lengths.astype("int64")})["tags"]
        return found.reshape(len(found), -1)

    return predict


def main() -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers' Python: this one, with pandas and rnncore
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        tags = predict_batch_udf(
            functools.partial(make_predict, str(folder / "tagger.safetensors")),
            return_type=ArrayType(FloatType()),
            batch_size=128,
            input_tensor_shapes=[[STEPS], None],
        )
        rows = spark.read.parquet(str(folder / "texts")).withColumn("lengths", F.size("tokens"))
        full = rows.withColumn(
            "tokens", F.slice(F.concat("tokens", F.array_repeat(F.lit(0).cast("long"), STEPS)), 1, STEPS)
        )
        found = full.select("id", "lengths", tags("tokens", "lengths").alias("tags")).collect()
        check(
            folder,
            (
                {"id": row.id, "tags": [row.tags[t * TAGS : (t + 1) * TAGS] for t in range(row.lengths)]}
                for row in found
            ),
        )
    spark.stop()


if __name__ == "__main__":
    main()
