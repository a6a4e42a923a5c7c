"""rnncore verify: the test pair of a file, replayed."""

from __future__ import annotations

import click

from rnncore import loading
from rnncore.cli.options import dtype_option
from rnncore.cli.output import console, say, table
from rnncore.model import Model
from rnncore.verification import Verification, check_pair

__all__ = ["print_verification", "verify"]


@click.command(short_help="Replay a file's test pair.")
@click.argument("file", metavar="FILE")
@dtype_option
@click.pass_context
def verify(context: click.Context, file: str, dtype: str) -> None:
    """Replays the test pair in FILE: does rnncore compute what the framework computed?

    Exit code 1 if an output differs by more than the tolerance, or if the file has no test pair.

    \b
    Example:
        rnncore verify tagger.safetensors
    """
    found = loading.open_file(file)
    report = check_pair(Model(found.spec, found.weights, dtype), found.test_pair, file)
    print_verification(report, found.source)
    if not report.passed:
        context.exit(1)


def print_verification(report: Verification, source: str) -> None:
    """A table of every output's difference, and the verdict."""
    rows = [
        (
            found.output,
            "equal" if found.passed else "DIFFERENT",
            f"{found.error:.3g}",
            f"{found.relative:.3g}",
            f"{found.tolerance:g}",
            ", ".join(map(str, found.where)),
        )
        for found in report.differences
    ]
    columns = ("output", "", "largest error", "relative", "tolerance", "at")
    console().print(table("test pair", columns, rows, right=columns[2:5]))
    verdict = f"{'equal to' if report.passed else 'DIFFERENT from'} {source or 'the framework'}"
    say(f"{report.what}: {verdict}")
