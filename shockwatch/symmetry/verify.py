"""Measure the invariance of every inferred group: what the graph suggests is kept only if the loss agrees."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.generic import GenericPoint
from shockwatch.symmetry.groups import Permutation, SignFlip, SymmetryGroup
from shockwatch.symmetry.groups.declared import DeclaredGroup
from shockwatch.tracing import StepLoss

_log = logging.getLogger("shockwatch")

# An exact group's residual is rounding; a norm's eps leaves more, and is stated with the group.
_TOLERANCE = 1e-7
_TOLERANCE_APPROXIMATE = 3e-2
# Below this a group counts as exact, see Quotient.dim_exact.
_EXACT = 1e-9
_TRIALS = 2
_DRAWS = 20  # of a finite group's element, until one moves something
_SCALE = 0.5
# Up to this many entries the generic point is kept; above it is made as it is read, and groups are measured together.
_SMALL = 4_000_000
# Bytes that moved tensors may take at once, as a share of those of the state: in float64 they are twice as wide.
_SHARE = 0.5
# Or as a share of what the largest group takes by itself, if that is more.
_SHARE_ALONE = 0.75


class Measuring(Protocol):
    """What sets residuals."""

    def measure(self, groups: Sequence[SymmetryGroup]) -> None:
        """Set ``residual`` of each group."""


class Screened:
    """Measures groups on a few samples, and those that this refuses on all of them.

    Args:
        few: makes a verifier on a few samples; it may raise. None: there is none.
        whole: makes the one on all.
        choosy: samples choose what they read of the parameters: all together must hold on all of them, too.
    """

    def __init__(
        self, few: Callable[[], Verifier] | None, whole: Callable[[], Verifier], choosy: bool = False
    ) -> None:
        self._few, self._whole, self._choosy = few, whole, choosy
        self._made: dict[Callable[[], Verifier], Verifier] = {}

    def measure(self, groups: Sequence[SymmetryGroup]) -> None:
        """:meth:`Verifier.measure`."""
        if self._few is not None:
            try:
                self._on(self._few).measure(groups)
            except (RuntimeError, ValueError, IndexError, KeyError, TypeError, NotImplementedError):
                _log.debug("the step does not run on fewer samples", exc_info=True)
                self._few = None
        doubtful = groups
        if self._few is not None:
            held = [group for group in groups if holds(group, group.residual)]
            if not (held and self._choosy) or self._on(self._whole).confirms(held):
                doubtful = [group for group in groups if not holds(group, group.residual)]
        if doubtful:
            self._on(self._whole).measure(doubtful)

    def _on(self, make: Callable[[], Verifier]) -> Verifier:
        if make not in self._made:
            self._made[make] = make()
        return self._made[make]


class _Moved(State):
    """Moved tensors by name; one that no group moves is made when it is read, and not kept."""

    def __init__(self, tensors: State, make: Callable[[str], Tensor]) -> None:
        super().__init__(tensors)
        self._make = make

    def __missing__(self, name: str) -> Tensor:
        return self._make(name)


class Verifier:
    """Measures groups at one generic point, in float64.

    Random elements of many groups are applied one after the other and the loss is taken once. If the change is
    rounding, none of them moves the loss (that random moves of the loss cancel has probability zero); otherwise each
    half is measured by itself. Large models are never copied: a tensor is widened when an operator reads it, and
    groups go together whose tensors fit a share of the model's own memory.

    Args:
        loss: the step in float64.
        state: trainable parameters and running statistics.
        fixed: everything else.
        without_epsilon: makes the step without the eps of its norms: a group that an eps makes approximate must be
            exact there, or it is refused (its residual is infinite). None: not asked.
    """

    def __init__(
        self,
        loss: StepLoss,
        state: State,
        fixed: State,
        seed: int,
        without_epsilon: Callable[[], StepLoss] | None = None,
    ) -> None:
        self._loss = loss
        self._without_epsilon = without_epsilon
        self._exact: tuple[StepLoss, float] | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._point = GenericPoint(state, fixed, seed)
        self._small = sum(t.numel() for t in state.values()) <= _SMALL
        self._bytes = sum(t.numel() * t.element_size() for t in state.values())
        self._alone = 0.0
        self._kept = {n: self._point.wide(n) for n in state} if self._small else {}
        self._base = self._value({})

    def measure(self, groups: Sequence[SymmetryGroup]) -> None:
        """Set ``residual`` of each group: the largest relative change of the loss under random elements.

        Groups whose common residual is that of an exact group share it: an upper bound for each; so do approximate
        groups whose common residual is allowed. Infinite where the loss is not finite, or a group cannot be applied:
        one that fails on its own pieces is refused like one that moves the loss.
        """
        if not math.isfinite(self._base):
            for group in groups:
                group.residual = math.inf
            return
        wide = (2 * self._bytes_of(g.parameters) for g in groups if not _only_reorders(g))
        self._alone = _SHARE_ALONE * max(wide, default=0)
        again = self._without_epsilon is not None and any(group.approximate for group in groups)
        # a second trial of exact groups costs nothing where approximate ones are tried without an eps
        joint = again and self._small and math.isfinite(self._there()[1])
        for approximate in (False, True):
            alike = [g for g in groups if g.approximate == approximate]
            fine = _TOLERANCE_APPROXIMATE if approximate else _EXACT if self._small else _TOLERANCE
            trials = 1 if joint or (again and approximate) else _TRIALS
            # a small model has room for all in float64
            for reorders in (False,) if self._small else (False, True):
                chosen = [g for g in alike if self._small or _only_reorders(g) == reorders]
                for together in self._fitting(chosen, reorders):
                    self._bisect(together, reorders, fine, trials)
        if again:
            self._confirm([g for g in groups if (g.approximate or joint) and holds(g, g.residual)])

    def confirms(self, groups: Sequence[SymmetryGroup]) -> bool:
        """Whether one random element of all of them together leaves the loss; sets no residual."""
        for approximate, allowed in ((False, _TOLERANCE), (True, _TOLERANCE_APPROXIMATE)):
            alike = [group for group in groups if group.approximate == approximate]
            if any(self._change(together, False) >= allowed for together in self._fitting(alike, False)):
                return False
        return True

    def _confirm(self, groups: Sequence[SymmetryGroup]) -> None:
        """Refuse approximate groups that move the loss without an eps, too; a second trial for the others."""
        stated = [group.residual for group in groups]
        kept = self._loss, self._base
        try:
            self._loss, self._base = self._there()
            for together in self._fitting(groups, False):
                self._bisect(together, False, _EXACT if self._small else _TOLERANCE, 1)
        finally:
            self._loss, self._base = kept
        # without an eps rounding may weigh more: that is no fault of an exact group
        if doubtful := [g for g in groups if not g.approximate and not g.residual < _EXACT]:
            self._bisect(doubtful, False, _EXACT, 1)
        for group, residual in zip(groups, stated, strict=True):
            if group.approximate:
                group.residual = residual if group.residual < _TOLERANCE else math.inf
            else:
                group.residual = max(residual, group.residual)

    def _there(self) -> tuple[StepLoss, float]:
        """The step without an eps, and the loss of the generic point there."""
        if self._exact is None:
            assert self._without_epsilon is not None
            kept = self._loss
            try:
                self._loss = self._without_epsilon()
                self._exact = self._loss, self._value({})
            finally:
                self._loss = kept
        return self._exact

    def _bytes_of(self, names: Iterable[str]) -> int:
        return sum(self._point.bytes(name) for name in names)

    def _fitting(self, groups: Sequence[SymmetryGroup], reorders: bool) -> list[list[SymmetryGroup]]:
        """The groups in sets whose tensors fit the memory; in each the order given."""
        if self._small:
            return [list(groups)] if groups else []
        width = 1 if reorders else 2
        limit = self._bytes if reorders else max(_SHARE * self._bytes, self._alone)
        sets: list[tuple[set[str], list[SymmetryGroup]]] = []
        for group in groups:
            for names, members in sets:
                union = names.union(group.parameters)
                if width * self._bytes_of(union) <= limit:
                    names |= union
                    members.append(group)
                    break
            else:
                sets.append((set(group.parameters), [group]))
        return [members for _, members in sets]

    def _bisect(self, groups: Sequence[SymmetryGroup], reorders: bool, fine: float, trials: int) -> None:
        residual = max(self._change(groups, reorders) for _ in range(trials if self._small else 1))
        if len(groups) == 1 or residual < fine:
            for group in groups:
                group.residual = residual
            return
        half = len(groups) // 2
        self._bisect(groups[:half], reorders, fine, trials)
        self._bisect(groups[half:], reorders, fine, trials)

    def _change(self, groups: Sequence[SymmetryGroup], reorders: bool) -> float:
        names = dict.fromkeys(name for group in groups for name in group.parameters if name in self._point)
        # What only reorders entries is exact in the tensors' own type.
        make = self._point.narrow if reorders else self._wide
        moved = _Moved({n: make(n).clone() if n in self._kept else make(n) for n in names}, make)
        try:
            with torch.no_grad():
                for group in groups:
                    self._move_(group, moved)
            value = self._value(moved)
        except (RuntimeError, ValueError, IndexError, KeyError):
            _log.debug("%s cannot be applied", [f"{g.kind} {g.name}" for g in groups], exc_info=True)
            return math.inf
        change = abs(value - self._base) / max(abs(self._base), 1e-12)
        return change if math.isfinite(change) else math.inf

    def _move_(self, group: SymmetryGroup, state: State) -> None:
        """Apply a random element that is not the identity: every second draw is, where there are two."""
        if not _only_reorders(group):
            group.transform_(state, self._generator, _SCALE)
            return
        # it moves all its pieces or none
        smallest = min(group.parameters, key=lambda n: state[n].numel())
        before = state[smallest].clone()
        for _ in range(_DRAWS):
            group.transform_(state, self._generator, _SCALE)
            if not torch.equal(state[smallest], before):
                return

    def _value(self, moved: State) -> float:
        def read(name: str) -> Tensor:
            tensor = moved.get(name)
            if tensor is None:
                return self._wide(name)
            return tensor.double() if tensor.is_floating_point() else tensor

        return self._loss.streamed_value(read)

    def _wide(self, name: str) -> Tensor:
        return self._kept[name] if name in self._kept else self._point.wide(name)


def _only_reorders(group: SymmetryGroup) -> bool:
    return isinstance(group, (Permutation, SignFlip))


def holds(group: SymmetryGroup, residual: float) -> bool:
    """Whether a measured residual is what the group's evidence promises."""
    return residual < (_TOLERANCE_APPROXIMATE if group.approximate else _TOLERANCE)


Action = tuple[Any, ...]


def action(group: SymmetryGroup) -> Action:
    """All that its transformations depend on: finders make equal groups anew."""
    if isinstance(group, DeclaredGroup):
        return (DeclaredGroup, *action(group.inner))
    fields = [f.name for f in dataclasses.fields(group) if f.name not in ("name", "evidence", "residual")]
    return (type(group), *(getattr(group, name) for name in fields))
