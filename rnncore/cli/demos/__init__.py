"""The demos of `rnncore demo`: one file for each kind of network in the zoo.

Each has a Demo: ``show(text)`` prints text in, answer out; ``plot(text, path)`` draws it, where that says more.

    sunspots.py     a forecast          g2p.py      an encoder-decoder and what it looks at
    sentiment.py    word attention      folk.py     sampled tunes
    names.py        Elman networks and LSTM variants   lm.py       a word model
    tagger.py       a label a step      digits.py   a picture that is spelled
    speakers.py     ragged utterances
"""

from rnncore.cli.demos import digits, folk, g2p, lm, names, sentiment, speakers, sunspots, tagger
from rnncore.cli.demos.base import Demo

__all__ = ["DEMOS", "Demo"]

ALL = (g2p, sentiment, folk, names, tagger, digits, lm, speakers, sunspots)

DEMOS: dict[str, Demo] = {demo.name: demo for module in ALL for demo in module.DEMOS}
