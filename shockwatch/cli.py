"""The ``shockwatch`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shockwatch


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one command; returns the exit code (2: wrong use, one line on stderr)."""
    parser = argparse.ArgumentParser(prog="shockwatch", description=shockwatch.__doc__)
    parser.add_argument("--version", action="version", version=f"shockwatch {shockwatch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train a deep linear network and forecast its transitions")
    demo.add_argument("--root", default="shockwatch_demo", help="folder for the TensorBoard files")
    demo.set_defaults(run=_demo)
    inspect = commands.add_parser("inspect", help="list the redundant directions of a training step")
    inspect.add_argument(
        "target",
        metavar="my_module:build",
        help="a function without arguments that returns (model, loss_fn, batch); "
        "the current directory is searched first",
    )
    inspect.add_argument(
        "--oracle",
        action="store_true",
        help="compare with the true number, the rank of loss gradients (at most 10,000 parameters)",
    )
    inspect.set_defaults(run=_inspect)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


# Each command imports what it needs when it runs.


def _demo(options: argparse.Namespace) -> int:
    from shockwatch import demo

    demo.main(options.root)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from shockwatch import inspection

    try:
        inspection.main(options.target, options.oracle)
    except inspection.InspectionError as error:
        print(f"shockwatch inspect: {error}", file=sys.stderr)
        return 2
    return 0
