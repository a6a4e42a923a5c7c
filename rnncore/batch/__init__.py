"""Models over files of any size, on one machine or on many.

    plan.py      what may be done with a model's rows: run apart, padded, and how much memory they need
    rows.py      consecutive rows of the data, as columns
    readers/     data files -> rows
    changes.py   whether files still are what they were, and a hash of rows
    sources.py   files, folders, globs and standard input; where shards are cut
    runner.py    a model over the rows of a shard
    workers.py   threads that run the batches side by side
    outputs.py   results -> the bytes of a shard, and shards -> one file
    journal.py   the manifest, the lock
    job.py       a whole run: resumed, stopped, out of disk
    predictor.py BatchPredictor, for Ray Data, Spark, Dask and Beam

``rnncore run`` is the command line of this room.
"""

from rnncore.batch.predictor import BatchPredictor

__all__ = ["BatchPredictor"]
