"""The table of the forecast benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from examples.benchmarks.forecast.judge import FORECASTERS, Verdict


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: a row a family, then all linear ones and all others, where there is an event or silence to judge."""
    families = list(dict.fromkeys(v.family for v in verdicts))
    rows = [
        "| family | runs | events | error | bias | baselines: gamma rule, loss, gradient norm | interval covers"
        " | silent after | proximity < 0.5 | gamma rule silent |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = [(family, [v for v in verdicts if v.family == family]) for family in families]
    clocked = [v for v in verdicts if "Adam" not in v.family]
    groups.append(("**all deep linear but Adam**", [v for v in clocked if "linear," in v.family]))
    groups.append(("**all others**", [v for v in clocked if "linear," not in v.family]))
    groups.append(("**all Adam**", [v for v in verdicts if "Adam" in v.family]))
    rows += [_row(name, chosen) for name, chosen in groups if chosen]
    return "\n".join(rows) + "\n"


def _row(name: str, verdicts: Sequence[Verdict]) -> str:
    halves = np.array([h for v in verdicts for h in v.halves]).reshape(-1, 1 + len(FORECASTERS))
    ahead = np.array([a for v in verdicts for a in v.ahead]).reshape(-1, 4)
    after = np.array([a for v in verdicts for a in v.after]).reshape(-1, 2 + len(FORECASTERS))
    errors = [_error(halves, column) for column in range(len(FORECASTERS))]
    covered = np.abs(ahead[:, 1] - ahead[:, 0]) <= ahead[:, 2]
    cells = [
        name,
        str(len(verdicts)),
        str(sum(len(v.events) for v in verdicts)),
        errors[0],
        _share(np.median, (ahead[:, 1] - ahead[:, 0]) / ahead[:, 0], "+.1%"),
        ", ".join(errors[1:]),
        _share(np.mean, covered, ".0%"),
        _share(np.mean, np.isnan(after[:, 2]), ".1%"),
        _share(np.mean, after[:, 1] < 0.5, ".1%"),
        _share(np.mean, np.isnan(after[:, 3]), ".0%"),
    ]
    return "| " + " | ".join(cells) + " |"


def _error(halves: np.ndarray, column: int) -> str:
    """Median relative error of the forecasts at half of the plateau, and the share of events that had one."""
    left, guess = halves[:, 0], halves[:, 1 + column]
    given = np.isfinite(guess)
    if not given.any():
        return "none given" if len(left) else "-"
    median = float(np.median(np.abs(guess - left)[given] / left[given]))
    return f"{median:.1%} ({given.mean():.0%} given)"


def _share(statistic: Callable[[np.ndarray], float], values: np.ndarray, form: str) -> str:
    value = float(statistic(values)) if len(values) else math.nan
    return "-" if math.isnan(value) else format(value, form)
