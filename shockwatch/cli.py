"""The ``shockwatch`` command."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

import shockwatch

_EXIT_CODES = (
    "exit codes: 0 done; 1 the answer is no (compare: two networks; scan: a checkpoint could not be measured); "
    "2 wrong use, or it could not be done"
)
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # what a shell says of a program that SIGINT or SIGPIPE ended
_BUILD = "a function without arguments that returns (model, loss_fn, batch); the current directory is searched first"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one command; returns the exit code.

    0: done. 1: the answer is no. 2: wrong use, one line on stderr; or it failed, with a traceback if that is ours to
    mend. 130: interrupted. 141: nobody read the output to its end (``| head``); nothing is said.
    """
    parser = argparse.ArgumentParser(prog="shockwatch", description=shockwatch.__doc__, epilog=_EXIT_CODES)
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
    try:
        return _run(options)
    except BrokenPipeError:
        # Python flushes once more when it ends: that must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from shockwatch.inspection.subject import InspectionError

    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (InspectionError, OSError) as error:
        print(f"shockwatch {options.command}: {error}", file=sys.stderr)
        return 2
    except Exception:
        # never 1, which would read as an answer
        traceback.print_exc()
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
