"""What a watched run costs: with and without, in pairs, and beside other tools.

``python -m examples.benchmarks.overhead`` trains three workloads under a Lightning ``Trainer`` and TensorBoard, in turn
with and without ``ShockWatch()`` at its defaults, each run from the start to the end of its shutdown, and takes the
median ratio. Then it trains the first workload in a plain loop, in turn without and with each of the tools that are
installed, all at the same interval. Wall-clock seconds are what a user waits; CPU seconds of the whole process are what
would be waited for on a machine that has no core to spare. ``--quick`` is a check of the script, not a measurement.

The other tools are no dependency; one that is not installed is left out, with a line that says so. They want an
environment of their own::

    pip install --no-deps cockpit-for-pytorch backpack-for-pytorch curvlinops-for-pytorch pyhessian unfoldNd
    pip install wandb einops einconv json_tricks opt-einsum linear_operator pandas seaborn scikit-learn "setuptools<80"
"""
