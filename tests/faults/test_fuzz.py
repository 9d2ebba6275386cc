"""Whatever is handed in: a clear error or a correct result, and never a hang.

The examples are the same at every run; SHOCKWATCH_LONG=1 (.ci/long_faults) tries twenty times as many, at random.
"""

from __future__ import annotations

import copy
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shockwatch import ShockEarlyStopping, ShockLRController, ShockMonitor, ShockWatch
from shockwatch.alerts import AlertManager, Rule
from shockwatch.alerts.rule_file import load_rules
from shockwatch.engine import Engine
from shockwatch.errors import ShockwatchWarning
from shockwatch.session import Settings
from shockwatch.snapshot import Snapshot
from tests.faults.recipes import Plain, Recipe, points
from tests.faults.survival import listening

LONG = bool(os.environ.get("SHOCKWATCH_LONG"))
TIMES = 20 if LONG else 1
pytestmark = pytest.mark.filterwarnings("ignore")

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10), st.integers(), st.floats(), st.text(max_size=8),
    st.binary(max_size=4), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
    st.sampled_from(["auto", "off", "default", "stop", "both", "shock/proximity", "raw/norm", "above", "critical"]),
)  # fmt: skip

MODEL = Plain()
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), 0.05)


def loss_fn(model: Any, batch: Any) -> torch.Tensor:
    loss: torch.Tensor = model.loss(batch)
    return loss


def monitor(**options: Any) -> ShockMonitor:
    return ShockMonitor(MODEL, loss_fn, OPTIMIZER, **options)


def rule(**options: Any) -> Rule:
    return Rule(**({"name": "n", "tag": "raw/norm", "threshold": 1.0, "message": "m"} | options))


SHARED = ["every_n_steps", "budget", "horizon", "probe", "seed", "shutdown_timeout"]
CONFIGURED: list[tuple[Callable[..., Any], list[str]]] = [
    (ShockWatch, [*SHARED, "loss_fn"]),
    (monitor, [*SHARED, "writer"]),
    (ShockEarlyStopping, ["monitor", "threshold", "patience", "action", "min_steps"]),
    (ShockLRController, ["target", "dry_run"]),
    (
        rule,
        ["name", "tag", "threshold", "message", "direction", "release", "patience", "cooldown", "severity",
         "forecast_tag", "armed_by"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "names"), CONFIGURED, ids=lambda value: getattr(value, "__name__", ""))
@settings(
    max_examples=150 * TIMES, derandomize=not LONG, deadline=2000, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_any_configuration_is_taken_or_refused_by_name(
    make: Callable[..., Any], names: list[str], data: st.DataObject
) -> None:
    options = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANYTHING)))
    made, refusal = None, ""
    try:
        made = make(**options)
    except ValueError as error:
        refusal = str(error)
    if made is None:
        assert any(name in refusal for name in options), f"{refusal!r} names none of {options}"
        return
    held = getattr(made, "settings", None) or getattr(made, "_settings", None) or made
    for name, value in options.items():
        if hasattr(held, name):
            kept = getattr(held, name)
            assert kept == value
            assert not (isinstance(kept, float) and math.isnan(kept))


@settings(max_examples=200 * TIMES, derandomize=not LONG, deadline=2000)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats()), max_size=30))
def test_any_series_raises_each_alert_at_most_once_per_release(series: list[tuple[int, float]]) -> None:
    manager = AlertManager([rule(release=0.5, armed_by=None)])
    alerts = [alert for step, value in series for alert in manager.update(step, {"raw/norm": value})]
    expected, raised = 0, False
    for _, value in series:
        if value < 0.5:
            raised = False
        if value >= 1.0 and not raised:
            raised, expected = True, expected + 1
    assert len(alerts) == expected
    again = AlertManager([rule(release=0.5)])
    again.load_state_dict(manager.state_dict())
    assert again.state_dict() == manager.state_dict()


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """The state of a watch after a real run."""
    watch = ShockWatch(every_n_steps=2, probe=1)
    Recipe("saved").run(watch)
    return watch.state_dict()


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a nested state."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in items for path in paths(item, (*at, key)))]


def damage(state: Any, path: tuple[Any, ...], change: Any) -> Any:
    """``state`` with the thing at ``path`` replaced; ``...`` takes it away."""
    if not path:
        return change
    state = copy.copy(state)
    key, rest = path[0], path[1:]
    if not rest and change is ...:
        del state[key]
    else:
        state[key] = damage(state[key], rest, change)
    return state


STRANGE = st.one_of(
    ANYTHING, st.just(...), st.sampled_from([torch.zeros(3), torch.zeros(8, 6).double(), torch.tensor(math.nan)])
)  # fmt: skip


@settings(
    max_examples=40 * TIMES, derandomize=not LONG, deadline=20_000, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_a_damaged_state_costs_a_warning_at_most(saved: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(paths(saved)))
    state = damage(saved, path, data.draw(STRANGE))
    watch = ShockWatch(every_n_steps=1, probe=1)
    with listening() as heard:
        watch.load_state_dict(state)
        _run_on(watch)
    assert len(heard) <= 2
    norm = watch.values["raw/norm"]
    truth = math.sqrt(sum(float(p.detach().double().square().sum()) for p in MODEL.parameters()))
    assert norm == pytest.approx(truth, rel=1e-5)


def _run_on(watch: ShockWatch) -> None:
    """Two snapshots of the analysis, resumed as ``ShockWatch`` does it, without the cost of a trainer."""
    from shockwatch.clock import TrainingClock
    from shockwatch.replica import private_copy
    from shockwatch.session import Session, build_engine

    batch = next(iter(points()))
    session = Session(
        watch.settings, watch._manager, MODEL,
        lambda: build_engine(private_copy(MODEL), loss_fn, batch, watch.settings, True), watch._analysis_state,
    )  # fmt: skip
    for step in (9, 10):
        session.take(step, step, TrainingClock(), 1.0)
        assert session.settle(60)
        for update in session.collect(step):
            watch.values.update(update.values)
    session.close(60)


@settings(
    max_examples=60 * TIMES, derandomize=not LONG, deadline=20_000, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_harmless(saved: dict[str, Any], data: st.DataObject) -> None:
    file = io.BytesIO()
    torch.save({"ShockWatch": saved}, file)
    content = bytearray(file.getvalue())
    how = data.draw(st.sampled_from(["flip", "cut", "splice"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del content[at:]
    else:
        content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    try:
        state = torch.load(io.BytesIO(bytes(content)), weights_only=True)["ShockWatch"]
    except Exception:
        return  # the loader's own refusal; it must only not hang
    watch = ShockWatch(every_n_steps=1, probe=1)
    with listening() as heard:
        watch.load_state_dict(state)
        _run_on(watch)
    assert len(heard) <= 2


def test_the_state_of_another_model_starts_afresh(saved: dict[str, Any]) -> None:
    model = torch.nn.Linear(3, 2)
    engine = Engine.build(model, None, None, horizon=10, seed=0, probe=False)
    with pytest.raises(ValueError, match=r"raw\['weight'\]: is None, but must be a tensor \(2, 3\)"):
        engine.load_state_dict(saved["analysis"])
    state = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    fresh = Engine.build(model, None, None, horizon=10, seed=0, probe=False)
    assert fresh.process(Snapshot(1, state, 0.1, 0.1, 0.1, 1.0), False).error is None


def test_settings_are_what_was_given() -> None:
    assert Settings(3, 0.5, 7, "off", 1, (), 2.0).shutdown_timeout == 2.0
    with pytest.raises(ValueError, match=r"shutdown_timeout=-1: must be a number in \[0, inf\]"):
        Settings(shutdown_timeout=-1)
    assert issubclass(ShockwatchWarning, UserWarning)


VALID_RULES = """\
- default
- name: far
  tag: quotient/path_length
  threshold: 1.5
  message: "{tag} is {value}."
  cooldown: 10
"""
FIELDS = [
    "name",
    "tag",
    "threshold",
    "message",
    "direction",
    "release",
    "patience",
    "cooldown",
    "event",
    "nmae",
]
RULE_TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="-[]{}:&*!|>'\"%@`#,?\n\t ax1", max_size=60),
    st.lists(
        st.one_of(ANYTHING, st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=6)), max_size=3
    ).map(lambda content: yaml.safe_dump(content)),
    st.tuples(st.integers(0, len(VALID_RULES) - 1), st.characters(codec="utf-8")).map(
        lambda change: VALID_RULES[: change[0]] + change[1] + VALID_RULES[change[0] + 1 :]
    ),
)


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules") / "rules.yaml"


@settings(
    max_examples=400 * TIMES, derandomize=not LONG, deadline=2000, suppress_health_check=list(HealthCheck)
)
@given(text=RULE_TEXTS)
@example(text=VALID_RULES)
@example(text="- 2001-99-99\n")
@example(text="[" * 4000)
@example(text="!!python/object/apply:os.system ['true']")
@example(text="&a [*a]")
def test_a_file_of_rules_is_read_or_refused(text: str, rule_file: Path) -> None:
    rule_file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rules, refusal = load_rules(rule_file), rule_file.name
    except ValueError as error:
        rules, refusal = (), str(error)
    assert rule_file.name in refusal
    assert all(isinstance(entry, Rule) for entry in rules)
    AlertManager(rules).update(0, {"raw/norm": 1.0, "quotient/path_length": 2.0})
