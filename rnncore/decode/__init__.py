"""Decoding: from a model's scores to sequences.

stepper.py     a model driven token by token; rows that share what nobody changes
streamed.py    the same through layers that keep steps, by the plan of a stream
prefixes.py    reading prompts; PrefixCache, the states of token prefixes
choosing.py    greedy, temperature, top-k, top-p; a generator for each row
beams.py       beam search over one prompt
generation.py  generate: the loop around them (Model.generate)
scoring.py     teacher-forced log-probabilities and perplexity (Model.score)
ctc.py         CTC: greedy, prefix beam search, log-probability of labels
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
