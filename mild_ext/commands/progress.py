"""How far a run is: one display over all of its trainings, with the time left.

On a terminal a bar; elsewhere (a log file, a notebook's cell) a line every half minute. Both are fed by
the records of the epochs, so a resumed run starts where it was.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

from mild_ext.training.context import Record
from mild_ext.training.experiment import RunSettings
from mild_ext.training.methods import METHODS

#: Seconds between two lines where there is no terminal.
LINE_SECONDS = 30.0
#: What a semi-supervised step takes, in steps of a plain training: it sees several views of each sample.
SSL_COST = 4.0


class Progress:
    """Hears of every epoch, and shows the share of the run that is done.

    Args:
        stages: name and work of each training to come, in order; work in visits to samples. A run may leave
            some out: they count as done as soon as a later one starts.
        quiet: show nothing, neither progress nor what is said.
        stream: where progress goes; what is said goes to standard output.
    """

    def __init__(
        self, stages: list[tuple[str, float]], *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.stages = [name for name, _ in stages]
        self.work = [work for _, work in stages]
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self.started = self.said = time.monotonic()
        self.stage = ""
        self.done = [0.0] * len(stages)
        self.measured = 0.0  # seconds that epochs took, by their records ...
        self.visits = 0.0  # ... and their work
        self.bar: tqdm | None = None
        if not quiet and self.stream.isatty():
            self.bar = tqdm(
                total=1000,
                file=self.stream,
                leave=False,
                bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}",
            )

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.clear()
        print(text, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def __call__(self, record: Record) -> None:
        """Take a record of the run's history; those that are no epochs tell nothing."""
        if self.quiet or record["type"] != "epoch" or record["stage"] not in self.stages:
            return
        at = self.stages.index(record["stage"])
        self.stage = record["stage"]
        for before in range(at):
            self.work[before] = self.done[before]  # whatever was left of it will not come
        visits = float(record["samples"])
        self.done[at] = min(self.work[at], self.done[at] + visits)
        self.measured += record["seconds"]
        self.visits += visits
        self._show(record["epoch"] + 1)

    @property
    def share(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        total = sum(self.work)
        return sum(self.done) / total if total else 1.0

    @property
    def seconds_left(self) -> float:
        """Time left at the pace of the epochs so far; the rounds may end earlier."""
        if not self.visits:
            return 0.0
        return (sum(self.work) - sum(self.done)) * self.measured / self.visits

    def _show(self, epoch: int) -> None:
        left = f"about {duration(self.seconds_left)} left"
        if self.bar is not None:
            self.bar.n = round(1000 * self.share)
            self.bar.set_description_str(f"{self.stage}, epoch {epoch}", refresh=False)
            self.bar.set_postfix_str(left, refresh=False)
            self.bar.refresh()
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            text = f"{self.share:.0%} done, {left} ({self.stage}, epoch {epoch})"
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(7), duration(200), duration(7300)
    ('7 s', '3 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def planned_stages(
    settings: RunSettings, samples: int, *, tested: bool, truth: bool
) -> list[tuple[str, float]]:
    """The trainings a run may come to, and their work; rounds that drop nothing come out cheaper.

    Args:
        settings: of the run.
        samples: that are trained on.
        tested: whether there is a test split, so that models are compared.
        truth: whether the true labels are known.
    """
    recipe = settings.recipe
    final = samples * recipe.final_epochs
    if recipe.method == "mild":
        final += samples * recipe.first_epochs
        stages = [(METHODS["mild"].stage, final)]
    else:
        stages = [("round 0", samples * recipe.first_epochs)]
        if recipe.plants:
            scout = samples * recipe.first_epochs
            stages += [(f"scout {k}", scout) for k in range(1, recipe.scouts)]
        stages += [(f"round {k}", samples * recipe.round_epochs) for k in range(1, recipe.rounds)]
        stages.append(("final", final))
    if recipe.ssl != "none":
        stages.append((recipe.ssl, round(SSL_COST * samples * recipe.ssl_epochs)))
    if settings.compare and tested:
        stages += [("plain cross-entropy", final)] + [("correct labels only", final)] * truth
    return [(name, float(work)) for name, work in stages]
