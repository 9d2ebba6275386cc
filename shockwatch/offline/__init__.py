"""What can be said after the run, from saved checkpoints: ``shockwatch scan`` and ``shockwatch compare``."""

from shockwatch.offline.checkpoint import Checkpoint, CheckpointError, fit_to, read_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "fit_to", "read_checkpoint"]
