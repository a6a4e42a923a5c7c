"""Models over files of any size, on one machine or on many.

    plan.py      what may be done with a model's rows: run alone, padded, and how much memory they need
    rows.py      consecutive rows of the data, as columns
    readers/     data files -> rows
    changes.py   whether files still are what they were, and a hash of rows
    sources.py   files, folders, globs and standard input; where shards are cut
    runner.py    a model over the rows of a shard
    workers.py   threads that run batches in parallel
    outputs.py   results -> the bytes of a shard, and shards -> one file
    journal.py   the manifest, the lock
    job.py       a whole run: resumed, stopped, out of disk
    predictor.py BatchPredictor, for Ray Data, Spark, Dask and Beam

``rnncore run`` is its command line.

Decisions

- A batch run is shards and a line for each. A shard's file is on disk before its line in the manifest is, and its
  bytes depend on its rows alone, so a run that was killed goes on to the same bytes. Rows run together, or are
  filled up, only where the graph proves that they cannot meet (`batch/plan.py`); what is not proven runs alone.
- A batch run reads files as they were when it began. Each part that is read is followed by a look at the file's
  stamp (size, times, inode), so what becomes a shard comes from one state of the file. A shard's line has a hash of
  its rows, however they were read: where stamps differ when a run is resumed, the rows are read once more and
  compared, and nothing is read twice otherwise. Each line's checksum covers the line before.
"""

from rnncore.batch.predictor import BatchPredictor

__all__ = ["BatchPredictor"]
