"""Checkpoints, their spectra and ranks, reports; the command line is ``rankjax.report.cli``."""

from rankjax.report._adapter import SmallerAdapter as SmallerAdapter
from rankjax.report._adapter import write_smaller_adapter as write_smaller_adapter
from rankjax.report._analysis import Analysis as Analysis
from rankjax.report._analyze import analyze as analyze
from rankjax.report._bound_table import markdown_table as markdown_table
from rankjax.report._html import html_report as html_report
from rankjax.report._matrices_by_name import matrices_by_name as matrices_by_name
from rankjax.report._network import Network as Network
from rankjax.report._network import read_data as read_data
from rankjax.report._network import read_network as read_network
from rankjax.report._plots import plot_bounds as plot_bounds
from rankjax.report._plots import plot_rank_map as plot_rank_map
from rankjax.report._plots import plot_spectra as plot_spectra
from rankjax.report._plots import plot_spectrum as plot_spectrum
from rankjax.report._rank_plan import Cut as Cut
from rankjax.report._rank_plan import RankPlan as RankPlan
from rankjax.report._rank_plan import plan_ranks as plan_ranks
from rankjax.report._row import Row as Row
from rankjax.report._sequential import sequential as sequential
from rankjax.report.checkpoints import Checkpoint as Checkpoint
from rankjax.report.checkpoints import CheckpointError as CheckpointError
from rankjax.report.checkpoints import load as load
