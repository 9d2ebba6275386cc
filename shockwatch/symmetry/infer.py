"""From a model and one batch to a verified quotient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shockwatch.errors import warn
from shockwatch.snapshot import State
from shockwatch.symmetry.analysis import analyse
from shockwatch.symmetry.casts import mark_rounded
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.declared import Declared, reconcile
from shockwatch.symmetry.generic import generic_point
from shockwatch.symmetry.groups import FINDERS, SymmetryGroup
from shockwatch.symmetry.groups.declared import DeclaredGroup
from shockwatch.symmetry.listed import candidates
from shockwatch.symmetry.masked import mark_masked
from shockwatch.symmetry.naming import unique
from shockwatch.symmetry.paths import PathCheck, report
from shockwatch.symmetry.quotient import Quotient
from shockwatch.symmetry.unread import unread_rows
from shockwatch.symmetry.untied import hidden_behind, newly_seen, without_contained
from shockwatch.symmetry.verify import Measuring, Screened, Verifier, action, holds
from shockwatch.tracing import (
    FewerSamples,
    LossFunction,
    StepLoss,
    Trace,
    chooses,
    enough_samples,
    trace_step,
    without_epsilon,
)


def infer_symmetries(
    model: nn.Module, loss_fn: LossFunction, batch: Any, *, seed: int = 0, declared: Sequence[Declared] = ()
) -> Quotient:
    """Read the symmetry groups off the graph of one training step and verify each of them numerically.

    Args:
        loss_fn: ``loss_fn(model, batch) -> scalar tensor``.
        batch: any structure of tensors that ``loss_fn`` takes.
        seed: of the random elements that verification applies.
        declared: groups stated by hand, for kernels the analysis cannot read; measured like the others.

    A step that cannot be traced on fake tensors (it reads values) is traced along the path of this batch. Its groups
    are then also checked on the module itself and on other batches, and one warning says so.

    Returns:
        The quotient by every group whose measured invariance holds; a group the measurement refused is in
        ``rejected``, an operator without a rule in ``blocked``.

    Raises:
        TraceError: if the step cannot be traced.
        ValueError: if a declaration does not fit the model's parameters.
    """
    return quotient_of(trace_step(model, loss_fn, batch), model, batch, seed, declared)


def quotient_of(
    trace: Trace,
    model: nn.Module,
    batch: Any,
    seed: int = 0,
    declared: Sequence[Declared] = (),
    state: Mapping[str, Tensor] | None = None,
) -> Quotient:
    """The verified quotient of a traced step.

    Args:
        state: stands in for the model's own tensors, which another thread may be training meanwhile.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors.update({name: tensor for name, tensor in (state or {}).items() if name in tensors})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    analysis = dataclasses.replace(analyse(trace, shapes), unread=unread_rows(trace, tensors))
    system = ChargeSystem(analysis)
    moving = {*trace.trainable, *(piece.name for piece in analysis.pieces)}
    by_hand = [declaration.build({n: tensors[n] for n in trace.trainable}) for declaration in declared]
    acting = {name: tensor for name, tensor in tensors.items() if name in moving}
    fixed = {name: tensor for name, tensor in tensors.items() if name not in moving}
    wide = trace.in_dtype(torch.float64)

    def on(samples: int | None) -> Verifier:
        make = StepLoss if samples is None else partial(FewerSamples, count=samples)
        return Verifier(make(wide, batch), acting, fixed, seed, lambda: make(without_epsilon(wide), batch))

    enough = enough_samples(trace, batch)
    verifier = Screened(None if enough is None else partial(on, enough), partial(on, None), chooses(trace))
    check = None if trace.replay is None else PathCheck(trace.replay, tensors, batch, seed)
    empty = {name for name, t in tensors.items() if not t.numel()}
    kept, rejected, elsewhere = _verified(system, verifier, check, empty)
    if apart := hidden_behind(trace, analysis):
        again = ChargeSystem(analyse(trace, shapes, apart))
        hidden, *_ = _verified(again, verifier, check, empty)
        seen = newly_seen(analysis, kept, hidden)
        kept = [*without_contained(kept, seen), *seen]
    kept += _lists(trace, tensors, verifier, check)
    kept, refused = _with_declared(by_hand, kept, verifier, check, acting, seed)
    rejected += refused
    mark_rounded(kept, trace, batch, acting, fixed)
    mark_masked(kept, trace, batch, acting, fixed)
    for group, name in zip(kept, unique(group.name for group in kept), strict=True):
        group.name = name
    notes = () if check is None else (report(trace, check, elsewhere),)
    for note in notes:
        warn(f"shockwatch: {note}")
    return Quotient(
        kept,
        trace.trainable,
        aliases=_aliases(model),
        rejected=[*rejected, *elsewhere],
        blocked=analysis.blocked,
        notes=notes,
    )


def _verified(
    system: ChargeSystem, verifier: Measuring, check: PathCheck | None, empty: Set[str]
) -> tuple[list[SymmetryGroup], list[SymmetryGroup], list[SymmetryGroup]]:
    """The groups whose measured invariance holds, those whose does not, and those that fail on other batches.

    A finder sees what was verified before it: a smaller group steps in where a larger one was refused. So all finders
    run as if everything held, the groups are measured together, and what follows a refused group is found again.
    """
    kept: list[SymmetryGroup] = []
    rejected: list[SymmetryGroup] = []
    elsewhere: list[SymmetryGroup] = []
    known: dict[Any, float] = {}
    start = 0
    while start < len(FINDERS):
        hoped = list(kept)
        found: list[list[SymmetryGroup]] = []
        for find in FINDERS[start:]:
            # on a tensor without a number there is nothing to move
            found.append([g for g in find(system, tuple(hoped)) if empty.isdisjoint(g.parameters)])
            hoped += found[-1]
        fresh = [group for groups in found for group in groups if action(group) not in known]
        verifier.measure(fresh)
        known.update((action(group), group.residual) for group in fresh)
        if check is not None:
            # all at once: the checks below then know the answer
            check.split([group for group in fresh if holds(group, group.residual)])
        for groups in found:
            start += 1
            for group in groups:
                group.residual = known[action(group)]
            good = [group for group in groups if holds(group, group.residual)]
            rejected += [group for group in groups if group not in good and not group.speculative]
            if check is not None:
                held, failed = check.split(good)
                good = list(held)
                elsewhere += failed
            kept += good
            if len(good) < len(groups):
                break
    return kept, rejected, elsewhere


def _lists(
    trace: Trace, tensors: Mapping[str, Tensor], verifier: Measuring, check: PathCheck | None
) -> list[SymmetryGroup]:
    """Permutations of modules in lists, the first of each list that the measurement admits."""
    kept: list[SymmetryGroup] = []
    for choices in candidates(trace, tensors):
        for group in choices:
            verifier.measure([group])
            if holds(group, group.residual) and (check is None or not check.split([group])[1]):
                kept.append(group)
                break
    return kept


def _with_declared(
    by_hand: Sequence[SymmetryGroup],
    kept: list[SymmetryGroup],
    verifier: Measuring,
    check: PathCheck | None,
    state: State,
    seed: int,
) -> tuple[list[SymmetryGroup], list[SymmetryGroup]]:
    """The groups ``kept`` with those declared, no direction twice; and the declared ones that were refused."""
    refused: list[SymmetryGroup] = []
    point = generic_point(state, torch.Generator().manual_seed(seed)) if by_hand else {}
    for group in by_hand:
        title = f"shockwatch: declared {group.kind} {group.name}"
        verifier.measure([group])
        if not holds(group, group.residual) or (check is not None and check.split([group])[1]):
            refused.append(group)
            warn(f"{title} is refused: a random element changes the loss by {group.residual:.1e}.")
            continue
        superfluous, reason = reconcile(group, kept, point)
        if reason is not None:
            warn(f"{title} is not added: it {reason}.")
            continue
        kept = [*(g for g in kept if g not in superfluous), group]
    for group in kept:
        if isinstance(group, DeclaredGroup):
            group.meet(kept)
    return kept, refused


def _aliases(model: nn.Module) -> dict[str, str]:
    """Second names of tied parameters, each with the first."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            aliases[name] = known
    return aliases
