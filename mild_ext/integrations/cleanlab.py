"""cleanlab: an issue type ``training_dynamics`` for Datalab, which importing this module registers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.selection.table import dynamics_columns

try:
    from cleanlab import IssueManager
    from cleanlab.datalab.internal.issue_manager_factory import register
except ImportError as error:
    raise ImportError(
        "mild_ext.integrations.cleanlab needs cleanlab with Datalab: pip install 'mild_ext[cleanlab]'"
    ) from error


@register
class TrainingDynamicsIssueManager(IssueManager):
    """Labels that look wrong by how the samples were learned, as an issue type of cleanlab's Datalab.

    ``lab.find_issues(issue_types={"training_dynamics": {...}})`` takes what follows; samples are those of the Datalab
    in order. A sample is an issue where the selection drops it; its score is the probability that its label is
    right. ``lab.get_info("training_dynamics")`` has ``summary``, ``supported``, ``noise_rate`` (``noise_rate_low``,
    ``noise_rate_high``; None where it could not be estimated), with planted labels ``suggested_label`` (a class of the
    model, int64 ``[N]``, -1 for none) and ``suggestion_confidence``, and of a status with ``record="all"`` the
    training dynamics, float32 ``[N]``, by the names of `mild_ext.Dynamics`.

    Args:
        datalab: the Datalab, which passes itself.
        status: a LearningStatus (or TransitionTimes) of the training set, to select from with the Datalab's labels.
        selection: in place of a selection made here: one that was made before, with whatever rule.
        planted: PlantedLabels that the status was trained on.
        **options: ``rule``, ``level``, ``per_class``, ``epochs`` of `mild_ext.select_clean`.

    Raises:
        TypeError: neither a status nor a selection, a selection together with ``planted`` or options, or another kind.
        ValueError: they are of another number of samples than the Datalab's data.
    """

    description: ClassVar[str] = (
        "Examples whose label the model was slow to learn while it trained, or never did: these labels are often wrong."
    )
    issue_name: ClassVar[str] = "training_dynamics"
    verbosity_levels: ClassVar[dict[int, list[str]]] = {0: ["summary"], 1: [], 2: ["noise_rate"]}

    def __init__(self, datalab: Any, **settings: Any) -> None:
        super().__init__(datalab)
        # Here and not in find_issues, whose errors Datalab only prints.
        _check(len(datalab.data), **settings)

    def find_issues(
        self,
        status: Any = None,
        selection: Selection | None = None,
        planted: PlantedLabels | None = None,
        **options: Any,
    ) -> None:
        """Select, and fill ``issues``, ``summary`` and ``info``; called by Datalab."""
        import pandas as pd  # comes with cleanlab

        if selection is None:
            labels = None
            if planted is None and self.datalab.has_labels:
                labels = torch.from_numpy(np.asarray(self.datalab.labels, dtype=np.int64))
            selection = select_clean(status, labels=labels, planted=planted, **options)
        score = selection.clean_probability.cpu().numpy().astype(np.float64)
        self.issues = pd.DataFrame(
            {
                f"is_{self.issue_name}_issue": ~selection.mask.cpu().numpy(),
                self.issue_score_key: score,
            }
        )
        self.summary = self.make_summary(score=float(score.mean()))
        self.info = self.collect_info(selection, status, planted)

    def collect_info(
        self, selection: Selection, status: Any, planted: PlantedLabels | None
    ) -> dict[str, Any]:
        """What else is known, see the class."""
        rate = selection.noise_rate
        info: dict[str, Any] = {
            "summary": selection.summary(),
            "supported": bool(selection.supported),
            "noise_rate": None if rate is None else rate.rate,
            "noise_rate_low": None if rate is None else rate.low,
            "noise_rate_high": None if rate is None else rate.high,
        }
        arrays = {
            "suggested_label": selection.suggested_label,
            "suggestion_confidence": selection.suggestion_confidence,
            **dynamics_columns(status, None if planted is None else planted.mask),
        }
        found = {
            name: values.cpu().numpy() for name, values in arrays.items() if values is not None
        }
        return info | found


def _check(
    count: int,
    status: Any = None,
    selection: Any = None,
    planted: Any = None,
    **options: Any,
) -> None:
    """Raise for what `TrainingDynamicsIssueManager` cannot work with."""
    if selection is None and status is None:
        raise TypeError(
            "training_dynamics needs a status or a selection: "
            'find_issues(issue_types={"training_dynamics": {"status": status}})'
        )
    unknown = sorted(set(options) - {"rule", "level", "per_class", "epochs"})
    if unknown:
        raise TypeError(
            f"training_dynamics takes status, selection, planted, rule, level, per_class and epochs, got {unknown[0]}"
        )
    if selection is not None:
        if not isinstance(selection, Selection):
            raise TypeError(f"selection must be a Selection, got {type(selection).__name__}")
        extra = [*([] if planted is None else ["planted"]), *options]
        if extra:
            raise TypeError(
                f"{extra[0]} goes into the selection, which was given: leave out one of the two"
            )
    sizes = {
        "status": None
        if status is None
        else getattr(status, "num_samples", None) or len(status.seen),
        "selection": None if selection is None else len(selection.mask),
        "planted": None if planted is None else planted.num_samples,
    }
    for name, size in sizes.items():
        if size not in (None, count):
            raise ValueError(
                f"{name} must be of the {count} samples of the Datalab's data, got one of {size}"
            )
