"""rnncore demo: what recurrent networks do, on the models that come with rnncore."""

from __future__ import annotations

from pathlib import Path

import click

from rnncore.cli.demos import DEMOS, Demo
from rnncore.cli.options import check_place
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["demo"]


class Demos(click.Group):
    """A command for each demo, in the order in which they are shown."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(DEMOS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return _command(DEMOS[name]) if name in DEMOS else None

    def resolve_command(self, context: click.Context, words: list[str]):
        if words[0] not in DEMOS:
            raise click.UsageError(f"no demo {words[0]!r}, expected one of {', '.join(DEMOS)}", context)
        return super().resolve_command(context, words)


@click.group(
    cls=Demos,
    invoke_without_command=True,
    subcommand_metavar="[NAME [TEXT...]]",
    short_help="See the networks that come with rnncore at work.",
)
@click.pass_context
def demo(context: click.Context) -> None:
    """Text in, answer out, with the speed: the networks that come with rnncore, without a framework.

    Without NAME each is shown in turn; with NAME that one, on a TEXT of your own if it takes one. `rnncore demo NAME
    --help` says what it takes and what it draws. The cards of the models, with their data and figures, are in
    rnncore/zoo, and rnncore.load("zoo:NAME") gives a model to a program.

    \b
    Examples:
        rnncore demo
        rnncore demo g2p antidisestablishmentarianism
        rnncore demo sentiment "I did not expect to like it" --plot words.html
        rnncore demo folk reel --plot reel.abc
    """
    if context.invoked_subcommand is None:
        for each in DEMOS.values():
            _show(each, None)
            say("")


def _command(one: Demo) -> click.Command:
    """The command of one demo."""

    def run(text: tuple[str, ...] = (), plot: Path | None = None) -> None:
        if plot is not None:
            check_place(plot)
            if plot.suffix not in one.draws:
                raise InputError(f"{plot}: expected a name that ends in {', '.join(one.draws)}")
        own = " ".join(text) or None
        _show(one, own)
        if plot is not None and one.plot is not None:
            one.plot(own, plot)
            say(f"written: {plot}")

    parameters: list[click.Parameter] = []
    if one.takes is not None:
        parameters.append(click.Argument(["text"], nargs=-1, metavar="[TEXT...]"))
    if one.draws:
        kind = click.Path(path_type=Path)
        parameters.append(
            click.Option(["--plot"], type=kind, metavar="FILE", help=f"{one.drawing}: {', '.join(one.draws)}.")
        )
    takes = "It takes no text." if one.takes is None else f"TEXT: {one.takes}."
    example = f"\b\nExample:\n    rnncore demo {one.example}"
    return click.Command(
        one.name, callback=run, params=parameters, help=f"{one.title}.\n\n{takes}\n\n{example}", short_help=one.title
    )


def _show(one: Demo, text: str | None) -> None:
    say(f"{one.name}: {one.title}")
    one.show(text)
