"""A model over Parquet files on a Ray cluster, with a checkpoint that a second run goes on from.

    pip install "rnncore[ray]"
    python examples/batch_ray.py

Ray counts CPUs and does not measure them: an actor keeps what it is given, the one of Ray that looks into the
checkpoint keeps one too, and listing, reading and writing need another, or nothing moves. So on a machine of two CPUs
the actor of the model asks for none, as here; where there are two CPUs more than actors, give each its own (cpus=1).
With a checkpoint, rows whose results were written are left out when the same script runs again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import ray
from batch_data import check, prepare
from ray.data.checkpoint import CheckpointConfig

from rnncore.batch import BatchPredictor


def run(folder: Path, actors: int, cpus: float) -> None:
    ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "checkpoint"), delete_checkpoint_on_success=False
    )
    (
        ray.data.read_parquet(str(folder / "texts"))
        .map_batches(
            BatchPredictor,
            fn_constructor_args=(str(folder / "tagger.safetensors"),),
            fn_constructor_kwargs={"keep": ("id",)},
            batch_size=128,
            num_cpus=cpus,
            compute=ray.data.ActorPoolStrategy(size=actors),
        )
        .write_parquet(str(folder / "tags"), mode="append")
    )


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        run(folder, actors=1, cpus=0)
        check(folder, pq.read_table(folder / "tags").to_pylist())
        written = sorted((folder / "tags").iterdir())
        run(folder, actors=1, cpus=0)  # everything is in the checkpoint: nothing is run or written again
        assert sum(pq.read_table(path).num_rows for path in (folder / "tags").iterdir()) == sum(
            pq.read_table(path).num_rows for path in written
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
