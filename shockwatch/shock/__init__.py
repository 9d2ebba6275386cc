"""Shocks: probes of the unstable direction, 1-D Hopf-Lax, arrival forecasts, the ``shock/`` scalars."""
