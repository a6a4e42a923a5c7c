"""The group of commands, and what an error looks like: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import errno
import os

import click

from rnncore._version import __version__
from rnncore.cli.bench import bench
from rnncore.cli.convert import convert
from rnncore.cli.demo import demo
from rnncore.cli.generate import generate
from rnncore.cli.inspect import inspect
from rnncore.cli.output import one_line
from rnncore.cli.run import run
from rnncore.cli.serve import serve
from rnncore.cli.verify import verify
from rnncore.errors import RnncoreError

__all__ = ["application"]


class Application(click.Group):
    """A group whose commands may raise RnncoreError, OSError, MemoryError and KeyboardInterrupt."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except RnncoreError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe is gone: click ends quietly
                raise
            place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
            message = f"{place}{error.strerror or error}"
        except MemoryError as error:
            message = f"not enough memory ({error})" if str(error) else "not enough memory"
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(130)
        click.echo(f"error: {one_line(message)}", err=True)
        context.exit(1)

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which a newcomer needs them."""
        return list(self.commands)


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="rnncore %(version)s")
def application() -> None:
    """Runs recurrent networks from PyTorch and Keras on this CPU, without the framework.

    A FILE or MODEL is rnncore's own file, weights saved by a framework, or zoo:NAME for a model that comes with
    rnncore. What a file is, its content says, and nothing in it is ever executed.

    \b
    Start with:
        rnncore demo
        rnncore inspect model.pt
    """


for command in (demo, inspect, convert, verify, run, generate, serve, bench):
    application.add_command(command)
