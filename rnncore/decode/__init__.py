"""Decoding: from a model's scores to sequences.

stepper.py     a model driven token by token; rows that share arrays which are never written to
streamed.py    the same through layers that keep steps, by the plan of a stream
prefixes.py    reading prompts; PrefixCache, the states of token prefixes
choosing.py    greedy, temperature, top-k, top-p; a generator for each row
beams.py       beam search over one prompt
generation.py  generate: the loop around them (Model.generate)
scoring.py     teacher-forced log-probabilities and perplexity (Model.score)
ctc.py         CTC: greedy, prefix beam search, log-probability of labels

Decisions

- An encoder-decoder is run as two models: the encoder once, whose outputs (memory, initial states, projected keys)
  are inputs of the decoder, which is called word by word with its `State`.
- Decoding steps a model from inside: what tokens do not reach (an encoder in the same graph, a memory's projected
  keys) is computed once, and rows share arrays that are never written to, so that forking a beam is an index and a
  row that stays costs nothing. Log-probabilities, filters and draws are float64, row by row, with one Philox
  generator for each row: a row's text depends on its prompt and seed alone. Layers that keep steps (causal
  convolutions, attention) run by the plan of a stream, whose arrays then are the state.
- A beam search ends when no live beam can pass the worst of the ended ones, which is exact: scores only fall.
- A prefix's key is a running hash of everything that decides about a row's state: other inputs, start, tokens.
"""

from rnncore.decode.ctc import Labels, ctc_beam, ctc_greedy, ctc_log_prob
from rnncore.decode.generation import Generation, generate
from rnncore.decode.prefixes import PrefixCache
from rnncore.decode.scoring import Score, perplexity, score

__all__ = [
    "Generation",
    "Labels",
    "PrefixCache",
    "Score",
    "ctc_beam",
    "ctc_greedy",
    "ctc_log_prob",
    "generate",
    "perplexity",
    "score",
]
