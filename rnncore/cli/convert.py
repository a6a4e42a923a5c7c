"""rnncore convert: a file's weights and Spec as rnncore's own file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rnncore.cli.inspect import print_graph, print_notes
from rnncore.cli.options import check_place, names_option, read_names, read_vocabulary, spec_option
from rnncore.cli.output import bytes_text, say
from rnncore.cli.verify import print_verification
from rnncore.errors import InputError
from rnncore.formats import loading

__all__ = ["convert"]


@click.command(short_help="Write a file of weights as rnncore's own file.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@spec_option
@names_option
@click.option(
    "--architecture",
    metavar="FILE.json",
    help="The network of a Keras file that holds weights alone: what model.to_json() gave.",
)
@click.option("--vocabulary", metavar="FILE.json", help='Tokens of ids: an object {"input or output": [tokens]}.')
@click.option("--verify", is_flag=True, help="Replay the test pair of SRC first; nothing is written if it fails.")
def convert(
    source: str,
    target: str,
    spec: str | None,
    names: str | None,
    architecture: str | None,
    vocabulary: str | None,
    verify: bool,
) -> None:
    """Writes SRC as rnncore's own file: the weights with the network they belong to.

    DST ends in .safetensors, or is a directory, which gets a model.safetensors. Weights that are one recurrent
    stack and nothing else need no --spec. Nothing is written when anything is wrong.

    \b
    Examples:
        rnncore convert tagger.pt tagger.safetensors --spec tagger.json
        rnncore convert tagger.weights.h5 tagger.safetensors --architecture tagger.json
    """
    _check_target(source, target)
    path, opened, report = loading.convert(
        source,
        target,
        spec=spec,
        names=read_names(names),
        architecture=architecture,
        verify=verify,
        vocabulary=read_vocabulary(vocabulary),
    )
    print_graph(opened)
    print_notes(opened)
    if report is not None:
        print_verification(report, opened.source)
    say(f"wrote {path} ({bytes_text(path.stat().st_size)})")


def _check_target(source: str, target: str) -> None:
    """InputError if DST has the name of another kind of file, is SRC itself, or is in no directory."""
    path = Path(target)
    if path.is_dir() or not path.suffix:
        path = path / loading.native.FILE_NAME
        if Path(target).exists() and not Path(target).is_dir():
            raise InputError(f"{target}: a file, expected a directory or a name that ends in .safetensors")
    elif path.suffix != ".safetensors":
        raise InputError(f"{target}: expected a directory, or a name that ends in .safetensors")
    else:
        check_place(path)
    origin = loading.resolve(source)
    if isinstance(origin, Path) and origin.exists() and path.exists() and os.path.samefile(origin, path):
        raise InputError(f"{target}: is {source} itself, expected another file to write")
