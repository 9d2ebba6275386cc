"""The ``shockwatch`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shockwatch

_BUILD = "a function without arguments that returns (model, loss_fn, batch); the current directory is searched first"


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
        help=_BUILD,
    )
    inspect.add_argument(
        "--oracle",
        action="store_true",
        help="compare with the true number, the rank of loss gradients (at most 10,000 parameters)",
    )
    inspect.set_defaults(run=_inspect)
    scan = commands.add_parser("scan", help="measure saved checkpoints of a run modulo its symmetries")
    scan.add_argument("checkpoints", nargs="+", help="Lightning or plain .ckpt/.pt, .safetensors, folders")
    scan.add_argument("--module", required=True, metavar="my_module:build", help=_BUILD)
    scan.add_argument("--root", default="shockwatch_scan", help="folder for the TensorBoard file")
    scan.add_argument("--workers", type=_positive, default=None, help="processes (default: one a core)")
    scan.add_argument("--no-curvature", action="store_true", help="leave the spectrum out: much faster")
    scan.set_defaults(run=_scan)
    compare = commands.add_parser("compare", help="two checkpoints: are they one network modulo symmetry?")
    compare.add_argument("first")
    compare.add_argument("second")
    compare.add_argument("--module", required=True, metavar="my_module:build", help=_BUILD)
    compare.set_defaults(run=_compare)
    options = parser.parse_args(arguments)
    from shockwatch.inspection.subject import InspectionError

    try:
        code: int = options.run(options)
    except InspectionError as error:
        print(f"shockwatch {options.command}: {error}", file=sys.stderr)
        return 2
    return code


# Each command imports what it needs when it runs.


def _demo(options: argparse.Namespace) -> int:
    from shockwatch import demo

    demo.main(options.root)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from shockwatch import inspection

    inspection.main(options.target, options.oracle)
    return 0


def _scan(options: argparse.Namespace) -> int:
    from shockwatch.offline import scan

    return scan.main(
        options.module, options.checkpoints, options.root, options.workers, not options.no_curvature
    )


def _compare(options: argparse.Namespace) -> int:
    from shockwatch.offline import compare

    return compare.main(options.module, options.first, options.second)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be an integer >= 1")
    return int(text)
