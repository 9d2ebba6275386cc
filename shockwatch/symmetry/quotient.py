"""The parameters modulo their symmetries: canonical form, horizontal space, distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from shockwatch.norms import square_norm
from shockwatch.snapshot import State
from shockwatch.symmetry.acting import Acting
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import ContinuousGroup, ListPermutation, Permutation, SymmetryGroup
from shockwatch.symmetry.matching import match_units_, possible_gain
from shockwatch.symmetry.order import UnitOrder
from shockwatch.symmetry.packing import Packed
from shockwatch.symmetry.projection import HorizontalProjector
from shockwatch.tracing import LossFunction, StepLoss, trace_step

# Share of a squared distance that another order might save: training was seen below 0.02, reordered units above 0.1.
_IN_ORDER = 0.05


class Quotient:
    """The quotient of parameter space by the groups found in one training step.

    States are dictionaries of tensors by name, as in ``model.named_parameters()`` and ``named_buffers()`` (or
    ``state_dict()``); they are never changed in place. Tangent vectors hold the trainable parameters only.

    Attributes:
        groups: the verified groups.
        names: the trainable parameters.
        rejected: groups the graph suggested and the measurement refused.
        blocked: operators on a parameter's path that the analysis does not know, with their counts.
        notes: what else is to be known of how they were found.
    """

    def __init__(
        self,
        groups: Sequence[SymmetryGroup],
        names: Sequence[str],
        *,
        aliases: Mapping[str, str] | None = None,
        rejected: Sequence[SymmetryGroup] = (),
        blocked: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.groups = tuple(groups)
        self.names = tuple(names)
        self.rejected = tuple(rejected)
        self.blocked = dict(blocked or {})
        self.notes = tuple(notes)
        self._aliases = dict(aliases or {})
        self._made: Acting | None = None

    @property
    def dim(self) -> int:
        """Continuous redundant directions found."""
        return sum(group.dim for group in self.groups)

    @property
    def dim_exact(self) -> int:
        """Those whose invariance no eps breaks, with a measured residual below 1e-9 in float64."""
        return sum(group.dim for group in self.groups if group.exact)

    @property
    def dim_of_shape(self) -> int:
        """Those of ``dim`` that hold for batches of the probed shape only: rows that no such batch reads."""
        return sum(group.dim for group in self.groups if group.shape_bound)

    def degenerate(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Names of groups with units or blocks whose orbit has no point of least norm at ``state``, and their number.

        Dead units, an adapter at zero, rank-deficient heads: their canonical form is the limit of their orbit.
        """
        plain = {name: tensor.detach() for name, tensor in state.items()}
        with torch.no_grad():
            continuous = (group for group in self.groups if isinstance(group, ContinuousGroup))
            counts = {group.name: group.degenerate(plain) for group in continuous}
        return {name: count for name, count in counts.items() if count}

    # -- states -------------------------------------------------------------------------------

    def _acting(self, state: Mapping[str, Tensor]) -> Acting:
        if self._made is None:
            self._made = Acting(self.groups, self.names, state)
        return self._made

    def pack(self, state: Mapping[str, Tensor]) -> Packed:
        """A private copy of ``state``, its parameters side by side in one buffer.

        Raises:
            ValueError: if a trainable parameter is missing.
        """
        self._require_complete(state)
        return self._acting(state).layout.pack(state)

    def _packed(self, state: Mapping[str, Tensor]) -> Packed:
        """``state`` to be read; itself where it is packed."""
        known = isinstance(state, Packed) and state.layout is self._acting(state).layout
        return state if known and isinstance(state, Packed) else self.pack(state)

    def _require_complete(self, state: Mapping[str, Tensor]) -> None:
        missing = [name for name in self.names if name not in state]
        if missing:
            raise ValueError(f"state lacks {missing[:3]}: must hold every trainable parameter by name")

    def _with_aliases(self, state: Packed) -> Packed:
        for alias, name in self._aliases.items():
            if alias in state:
                state[alias] = state[name]
        return state

    def random_transform(
        self,
        state: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        scale: float = 1.0,
        *,
        approximate: bool = False,
    ) -> State:
        """The same function in another gauge: a random element of every exact group applied to ``state``.

        Args:
            generator: source of the draw; default: a fresh one with seed 0.
            scale: standard deviation of the logarithm of the element.
            approximate: also move along groups whose invariance an eps breaks; the function then changes a little.
        """
        source = generator if generator is not None else torch.Generator().manual_seed(0)
        moved = self.pack(state)
        with torch.no_grad():
            for group in self.groups:
                if approximate or group.exact:
                    group.transform_(moved, source, scale)
        return self._with_aliases(moved)

    def balance(self, state: Mapping[str, Tensor]) -> Packed:
        """The minimum-norm point of the orbit, up to rotations and signs (Kempf & Ness 1979; theory.md 2).

        Closed forms for each group, alternated until nothing moves where groups share weights.
        """
        moved = self.pack(state)
        with torch.no_grad():
            self._acting(state).balance_(moved)
        return self._with_aliases(moved)

    def canonicalize(
        self,
        state: Mapping[str, Tensor],
        reference: Mapping[str, Tensor] | None = None,
        gauge: Gauge | None = None,
    ) -> Packed:
        """The canonical point of the orbit of ``state``.

        The balanced point is unique up to permutations, rotations and signs. Units are ordered by norm, rotations
        and signs fixed against a random frame, the same for every call. With ``reference`` (a canonical state)
        units keep their order, and rotations and signs go to the nearest point: inside one run that is continuous.

        Args:
            gauge: of the last state of the run, to start from; it becomes that of this one, and only time depends on
                it. Not used without a reference.
        """
        if reference is not None:
            self._require_complete(state)
            with torch.no_grad():
                gauge = Gauge() if gauge is None else gauge
                return self._with_aliases(self._acting(state).follow(state, self._packed(reference), gauge))
        moved = self.balance(state)
        with torch.no_grad():
            for group in sorted(self.groups, key=lambda g: g.frame_order):
                group.fix_frame_(moved)
        return self._with_aliases(moved)

    def begin(self, state: Mapping[str, Tensor], gauge: Gauge) -> tuple[Packed, UnitOrder]:
        """The canonical point of the first state of a run, and the order of its units there.

        Args:
            gauge: becomes what later states, in that order, start from.
        """
        moved = self.balance(state)
        moves = []
        with torch.no_grad():
            for group in self.groups:
                if isinstance(group, Permutation):
                    moves.append((group, group.by_size(moved)))
                    group.permute_(moved, moves[-1][1])
            self._acting(state).begin_(moved, gauge)
        return self._with_aliases(moved), UnitOrder(moves)

    def align(
        self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor], gauge: Gauge | None = None
    ) -> Packed:
        """The balanced ``state`` turned along rotations and signs to the point nearest to ``reference``.

        Args:
            gauge: what turned the last state of the run to the same reference; it becomes what turned this one.
        """
        with torch.no_grad():
            gauge = Gauge() if gauge is None else gauge
            moved = self._acting(state).turned(self._packed(state), self._packed(reference), gauge)
        return self._with_aliases(moved)

    def turn(self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Packed:
        """The balanced ``state`` turned towards any fixed ``reference``, near or not.

        Other than :meth:`align` it starts from nothing but the orbit, and holds on to weights that nothing else turns.
        """
        moved, target = self.pack(state), self._packed(reference)
        with torch.no_grad():
            self._acting(state).turn_(moved, target)
        return self._with_aliases(moved)

    def projector(
        self, state: Mapping[str, Tensor], *, tolerance: float | None = None, often: bool = True
    ) -> HorizontalProjector:
        """The horizontal projection at ``state``, for many tangents.

        Args:
            tolerance: accuracy relative to the tangent; default: that of the type.
            often: whether it pays to factorise first.
        """
        acting = self._acting(state)
        return HorizontalProjector(
            acting.components, acting.layout, self._packed(state), tolerance=tolerance, factorise=often
        )

    def horizontal(self, state: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> State:
        """The horizontal part of ``tangent`` at the canonical point ``state`` (theory.md 3)."""
        return self.projector(state, often=False)(tangent)

    def distance(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        """Distance of two networks modulo every group, permutations included."""
        first = self.balance(a)
        return self.euclidean(first, self.match(self.balance(b), first))

    def match(self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Packed:
        """The balanced ``state`` with units reordered, and turned, to lie as near to ``reference`` as can be found."""
        return self.match_with_order(state, reference)[0]

    def match_with_order(
        self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> tuple[Packed, UnitOrder]:
        """:meth:`match`, and the order it found."""
        # units of one layer change places without those of the next: no stacks here
        acting = Acting(self.groups, self.names, state, stack=False)
        moved, target = acting.layout.pack(state), dict(reference)
        with torch.no_grad():
            order = match_units_(self.groups, moved, target, acting.pair_, self.euclidean)
            acting.refine_(moved, target)
        return self._with_aliases(self.pack(moved)), order

    def in_order(self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> bool:
        """Whether no other order of units would bring ``state``, aligned with ``reference``, much nearer to it.

        A rule of thumb that takes one comparison of all units, where :meth:`match` looks for the best order.
        """
        with torch.no_grad():
            gain = possible_gain(self.groups, self._packed(state), self._packed(reference))
        return gain <= _IN_ORDER * square_norm(self.difference(state, reference))

    def euclidean(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        """Euclidean distance over the trainable parameters."""
        return math.sqrt(square_norm(self.difference(a, b)))

    def square_norm(self, vector: Tensor) -> float:
        """Square of the norm of a vector from :meth:`difference`."""
        return square_norm(vector)

    def count(self, state: Mapping[str, Tensor]) -> int:
        """Number of trainable parameters."""
        return sum(state[n].numel() for n in self.names)

    def finite(self, state: Mapping[str, Tensor]) -> bool:
        """Whether all trainable parameters are finite."""
        tensors = [state[n].detach() for n in self.names]
        if not tensors:
            return True
        # a norm may overflow where no entry does
        norms = torch.stack([norm.double().cpu() for norm in torch._foreach_norm(tensors)])
        return bool(norms.isfinite().all()) or all(bool(torch.isfinite(t).all()) for t in tensors)

    def norm(self, state: Mapping[str, Tensor]) -> float:
        """Euclidean norm over the trainable parameters."""
        if isinstance(state, Packed) and state.flat is not None:
            return math.sqrt(square_norm(state.flat))
        return math.sqrt(sum(square_norm(state[n]) for n in self.names))

    # -- numbers ------------------------------------------------------------------------------

    def observables(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """Gauge-invariant numbers of one state: ``quotient/norm`` and ``block/<name>/...``."""
        point = self.balance(state)
        return {"quotient/norm": self.norm(point), **self.invariants(point)}

    def invariants(self, point: Mapping[str, Tensor]) -> dict[str, float]:
        """``block/<name>/<invariant>`` of every group that has some, at a canonical ``point``.

        At another point of the orbit the translations of the maps around a block would show in its product. Of heads in
        a list of modules, whose order means nothing, the extreme one is told, as of heads in one tensor.
        """
        packed = self._packed(point)
        with torch.no_grad():
            found = self._acting(point).read(lambda group: group.invariants(packed.stacks))
        values: dict[str, float] = {}
        for group, row in found:
            name = next((n for g in self._lists if (n := g.common_name(group)) is not None), group.name)
            for key, value in row.items():
                tag = f"block/{name}/{key}"
                values[tag] = extreme(tag, value, values.get(tag, value))
        return values

    @property
    def _lists(self) -> list[ListPermutation]:
        return [g for g in self.groups if isinstance(g, ListPermutation)]

    def imbalance(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """``raw/imbalance/<name>``: how far each group stands from its canonical slice."""
        packed = self._packed(state)

        def numbers(group: SymmetryGroup) -> dict[str, Tensor]:
            return {"": group.imbalance(packed.stacks)} if isinstance(group, ContinuousGroup) else {}

        with torch.no_grad():
            found = self._acting(state).read(numbers)
        values = {f"raw/imbalance/{group.name}": row[""] for group, row in found if row}
        return {tag: value for tag, value in values.items() if not math.isnan(value)}

    def hessian(
        self, model: nn.Module, loss_fn: LossFunction, batch: Any, state: Mapping[str, Tensor]
    ) -> LinearOperator:
        """``P H P`` at the canonical point of ``state``, in the order of ``names``, each tensor row-major.

        Its spectrum on the horizontal space is that of the Riemannian Hessian of the reduced loss (theory.md 3).
        """
        point = self.canonicalize(state)
        dtype = point[self.names[0]].dtype
        loss = StepLoss(trace_step(model, loss_fn, batch).in_dtype(dtype), batch)
        live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        frozen = {n: t.detach().to(dtype) if t.is_floating_point() else t.detach() for n, t in live.items()}
        _, _, product = loss.linearize(point, frozen)
        size = sum(point[n].numel() for n in self.names)

        project = self.projector(point)

        def matvec(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            flat = torch.as_tensor(np.array(vector).reshape(-1)).to(dtype)
            inside = project(self.unflatten(flat, point))
            image = product([inside[n] for n in self.names])
            outside = project(dict(zip(self.names, image, strict=True)))
            return self.flatten(outside).numpy()

        return LinearOperator(
            (size, size), matvec=matvec, rmatvec=matvec, dtype=np.dtype(str(dtype).split(".")[1])
        )

    def difference(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        """``a - b`` over the trainable parameters, one vector, always in the same order."""
        move = self._packed(a).minus(self._packed(b))
        return move if move is not None else self.flatten(a) - self.flatten(b)

    def flatten(self, tangent: Mapping[str, Tensor]) -> Tensor:
        """One vector from a tangent, in the order of ``names``."""
        return torch.cat([tangent[n].detach().reshape(-1) for n in self.names])

    def unflatten(self, vector: Tensor, like: Mapping[str, Tensor]) -> State:
        """The tangent behind a vector from :meth:`flatten`."""
        parts = torch.split(vector, [like[n].numel() for n in self.names])
        return {n: part.reshape(like[n].shape) for n, part in zip(self.names, parts, strict=True)}

    def __repr__(self) -> str:
        rows = [f"  {g.kind:18} {g.dim:6d}  {g.residual:9.1e}  {g.name}  ({g.evidence})" for g in self.groups]
        notes = [f"  {note}" for note in self.notes]
        return "\n".join(
            [f"Quotient: {self.dim} redundant directions in {len(self.groups)} groups", *rows, *notes]
        )


def extreme(tag: str, a: float, b: float) -> float:
    """Which of two blocks is told: the largest norm, the smallest ranks."""
    return max(a, b) if tag.endswith("norm") else min(a, b)
