"""Where Adam goes from here on one batch: its own map, integrated in leaps of many steps for one gradient each.

Adam's path is no gradient flow, and ``D = sqrt(v_hat) + eps`` changes while a mode grows, so no slice of the loss tells
when it arrives. But between two gradients its moments are known in closed form. For a gradient ``g + j s`` at the
``j``-th step of a leap, ``j = 0 .. k - 1``,

- ``m_k = beta_1^k m + sum_j (1 - beta_1) beta_1^(k-1-j) (g + j s)``,
- ``v_k = beta_2^k v + sum_j (1 - beta_2) beta_2^(k-1-j) ((g + j s)^2 + f)``,

and the parameters move by ``lr sum m_hat / (sqrt(v_hat) + eps)``, summed exactly in ``m`` and with ``v`` of the middle
of each of two parts of the leap. A leap is predicted with the slope ``s`` of the last one, takes the gradient there,
and is made once more with the slope now known; how far the two end from one another sets the length of the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shockwatch.curvature import AdaptedLoss
from shockwatch.curvature.ritz import Array
from shockwatch.snapshot import Moments

GRADIENTS = 30
"""Gradients of one path: as much as the slices of a probe cost in forward passes."""

_PARTS = 2  # of a leap: with one v lags, with four the path is the same to a thousandth
_SLOW = 0.02  # of the memory of v: in a shorter leap one part is as good
_TOLERANCE = 0.02  # distance of prediction and correction over the length of a leap that the next one aims at
_REJECT = 0.3  # a leap beyond this is made anew, shorter
_LONGEST = 200  # steps


@dataclass(frozen=True)
class AdamPath:
    """The path at the points where a gradient was taken, the first one today.

    Attributes:
        steps: from now, shape ``(m,)``.
        losses: on the batch.
        norms: of the gradient over the parameters that move.
        gradients: spent.
        noise: share of ``v_hat`` that is taken for the noise of other batches, in [0, 1].
        foreign: distance of the batch's gradient from Adam's mean, squared, over the squares of both: about 0 where the
            batch stands for all of them, 1/2 where what it has of its own is most of its gradient.
        memory: steps that Adam remembers a gradient, ``1 / (1 - beta_1)``.
    """

    steps: Array
    losses: Array
    norms: Array
    gradients: int
    noise: float
    foreign: float
    memory: float


def adam_path(
    here: AdaptedLoss, *, gradients: int = GRADIENTS, enough: Callable[[AdamPath], bool] | None = None
) -> AdamPath:
    """Follow Adam from ``here``.

    The noise that other batches put into ``v`` stays, as ``f`` above; see :func:`noise_floor`. Settings (``lr`` of a
    schedule too) stay what they are.

    Args:
        here: the raw point.
        gradients: at most.
        enough: ends the path early, where it has shown what was looked for.
    """
    groups = _groups(here)
    names = here.loss.names

    def look(places: list[Tensor]) -> tuple[float, list[Tensor]]:
        state = dict(here.state)
        for group, place in zip(groups, places, strict=True):
            state.update(group.unflatten(place, names))
        loss, gradient = here.loss.gradient(state, here.frozen)
        return loss, [group.flatten(gradient) for group in groups]

    slopes = [torch.zeros_like(group.place) for group in groups]
    gradient = [group.flatten(here.gradient) for group in groups]
    steps, losses, norms = [0], [here.value], [_norm(gradient)]
    spent, leap, noise, foreign = 0, 1, 0.0, 0.0
    memory = max((1.0 / (1.0 - group.rule.first) for group in groups), default=1.0)

    def path() -> AdamPath:
        found = (np.array(steps, dtype=float), np.array(losses), np.array(norms))
        return AdamPath(*found, spent, noise, foreign, memory)

    while spent < gradients:
        guessed = [g.after(leap, *rest) for g, *rest in zip(groups, gradient, slopes, strict=True)]
        loss, there = look([group.place for group in guessed])
        spent += 1
        rise = [(new - old) / leap for new, old in zip(there, gradient, strict=True)]
        right = [g.after(leap, *rest) for g, *rest in zip(groups, gradient, rise, strict=True)]
        error = _distance(right, guessed) / max(_distance(right, groups), 1e-300)
        sound = math.isfinite(error) and math.isfinite(loss) and math.isfinite(_norm(there))
        if not sound and leap == 1:
            break
        wish = min(2.0, max(0.3, 0.9 * math.sqrt(_TOLERANCE / max(error, 1e-12)))) if sound else 0.0
        if leap > 1 and (not sound or error > _REJECT):
            leap = max(1, int(wish * leap))
            continue
        if len(steps) == 1:
            # the first leap is one step, in which no floor is missed
            right, noise, foreign = _with_noise(right, here, rise)
        groups, gradient, slopes = right, there, rise
        steps.append(steps[-1] + leap)
        losses.append(loss)
        norms.append(_norm(there))
        leap = min(_LONGEST, max(1, round(wish * leap)))
        if enough is not None and enough(path()):
            break
    return path()


@dataclass(frozen=True)
class _Group:
    """Parameters with the same settings and the same number of steps, as one vector; ``rule`` is one of theirs."""

    indices: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    rule: Moments
    steps: int
    place: Tensor
    mean: Tensor
    square: Tensor
    largest: Tensor | None
    floor: Tensor

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        return _flat([tensors[i] for i in self.indices])

    def unflatten(self, vector: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        parts = torch.split(vector, [shape.numel() for shape in self.shapes])
        return {names[i]: p.view(shape) for i, p, shape in zip(self.indices, parts, self.shapes, strict=True)}

    def after(self, leap: int, gradient: Tensor, slope: Tensor) -> _Group:
        """Where it is ``leap`` steps later, if the gradient is ``gradient + j slope`` at the ``j``-th of them."""
        rule, place, largest = self.rule, self.place.clone(), self.largest
        if rule.coupled:
            gradient = gradient + rule.coupled * place
        first, second = _Sums(rule.first), _Sums(rule.second)
        begin, parts = 0, min(leap, _PARTS)
        if leap * max(1.0 - rule.second, 1.0 / self.steps) < _SLOW:
            parts = 1
        for part in range(parts):
            end = leap * (part + 1) // parts
            middle = (begin + end + 1) // 2
            old = new = turn = 0.0
            for step in range(begin + 1, end + 1):
                first.advance()
                second.advance()
                rate = rule.rate / (1.0 - rule.first ** (self.steps + step))
                old += rate * first.kept
                new += rate * first.weight
                turn += rate * first.mean * first.weight
                if step == middle:
                    square = self._square(second, gradient, slope)
                    if largest is not None:
                        square = largest = torch.maximum(largest, square)
                    scale = (square / (1.0 - rule.second ** (self.steps + step))).sqrt_().add_(rule.eps)
            if rule.decoupled:
                place.mul_((1.0 - rule.rate * rule.decoupled) ** (end - begin))
            move = torch.add(gradient, slope, alpha=turn / new).mul_(new).add_(self.mean, alpha=old)
            place.addcdiv_(move, scale, value=-1.0)
            begin = end
        mean = torch.add(gradient, slope, alpha=first.mean).mul_(first.weight)
        return replace(
            self,
            steps=self.steps + leap,
            place=place,
            mean=mean.add_(self.mean, alpha=first.kept),
            square=self._square(second, gradient, slope),
            largest=largest,
        )

    def _square(self, sums: _Sums, gradient: Tensor, slope: Tensor) -> Tensor:
        """``v``: the squares of a straight line are its mean squared, and its variance."""
        centre = torch.add(gradient, slope, alpha=sums.mean)
        square = torch.add(self.square * sums.kept, self.floor, alpha=sums.weight)
        square.addcmul_(centre, centre, value=sums.weight)
        return square.addcmul_(slope, slope, value=sums.weight * sums.variance) if sums.variance else square


class _Sums:
    """Weights ``(1 - b) b^(i-1-j)`` of the steps ``j < i`` behind an average of rate ``b``.

    Attributes:
        kept: ``b^i``, what is left of the average at the beginning.
        weight: their sum, ``1 - b^i``.
        mean, variance: of ``j`` under them.
    """

    def __init__(self, base: float) -> None:
        self.kept, self.weight, self.mean, self.variance = 1.0, 0.0, 0.0, 0.0
        self._base, self._count = base, 0
        self._first = self._second = 0.0

    def advance(self) -> None:
        """To the next ``i``."""
        b, j = self._base, self._count
        self._first = b * self._first + (1.0 - b) * j
        self._second = b * self._second + (1.0 - b) * j * j
        self._count += 1
        self.kept *= b
        self.weight = b * self.weight + (1.0 - b)
        self.mean = self._first / self.weight
        self.variance = max(0.0, self._second / self.weight - self.mean**2)


def noise_floor(held: Moments, gradient: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The part of ``v_hat`` that other batches put into it and will go on putting there, and what tells so.

    ``v_hat - m_hat^2`` is noise, or it is what the gradient used to be. The mean tells them apart: noise of variance
    ``v`` leaves ``v (1 - beta_1) / (1 + beta_1)`` in ``m_hat``, more in the first steps. So far it is then from what
    the gradient of the batch was as many steps ago as ``m_hat`` is old, at most.

    Args:
        gradient: of the batch.
        slope: by which it changes a step.

    Returns:
        The floor and that distance, both of the parameter's shape.
    """
    steps = float(held.steps)
    left = held.first**steps
    mean = held.mean / (1.0 - left)
    square = held.square / (1.0 - held.second**steps)
    spread = (1.0 - held.first) / (1.0 + held.first) * (1.0 + left) / (1.0 - left)
    age = 1.0 / (1.0 - held.first) - steps * left / (1.0 - left)
    # no farther back than explains it: fast directions turn round within that time
    along, length = float(((gradient - mean) * slope).sum()), float(slope.square().sum())
    away = mean - torch.sub(gradient, slope, alpha=min(age, max(0.0, along / max(length, 1e-300))))
    explained = float(away.square().mean()) / max(spread * float(square.mean()), 1e-300)
    return (square - mean.square()).clamp_(min=0.0).mul_(min(1.0, explained)), away


def _groups(here: AdaptedLoss) -> list[_Group]:
    members: dict[tuple[float, ...], list[int]] = {}
    for index, held in enumerate(here.moments):
        if held is not None:
            rule = (held.rate, held.first, held.second, held.eps, held.coupled, held.decoupled)
            key = (float(held.steps), float(held.largest is not None), *rule)
            members.setdefault(key, []).append(index)
    return [_group(here, tuple(indices)) for indices in members.values()]


def _group(here: AdaptedLoss, indices: tuple[int, ...]) -> _Group:
    held = [moments for i in indices if (moments := here.moments[i]) is not None]
    places = [here.state[here.loss.names[i]] for i in indices]
    largest = [moments.largest for moments in held if moments.largest is not None]
    return _Group(
        indices,
        tuple(place.shape for place in places),
        held[0],
        round(float(held[0].steps)),
        _flat(places),
        _flat([moments.mean for moments in held]),
        _flat([moments.square for moments in held]),
        _flat(largest) if largest else None,
        torch.zeros_like(_flat(places)),
    )


def _with_noise(
    groups: list[_Group], here: AdaptedLoss, slopes: list[Tensor]
) -> tuple[list[_Group], float, float]:
    """The groups with their floors, `AdamPath.noise` and `AdamPath.foreign`; ``slopes`` is what a step has shown."""
    noisy, floor, square, away, gradient = [], 0.0, 0.0, 0.0, 0.0
    for group, slope in zip(groups, slopes, strict=True):
        parts = torch.split(slope, [shape.numel() for shape in group.shapes])
        floors = []
        for index, part, shape in zip(group.indices, parts, group.shapes, strict=True):
            held = here.moments[index]
            assert held is not None
            low, distance = noise_floor(held, here.gradient[index], part.view(shape))
            floors.append(low)
            floor += float(low.sum())
            square += float(held.square.sum()) / (1.0 - held.second ** float(held.steps))
            away += float(distance.square().sum())
            gradient += float(here.gradient[index].square().sum())
        noisy.append(replace(group, floor=_flat(floors)))
    return noisy, floor / max(square, 1e-300), away / max(square + gradient, 1e-300)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _norm(parts: list[Tensor]) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in parts))


def _distance(groups: list[_Group], others: list[_Group]) -> float:
    return _norm([a.place - b.place for a, b in zip(groups, others, strict=True)])
