"""Recording a live PyTorch module (trace, records, entrances), rolling its loops up (loops, chains, scan), making nodes
(lowering, values, pairing, functions, layers, spectral) and proving the result (proof, bounds).

Decisions

- A PyTorch module is traced twice, with inputs of two sizes. Values are computed as calls are recorded, so sizes
  can be counted with; numbers that differ between the traces are sizes of the graph, and calls that one trace has
  more often were made in a loop. No two sizes change by the same amount or in the same ratio, so that each stays
  itself. The result is run against torch at further sizes before it is handed out (`proof.py`): every free
  dimension alone and all together, and on both sides of every branch on a size, whose condition is kept as a
  formula of sizes.
- Loops are found by what repeats (`loops/`): calls of one line that one trace has more often. What a first or
  last step does in addition stays before or after the loop, items of one loop become sequences of the next, a
  tensor that each step stores to is concatenated after the loop, and code that runs several times is cut into as
  many loops. Both traces must agree in all of it.
- A draw is an unknown number (`random.py`): compared with a ratio of 0 or 1 it decides nothing, and anything else
  is refused. nn.TransformerEncoder leaves padding out for speed where it is at the end of every row, and gives
  zeros there: so does the graph (`containers.py`).
- A recorded value does not pass for a Tensor: compiled code that takes it for one reads memory that is none. Only
  Python's `isinstance` sees through it, while a module is recorded (`entrances.py`).
"""
