"""The state of `mild_ext.rounds.Rounds` as a dict to keep, and back: looked at before anything of it is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mild_ext.rounds.planting import RoundPlanting
from mild_ext.rounds.round_end import checked_values

_FORMAT = "mild_ext-rounds-state-2"
#: What there is of each sample, ``[N]``.
TENSORS = {
    "kept": torch.bool,
    "round_dropped": torch.int64,
    "misclassified": torch.int32,
    "seen": torch.int32,
    "clean_probability": torch.float32,
    "suspicion": torch.float32,
    "suggested_label": torch.int64,
    "suggestion_confidence": torch.float32,
}


class Kept(Protocol):
    """What is kept of rounds, besides `TENSORS`."""

    num_samples: int
    rounds: tuple[int, ...]
    reselect: str
    min_removed: float
    taking_part: Tensor
    labels: Tensor | None
    round: int
    stop_reason: str | None
    dynamics: dict[str, Tensor]


@dataclass(frozen=True)
class Checked:
    """A state that fits: what is to be taken over."""

    tensors: Mapping[str, Tensor]
    dynamics: dict[str, Tensor]
    labels: Tensor | None
    round: int
    stop_reason: str | None
    planting: dict[str, Any]


def rounds_state(rounds: Kept, planting: RoundPlanting) -> dict[str, Any]:
    """Everything needed to go on: copies of tensors, numbers, text, lists and None."""
    return {
        "format": _FORMAT,
        "rounds": list(rounds.rounds),
        "reselect": rounds.reselect,
        "min_removed": rounds.min_removed,
        "taking_part": rounds.taking_part.clone(),
        "labels": None if rounds.labels is None else rounds.labels.clone(),
        "round": rounds.round,
        "stop_reason": rounds.stop_reason,
        "planting": planting.state_dict(),
        "dynamics": {name: values.clone() for name, values in rounds.dynamics.items()},
        **{name: getattr(rounds, name).clone() for name in TENSORS},
    }


def checked_state(rounds: Kept, planting: RoundPlanting, state: Mapping[str, Any]) -> Checked:
    """What `rounds_state` made, for rounds with the same settings.

    Raises:
        ValueError: the state is of another kind, of other samples, labels or settings, or damaged.
    """
    if state.get("format") != _FORMAT:
        raise ValueError(f"state must be of Rounds ({_FORMAT}), got {state.get('format')!r}")
    try:
        count = len(state["kept"])
        if count != rounds.num_samples:
            raise ValueError(f"state must be of {rounds.num_samples} samples, got {count}")
        for name in ("rounds", "reselect", "min_removed"):
            mine = list(rounds.rounds) if name == "rounds" else getattr(rounds, name)
            if state[name] != mine:
                raise ValueError(f"state must be of {name} {mine}, got {state[name]}")
        if not torch.equal(state["taking_part"].cpu(), rounds.taking_part):
            raise ValueError("state must be of the same train_ids, got others")
        tensors = {
            name: checked_values(state[name], name, dtype, count) for name, dtype in TENSORS.items()
        }
        dynamics = {
            name: checked_values(values, name, torch.float32, count).cpu()
            for name, values in state.get("dynamics", {}).items()
        }
        number, stop_reason, labels = state["round"], state["stop_reason"], state["labels"]
        planted = state["planting"]
        planting.copy().load_state_dict(planted, labels)
    except KeyError as error:
        raise ValueError(f"state is damaged: it has no {error}") from error
    first, last = (0, len(rounds.rounds) - 1) if stop_reason is None else (1, len(rounds.rounds))
    if not first <= number <= last:
        raise ValueError(
            f"state is damaged: round {number} of {len(rounds.rounds)}, stopped: {stop_reason}"
        )
    if labels is not None:
        labels = labels.cpu()
        if rounds.labels is not None:
            both = (labels >= 0) & (rounds.labels >= 0)
            differ = int((labels != rounds.labels)[both].sum())
            if differ:
                raise ValueError(f"state must be of the same labels, but {differ} differ")
    return Checked(tensors, dynamics, labels, number, stop_reason, planted)
