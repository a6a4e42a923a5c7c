"""Commands: rnncore convert, inspect, verify, run, generate, serve, bench, demo. Needs extra "cli": click, rich.

    application.py   the group of commands, --version, and errors as one line and an exit code
    convert.py inspect.py verify.py run.py generate.py serve.py bench.py demo.py     a command each
    demos/           what demo shows, one file for each kind of network
    options.py       options that several commands have
    output.py        what is printed, and how
    progress.py      how far a long run is

Exit codes: 0 done, 1 it failed (one line on stderr), 2 the command line is wrong, 130 interrupted; run has more.
"""

import sys

__all__ = ["main"]

MISSING = 'rnncore: the command line needs click and rich, install them with: pip install "rnncore[cli]"'


def main() -> None:
    """The entry point of the rnncore command."""
    try:
        try:
            import click  # noqa: F401
            import rich  # noqa: F401
        except ImportError:
            print(MISSING, file=sys.stderr)
            sys.exit(2)
        from rnncore.cli.application import application

        application(prog_name="rnncore")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
