"""One engine in one process: reads commands as lines of JSON on standard input, answers with lines of JSON.

{"prepare": SHAPE, "threads": N, "output": FILE}   build the workload, run it once, write the output to FILE (.npy)
{"measure": SAMPLES, "calls": N}                   SAMPLES times the seconds of one call, each over N calls
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np


def main(engine: str, threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    from engines import load
    from shapes import Shape

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not stand among the answers
    module = load(engine)
    answer(answers, {"version": module.version()})
    run = None
    for line in sys.stdin:
        command = json.loads(line)
        if "prepare" in command:
            try:
                run = module.prepare(Shape(**command["prepare"]), threads)
                np.save(command["output"], np.asarray(run()))
                answer(answers, {"prepared": True})
            except Exception as error:  # an engine that cannot is a result, not the end of the race
                answer(answers, {"reason": f"{type(error).__name__}: {error}"[:200]})
        else:
            run()  # wakes its threads, which slept while the others were measured
            answer(answers, {"seconds": [measure(run, command["calls"]) for _ in range(command["measure"])]})


def measure(run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def answer(stream, value) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
