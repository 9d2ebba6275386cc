"""Forecasts of transitions against what came, beside three baselines.

``OMP_NUM_THREADS=1 python -m examples.benchmarks.forecast`` trains every run of ``settings.py`` for ten seeds (about
half an hour of processor time, by the runs of one seed; it has not been timed whole on a quiet machine), keeps the
verdicts in ``results/forecast.json`` and the table in ``results/forecast.md``; with ``--seeds 2`` it takes a few
minutes, and ``--only induction`` redoes one family.

*When a transition arrives* is read from the outcome alone (``record.Record.events``), never from our indicators. Even
seeds were looked at while the forecast was worked on; odd ones only judge it. Errors are those of the forecast made
at half of the plateau before an event, ``|forecast - actual| / left``; the coverage of the 80 % interval is that of
all forecasts made one probe or more ahead; silence is that of all probes after the last event.

How the labels came about: peaks of the gradient norm were the first rule for all. With gradient noise they miss
stages of deep linear networks that are known exactly, so those are read from what each stage has learned; this was
seen before any forecast was judged by it. After a look at the even seeds, factorisation of a whole matrix was added,
and silence in completion is counted from the last stage that is known to come (a third stage without a peak of its
own had counted as a false forecast). In mini-batch runs (logistic regression, tanh classifier) some of the "events"
are noise. For Adam the stages of deep linear networks and factorisation are read from the gradient norm as elsewhere:
theory knows their steepest points for gradient descent, and Adam runs through several without a peak of anything (seen
on the even seeds, with every single step looked ahead); silence is still counted from the last known stage.

The baselines: the rule ``T' = -ln(1 - gamma T) / gamma`` of theory.md 5; the straight line through the last four
losses, down to zero; the exponential through the last four gradient norms, up to twice the largest yet. (The last two
are told neither what the loss falls to nor where the gradient peaks: nothing that a run knows ahead of time says so.)
"""
