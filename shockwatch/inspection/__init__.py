"""``shockwatch inspect my_module:build``: the redundant directions of a training step, as a table."""

from __future__ import annotations

from shockwatch.inspection.report import comparison, report
from shockwatch.inspection.subject import InspectionError, current_directory_importable, load, one_line
from shockwatch.symmetry import quotient_of
from shockwatch.symmetry.oracle import redundancy_of, require_small, trainable_entries
from shockwatch.symmetry.unexplained import LIMIT as NAMING_LIMIT
from shockwatch.symmetry.unexplained import unexplained
from shockwatch.tracing import TraceError, trace_step

__all__ = ["InspectionError", "main"]


def main(target: str, oracle: bool = False) -> None:
    """Print what is found in the step that ``target`` (``my_module:build``) builds.

    Args:
        oracle: compare with the true number of redundant directions.

    Raises:
        InspectionError: in one line, what is wrong with the target, its step, or its size under ``oracle``.
    """
    with current_directory_importable():
        subject = load(target)
        try:
            if oracle:
                require_small(subject.model)
            trace = trace_step(subject.model, subject.loss_fn, subject.batch)
            quotient = quotient_of(trace, subject.model, subject.batch)
            tensors = dict(subject.model.named_parameters())
            here = {**tensors, **dict(subject.model.named_buffers())}
            count = sum(tensors[name].numel() for name in trace.trainable)
            print(report(quotient, count, quotient.degenerate(here)))
            if trace.draws_random_numbers:
                print(
                    "the step draws random numbers even with dropout off: the residuals contain their noise"
                )
            if oracle:
                # The table stands while this takes its time.
                print(flush=True)
                true = redundancy_of(trace, subject.model, subject.batch)
                named = None
                if true > quotient.dim_exact and trainable_entries(subject.model) <= NAMING_LIMIT:
                    named = unexplained(quotient, trace, subject.model, subject.batch)
                print(comparison(quotient, true, named))
        except TraceError as error:
            raise InspectionError(f"{target}: {error}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise InspectionError(f"{target}: {one_line(error)}") from error
