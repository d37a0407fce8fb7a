"""Checkpoints as trees of NumPy arrays. Nothing in a file is run, and nothing is unpickled."""

from rankjax.report.checkpoints.errors import CheckpointError as CheckpointError
from rankjax.report.checkpoints.errors import shown as shown
from rankjax.report.checkpoints.load import Checkpoint as Checkpoint
from rankjax.report.checkpoints.load import load as load
