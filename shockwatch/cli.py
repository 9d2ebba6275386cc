"""The ``shockwatch`` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shockwatch


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="shockwatch", description=shockwatch.__doc__)
    parser.add_argument("--version", action="version", version=f"shockwatch {shockwatch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train a deep linear network and forecast its transitions")
    demo.add_argument("--root", default="shockwatch_demo", help="folder for the TensorBoard files")
    options = parser.parse_args(arguments)

    from shockwatch import demo as demonstration

    demonstration.main(options.root)
    return 0
