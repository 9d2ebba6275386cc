"""Labelled runs: does shockwatch tell of a transition before it comes, and stay silent where none does?

    OMP_NUM_THREADS=1 python -m examples.benchmarks.labelled            # from the repository root; all runs
    OMP_NUM_THREADS=1 python -m examples.benchmarks.labelled --only deep_linear --count 2
    OMP_NUM_THREADS=1 python -m examples.benchmarks.labelled --judge    # today's rules on the values of the last run

Every run is trained once, in float64 and without any monitor, and its parameters are kept; all monitors then see the
same run. Each run is seen twice: as it was, and in random gauges (a new random element of every exact group from
each of four random steps on; the function, and so the outcome, is the same). The gradient, the norm and the raw
curvature that the baselines see are those of the parameters in that gauge.

The rule that labels a run (``labels.py`` holds the code) reads the outcome only, never a monitor: the loss on fixed
data, test accuracy, attention entropy on fixed data, share of units that are alive.

- divergence: the loss is not finite, or above five times its largest value in the first five steps. The run ends there.
- spike: the loss is above three times its median over the last 50 steps, and within 100 steps back below 1.5 times it.
- attention collapse: the mean entropy of some head is below a quarter of its initial value, and stays there.
- dead units: fewer than a tenth of the units of some hidden layer answer to any datum, and it stays so.
- grokking: test accuracy passes 0.5, training accuracy having passed 0.95 at least 100 steps earlier.
- stage: the share of the loss (mean over 11 steps) that is lost in ten steps grows to twice its lowest since the last
  stage and to 5 %, and when it has halved again (or the run ends) the loss is at a new low, by a tenth of the old one
  and by 0.5 % of its initial value; the event is where, in between, the loss falls fastest.

Events within 30 steps of an earlier one belong to it. A run without an event is a negative, whatever it was built for.

How the rules came about: they were written first, and the families adjusted until their runs did what they are named
for, by their labels alone. After a first look at shockwatch on seven runs of seed 0 the stage rule was changed (from
four times its lowest to twice, as it missed stages of deep linear networks that are known exactly; and from the largest
share to the fastest fall), the rule of matching below was changed (alerts before the preceding event count, too), and
the rule "edge of stability" was given its cooldown of 50 steps. The threshold on entropy was a tenth until the labels
of that family had been seen. Odd seeds had been shown to no monitor until all of that was fixed: they are the test
half, even seeds the development half. After the first results two rules were added, both from the literature and from a
look at even seeds alone (dead_units 2 and 4, attention_collapse 0 and 2): "far beyond the edge" and "attention collapse
ahead". The misses of the odd seeds had been printed by then; none of their curves was looked at. Later, again from the
even seeds alone: a transition within a fifth of the horizon is told at the first look (four of five misses there were
plateaus that ended before a second one), and the arrival at the edge is read off square roots (straight lines told it
70 % too late).

An alert is true if an event follows within 200 steps (the horizon), or came at most 20 steps before (a late alert, with
negative lead); each event takes the first such alert that no earlier event has taken, and further ones in its window
count for nothing. Recall: share of events that took an alert. Precision: those over themselves and the false alerts.
Lead: steps from the alert to the event, and its share of the phase before the event (from the event before, or the
start; at most 1). The baselines are judged alike; they were not tuned.
"""
