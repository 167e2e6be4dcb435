"""Rounds of training and selection: the iterative procedure of Hu et al., IJCAI 2023, without a loop."""

from mild_ext.rounds.planting import RoundPlanting
from mild_ext.rounds.round_end import UNKNOWN, RoundOutcome, Select
from mild_ext.rounds.round_record import epoch_figures, round_figures
from mild_ext.rounds.state_machine import MIN_REMOVED, RESELECT, SMALLEST_KEPT_SHARE, Rounds

__all__ = [
    "MIN_REMOVED",
    "RESELECT",
    "SMALLEST_KEPT_SHARE",
    "UNKNOWN",
    "RoundOutcome",
    "RoundPlanting",
    "Rounds",
    "Select",
    "epoch_figures",
    "round_figures",
]
