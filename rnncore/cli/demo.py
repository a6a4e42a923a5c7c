"""rnncore demo: what recurrent networks do, on the models that come with rnncore."""

from __future__ import annotations

from pathlib import Path

import click

from rnncore.cli.demos import DEMOS
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["demo"]


@click.command(short_help="See the networks that come with rnncore at work.")
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("text", nargs=-1, metavar="[TEXT...]")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw it: .png, or what the demo says.")
@click.option("--list", "listed", is_flag=True, help="Only say what there is.")
def demo(name: str | None, text: tuple[str, ...], plot: Path | None, listed: bool) -> None:
    """Text in, answer out, with the speed: the networks that come with rnncore, without a framework.

    Without NAME each is shown in turn; with NAME that one, on a TEXT of your own if it takes one. The cards of the
    models, with their data and figures, stand in rnncore/zoo.

    \b
    Examples:
        rnncore demo
        rnncore demo g2p antidisestablishmentarianism
        rnncore demo sentiment "I did not expect to like it" --plot words.html
        rnncore demo folk reel --plot reel.abc
    """
    if name is not None and name not in DEMOS:
        raise InputError(f"demo {name!r}, expected one of {', '.join(DEMOS)}")
    if plot is not None and (name is None or DEMOS[name].plot is None):
        drawn = ", ".join(each.name for each in DEMOS.values() if each.plot is not None)
        raise InputError(f"--plot with {name or 'all demos'}, expected one of {drawn}")
    own = " ".join(text) or None
    if own is not None and DEMOS[name].takes is None:
        raise InputError(f"demo {name} takes no text")
    for each in DEMOS.values() if name is None else (DEMOS[name],):
        say(f"{each.name}: {each.title}")
        if not listed:
            each.show(own)
            say("")
    if plot is not None:
        DEMOS[name].plot(own, plot)
        say(f"written: {plot}")
