"""The scalar tags: every name that may appear in a log, what it means and in which unit.

The names are a contract: dashboards, ``EarlyStopping(monitor=...)`` and alert rules are written
against them, so a tag is added here before anything may emit it.

Units: *parameter units* are those of the weights; *training time* is the sum of effective learning
rates (theory.md 4); *steps* are optimiser steps.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Tag:
    """What one scalar means.

    Attributes:
        meaning: one plain line.
        unit: its unit, ``"1"`` where it is a pure number.
    """

    meaning: str
    unit: str


TAGS: dict[str, Tag] = {
    "quotient/norm": Tag("Size of the network once every redundant direction is removed.", "parameter units"),
    "quotient/speed": Tag(
        "How fast the network itself moves, redundant motion left out.",
        "parameter units per training time",
    ),
    "quotient/path_length": Tag("Distance the network has travelled since the start.", "parameter units"),
    "quotient/viscosity": Tag(
        "How strongly gradient noise spreads the path: its quadratic variation per dimension.",
        "parameter units squared per training time",
    ),
    "quotient/distance_from_start": Tag(
        "Straight distance between the network now and at the start.", "parameter units"
    ),
    "quotient/measure_speed": Tag(
        "How fast the distribution of hidden units moves, whatever their order (Wasserstein-2).",
        "parameter units per step",
    ),
    "raw/norm": Tag("Euclidean norm of the parameters as stored; depends on the gauge.", "parameter units"),
    "raw/speed": Tag(
        "How fast the stored parameters move; depends on the gauge.", "parameter units per training time"
    ),
    "raw/drift": Tag("Share of the displacement that runs along orbits and changes nothing.", "1"),
    "raw/lr_lambda_max": Tag(
        "Largest curvature in the metric of Adam times its learning rate over its momentum factor: 2 is the edge of "
        "stability of Adam and AdamW; depends on the gauge, as they do. Not there for other optimisers.",
        "1",
    ),
    "shock/lambda_min": Tag(
        "Smallest curvature of the loss on the quotient; negative means unstable.",
        "1 per training time",
    ),
    "shock/lambda_max": Tag("Largest curvature of the loss on the quotient.", "1 per training time"),
    "shock/lr_lambda_max": Tag(
        "Largest curvature times the learning rate over its momentum factor: 2 is the edge of stability of SGD, with "
        "momentum too; NaN for other optimisers.",
        "1",
    ),
    "shock/time": Tag("Training time until characteristics cross, -1 / lambda_min.", "training time"),
    "shock/steps": Tag("Steps until characteristics cross, without weighing the evidence.", "steps"),
    "shock/proximity": Tag(
        "Forecast horizon over shock time, weighted by the evidence; 1 and above: a transition is near.", "1"
    ),
    "shock/rate": Tag(
        "Steepening of the gradient along its own path; negative: it grows.", "1 per training time"
    ),
    "shock/reynolds": Tag("Steepening against smoothing by noise; below 1 a crossover, not a shock.", "1"),
    "shock/strength": Tag("Jump of the coarse-grained slope across the shock.", "loss per parameter unit"),
    "shock/arrival_steps": Tag(
        "Forecast of the steps left until the next transition; of Adam's own path, in its gauge, where Adam trains.",
        "steps",
    ),
    "shock/arrival_error": Tag("Half width of the 80 % interval of that forecast.", "steps"),
    "shock/forecast_score": Tag(
        "Median error of the forecasts that an event has judged, relative to what was left.", "1"
    ),
    "shock/trajectory_steps": Tag(
        "Forecast of the steps left, from the path alone: where its speed would blow up.", "steps"
    ),
    "shock/basin_gap": Tag(
        "Difference of the two lowest basins that compete on the unstable slice; 0: they tie, a shock.",
        "loss",
    ),
    "shock/burgers_residual": Tag(
        "Share of what moves the slope on the unstable slice that the 1-D Burgers equation leaves out; "
        "0: it holds, 1: not at all.",
        "1",
    ),
    "shock/gradient_field": Tag(
        "Alignment of the motion with the gradient, 1 where training follows it.", "1"
    ),
    "shock/local_entropy_gap": Tag("Loss averaged over the neighbourhood minus the loss itself.", "loss"),
    "phase/changepoint": Tag("1 at an observation where the speed has changed level, else 0.", "1"),
    "phase/variance": Tag("Variance of the detrended log speed over the window.", "1"),
    "phase/autocorrelation": Tag("Lag-1 autocorrelation of the detrended log speed over the window.", "1"),
    "phase/trend": Tag("Kendall's tau of log speed against time: 1 rises all along, -1 falls.", "1"),
    "phase/variance_pvalue": Tag(
        "Share of AR(1) surrogates whose variance rises at least as steadily; small: it does rise.", "1"
    ),
    "phase/autocorrelation_pvalue": Tag("The same for the lag-1 autocorrelation.", "1"),
    "phase/susceptibility": Tag(
        "Variance of quotient/norm over the viscosity: the relaxation time, large near a transition.",
        "training time",
    ),
    "phase/edge_steps": Tag("Steps until shock/lr_lambda_max reaches 2, if its trend holds.", "steps"),
    "phase/edge_error": Tag("Half width of their 80 % interval.", "steps"),
    "phase/state": Tag(
        "Phase of training: 0 smooth, 1 approaching, 2 shock, 3 relaxed, 4 converged, 5 diverging.", "code"
    ),
    "shockwatch/lag_steps": Tag("Steps between taking a snapshot and having its results.", "steps"),
    "shockwatch/dropped": Tag("Snapshots dropped so far because the analysis was behind.", "snapshots"),
    "shockwatch/worker_seconds": Tag("Time the analysis thread has worked so far.", "seconds"),
    "shockwatch/overhead": Tag("Share of training time spent on watching it.", "1"),
    "shockwatch/lr_factor": Tag("Factor that ShockLRController has put on the learning rate.", "1"),
    "shockwatch/errors": Tag("Errors in the analysis so far; each was reported once.", "errors"),
}

PATTERNS: dict[tuple[str, str], Tag] = {
    ("custom/", ""): Tag("A number that an observable of the user's own computes.", "its own"),
    ("raw/imbalance/", ""): Tag(
        "Imbalance of the two sides of a symmetry, 0 at the canonical point; depends on the gauge.", "1"
    ),
    ("block/", "/spectral_norm"): Tag("Largest singular value of a block's invariant product.", "1"),
    ("block/", "/logit_norm"): Tag(
        "Spectral norm of W_Q^T W_K over the root of its width, where a softmax reads it: how attention logits grow.",
        "1",
    ),
    ("block/", "/collapse_steps"): Tag(
        "Steps until those logits have grown tenfold, the level of entropy collapse, if they go on growing.",
        "steps",
    ),
    ("block/", "/stable_rank"): Tag(
        "Squared Frobenius norm over squared spectral norm of a block's product.", "directions"
    ),
    ("block/", "/effective_rank"): Tag(
        "Number of directions a block's product really uses (exponential of spectral entropy).", "directions"
    ),
}
"""Families of tags: ``(prefix, suffix)`` around a name that is at least one character long."""


def describe(tag: str) -> Tag | None:
    """Return what ``tag`` means, or None if it is not a tag of the contract."""
    if tag in TAGS:
        return TAGS[tag]
    for (prefix, suffix), meaning in PATTERNS.items():
        named = len(tag) > len(prefix) + len(suffix)
        if named and tag.startswith(prefix) and tag.endswith(suffix):
            return meaning
    return None


def known_tag(tag: str) -> bool:
    """Tell whether ``tag`` belongs to the contract, by exact name or by family."""
    return describe(tag) is not None


def require_known_tag(argument_name: str, tag: object) -> str:
    """Return ``tag`` if it belongs to the contract.

    Raises:
        ValueError: if it does not; the message offers the nearest tags.
    """
    if isinstance(tag, str) and known_tag(tag):
        return tag
    families = [f"{prefix}<name>{suffix}" for prefix, suffix in PATTERNS]
    near = difflib.get_close_matches(str(tag), [*TAGS, *families], n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else "see shockwatch.tags.TAGS for the list"
    )
    raise ValueError(f"{argument_name}={tag!r}: not a tag that shockwatch writes; {hint}")
