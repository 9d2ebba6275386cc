"""Forecasts of transitions against what came, beside three baselines.

``OMP_NUM_THREADS=1 python -m examples.benchmarks.forecast`` trains every run of ``settings.py`` for ten seeds (half an
hour on two cores), keeps the verdicts in ``results/forecast.json`` and the table in ``results/forecast.md``; with
``--seeds 2`` it takes a few minutes, and ``--only induction`` redoes one family.

*When a transition arrives* is read from the outcome alone (``record.Record.events``), never from our indicators. Even
seeds were looked at while the forecast was worked on; odd ones only judge it. Errors are those of the forecast made at
half of the plateau before an event, ``|forecast - actual| / left``; the coverage of the 80 % interval is that of all
forecasts made one probe or more ahead; silence is that of all probes after the last event.

The baselines: the rule ``T' = -ln(1 - gamma T) / gamma`` of theory.md 5; the straight line through the last four
losses, down to zero; the exponential through the last four gradient norms, up to twice the largest yet. (The
last two are told neither what the loss falls to nor where the gradient peaks: nothing that a run knows ahead of time
says so.)
"""
