"""Networks run over a sequence that arrives piece by piece.

timing     how many steps of a value are known after n steps of the input
flow       follows the time axis through a Spec, or says which node prevents it: the StreamPlan of a stream
program    StreamProgram: a StreamPlan compiled for a model
states     StreamStates: the states of many rows, and one step of some of them
route      a group of rows through the graph, settled for a number of steps
batchless  the same for rows of a graph without a batch, concatenated along the time
lookahead  a recurrent node that reads later steps, block by block
fast_call  one fast call of a stream through a graph that keeps no steps
over_time  a model of one step as one of sequences
stream     Stream: one caller's
pool       StreamPool: those of many callers

Decisions

- A stream is a graph of counts. How many steps of each value are known after n steps of the input is a function of
  n alone (a `Timing`): strides, delays and blocks need no bookkeeping but n, rows of a pool that are in the same
  phase run as one batch, and a saved stream is its arrays. Where branches are of different delays, steps wait at
  the node that joins them. Time and batch are followed by inferring the shapes once more with marks in their
  places, so a node that loses the one or mixes the other is refused by name, when the model is first asked to
  stream.
- Slices, pads and concatenations along time only count (`Around` in `streaming/timing.py`): steps that are left out
  at the end are held until more are known, those put before the first come with it. A short sequence, for which
  clamped slices have other sizes than for a long one, is refused at its end (`StreamPlan.least`).
- A batch of 1 becomes free where the graph proves its rows independent (`graph/axes.freed`): streams of such a model
  run in one batch. Where there is no batch at all, the steps of all rows are concatenated, except for windows and
  recurrent layers.
- A model of one step is looped by a Scan (`over_time`), so that streams, pools, files and the rest know one kind of
  model. A Scan streams where its body keeps rows independent; states that are a recurrent layer's own become that
  again.
- A pool's states are kept in slots, which the kernels load and store in place: a step moves nothing else. A handle
  is the slot and a count of its openings, so a stale handle matches nothing.
- Looking ahead is by blocks of a fixed size, counted from the beginning, so that the outputs do not depend on how
  the sequence was cut: the reverse direction begins a declared number of steps after each block. Outputs that only
  the end of the sequence decides (final states of such layers) are left out; where no other output is left, or
  steps are computed from them, that is refused.
"""
