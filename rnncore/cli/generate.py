"""rnncore generate: text from a model that has a vocabulary."""

from __future__ import annotations

import click
import numpy as np

from rnncore.cli.options import dtype_option
from rnncore.cli.output import printable, say
from rnncore.decode import Generation
from rnncore.errors import InputError
from rnncore.formats import loading
from rnncore.runtime.model import Model

__all__ = ["generate"]


@click.command(short_help="Continue a text with a model that has a vocabulary.")
@click.argument("model", metavar="MODEL")
@click.option("-p", "--prompt", "prompts", metavar="TEXT", multiple=True, required=True, help="Repeatable.")
@click.option("--temperature", type=float, help="Draw, the livelier the higher; 0 is greedy.  [default: 0]")
@click.option("--top-k", type=int, metavar="K", help="Draw from the K most probable tokens.")
@click.option("--top-p", type=float, metavar="P", help="Draw from the fewest tokens whose probabilities reach P.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--samples", type=int, default=1, show_default=True, help="Draws for each prompt.")
@click.option("--beam", type=int, metavar="WIDTH", default=1, show_default=True, help="Beam search.")
@click.option("--n-best", type=int, metavar="N", default=1, show_default=True, help="Print the N best beams.")
@click.option("--length-penalty", type=float, default=1.0, show_default=True, help="Beams: score / length ** penalty.")
@click.option("--max-length", type=int, default=200, show_default=True, help="Tokens to add at most.")
@click.option("--stop", metavar="TOKEN", multiple=True, help="A token that ends the text; repeatable.")
@click.option("-i", "--input", "inputs", metavar="NAME=TEXT", multiple=True, help="An encoder's input; repeatable.")
@click.option("--tokens", "by_token", is_flag=True, help="Prompts are tokens between spaces, whatever the vocabulary.")
@click.option("--scores", is_flag=True, help="Print each text's log-probability and how it ended before it.")
@dtype_option
def generate(
    model: str,
    prompts: tuple[str, ...],
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    samples: int,
    beam: int,
    n_best: int,
    length_penalty: float,
    max_length: int,
    stop: tuple[str, ...],
    inputs: tuple[str, ...],
    by_token: bool,
    scores: bool,
    dtype: str,
) -> None:
    """Continues each prompt with MODEL, a language model that carries its vocabulary.

    The prompt and what was added are printed; of several prompts, samples or beams each on lines of its own. Prompts
    are read character by character, or word by word, as the vocabulary is; with --tokens marks like <s> can be given.

    \b
    Examples:
        rnncore generate spell.safetensors -i letters=ought -p "<s>" --tokens --stop "</s>"
        rnncore generate tunes.safetensors -p "X:1" --temperature 0.8 --seed 7
    """
    network = loading.load(model, dtype=dtype)
    if not network.vocabulary:
        raise InputError(f"{model}: no vocabulary, expected a model that was saved with one")
    given = [prompt.split() if by_token else prompt for prompt in prompts]
    results = network.generate(
        given,
        max_length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        samples=samples,
        beams=beam,
        n_best=n_best,
        length_penalty=length_penalty,
        stop=stop,
        inputs=_inputs(network, inputs, len(given)),
    )
    vocabulary = next(iter(network.vocabulary.values()))
    between = "" if vocabulary.by_character and not by_token else " "
    for prompt, first in zip(prompts, results, strict=True):
        for one in (first, *first.alternatives):
            if scores:
                say(_score(one))
            text = " ".join(one.symbols or ()) if by_token else one.text
            click.echo("\n".join(printable(line) for line in f"{prompt}{between}{text}".split("\n")))


def _inputs(network: Model, given: tuple[str, ...], rows: int) -> dict[str, np.ndarray]:
    """NAME=TEXT options as arrays, the same for each prompt."""
    ids = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not equals or name not in network.vocabulary:
            known = ", ".join(network.vocabulary)
            raise InputError(f"--input {option}: expected NAME=TEXT with an input that has a vocabulary ({known})")
        ids[name] = np.tile(network.vocabulary[name].ids(text), (rows, 1))
    return ids


def _score(one: Generation) -> str:
    ended = "stop token" if one.finish == "stop" else "max-length"
    return f"log-probability {one.log_prob:.3f}, score {one.score:.3f}, {len(one.tokens)} tokens, {ended}"
