"""Does the control pay? Runs that diverge without it, and runs that did not need it.

    OMP_NUM_THREADS=1 python -m examples.benchmarks.control       # from the repository root, about a quarter of an hour

Four families are set up to fail, fifteen seeds each, of which the last five are held out: a small tanh network whose
constant rate is 2 to 5 times the edge of stability at its start; a ReLU classifier with momentum and small batches, the
same after a warm-up; three linear layers whose rate is 2 to 5 times what the minimum behind a plateau bears; a warm-up
that never ends. All their losses have a floor (noise in the targets, classes that overlap), so that a ratio of final
losses means something. Four families of smooth runs, those of the labelled benchmark and the ReLU classifier at a
healthy rate, five seeds each and two held out, must not be harmed.

Each run is made (a) without any callback; (b) at constant rates a factor of two apart, the best of which at the end
is "tuned by hand"; (c) with ``ShockWatch`` and ``ShockLRController()`` as they come, but for a snapshot every five
steps; (d) with ``ShockEarlyStopping("shock/lr_lambda_max", threshold=2, patience=2)``. A run *needed* control if it
diverges in (a): the loss is not finite, or above five times its largest value in the first five steps. In (c) and (d)
the trainer waits for the analysis at every snapshot, so that the result does not hang on the speed of the machine. The
final loss is that on all the data, averaged over the last 20 steps; "cost" is its excess over the run without control.

The rule for small batches with momentum (``LossRise``, and the bound it puts into force) was worked out on seeds 0 to 4
of that family and then found to hold in 1 of 5 on seeds 5 to 9. It was worked over on all of these and on ten more
seeds of the same family (100 to 109, in a simulation): the loss is now read at every step, its scatter leaves out the
fall of the loss and the rise itself, and the last measurement counts at once. Seeds 10 to 14 were run once, after all
that was fixed. Of what is missed with small batches, seeds 6 and 8 had been thrown too far by the time the loss rose:
from there on the tuned rate itself ends 8 and 12 % above the tuned run, and no constant rate ends less than 6 % above.
"""
