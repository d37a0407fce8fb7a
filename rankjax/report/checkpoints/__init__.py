"""Checkpoints as trees of NumPy arrays. Nothing in a file is run, and nothing is unpickled."""

from rankjax.report.checkpoints._errors import CheckpointError as CheckpointError
from rankjax.report.checkpoints._errors import shown as shown
from rankjax.report.checkpoints._load import Checkpoint as Checkpoint
from rankjax.report.checkpoints._load import load as load
from rankjax.report.checkpoints._npz import read_npz as read_npz
