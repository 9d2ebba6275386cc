"""shockwatch: watch a training run on parameter space modulo its symmetries."""

__version__ = "0.1.0"
