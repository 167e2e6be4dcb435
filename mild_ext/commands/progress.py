"""How far a command is: one display over all of its trainings, with the time left.

On a terminal a bar; elsewhere (a log file, a notebook's cell) a line every half minute. Both are fed by
the records of the epochs, so a resumed run starts where it was; in between they go on at the pace so far.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from tqdm import tqdm

from mild_ext.training.context import Record
from mild_ext.training.experiment import RunSettings
from mild_ext.training.methods import METHODS
from mild_ext.training.recipe import Recipe

#: Seconds between two lines where there is no terminal.
LINE_SECONDS = 30.0
#: Seconds after which the display is brought up to date while an epoch lasts.
TICK_SECONDS = 1.0
#: What a semi-supervised step takes, in steps of a plain training: it sees several views of each sample.
SSL_COST = 4.0


class Stage(NamedTuple):
    """A training to come.

    Attributes:
        name: as its records have it.
        title: as people read it.
        work: in visits to samples.
    """

    name: str
    title: str
    work: float


class Progress:
    """Hears of every epoch, and shows the share of the work that is done.

    Args:
        stages: the trainings to come, in order. A run may leave some out: they count as done as soon as a later
            one starts.
        quiet: show nothing, neither progress nor what is said.
        stream: where progress goes; what is said goes to standard output.
    """

    def __init__(
        self, stages: list[Stage], *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.places = {stage.name: k for k, stage in enumerate(stages)}
        self.titles = [stage.title for stage in stages]
        self.work = [stage.work for stage in stages]
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self.said = self.heard = time.monotonic()
        self.at: int | None = None  # the training that goes on ...
        self.epoch = 0  # ... how many of its epochs are done ...
        self.visits_an_epoch = 0.0  # ... and how long they are
        self.done = [0.0] * len(stages)
        self.measured = 0.0  # seconds that epochs took, by their records ...
        self.visits = 0.0  # ... and their work
        self.lock = threading.RLock()
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
        with self.lock:
            if self.bar is not None:
                self.bar.clear()
            print(text, flush=True)
            if self.bar is not None:
                self.bar.refresh()

    def __call__(self, record: Record) -> None:
        """Take a record of the run's history; those that are no epochs tell nothing."""
        if self.quiet or record["type"] != "epoch" or record["stage"] not in self.places:
            return
        with self.lock:
            self.at = self.places[record["stage"]]
            self.epoch = record["epoch"] + 1
            for before in range(self.at):
                self.work[before] = self.done[before]  # whatever was left of it will not come
            self.visits_an_epoch = float(record["samples"])
            self.done[self.at] = min(self.work[self.at], self.done[self.at] + self.visits_an_epoch)
            self.measured += record["seconds"]
            self.visits += self.visits_an_epoch
            self.heard = time.monotonic()
            self._show()

    def expect(self, name: str, work: float) -> None:
        """The work of a training to come, as it is known better by now."""
        with self.lock:
            self.work[self.places[name]] = work

    @property
    def total(self) -> float:
        """The work of all trainings."""
        return sum(self.work)

    @property
    def finished(self) -> float:
        """The work that is done; of the epoch that goes on, as much as the time since it began is worth."""
        begun = 0.0
        if self.measured and self.at is not None:
            since = (time.monotonic() - self.heard) * self.visits / self.measured
            left = self.work[self.at] - self.done[self.at]
            begun = min(since, 0.95 * self.visits_an_epoch, left)
        return min(self.total, sum(self.done) + begun)

    @property
    def share(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.finished / self.total if self.total else 1.0

    @property
    def seconds_left(self) -> float:
        """Time left at the pace of the epochs so far; the rounds may end earlier."""
        if not self.visits:
            return 0.0
        return (self.total - self.finished) * self.measured / self.visits

    def _show(self) -> None:
        """Bring the bar up to date, or print a line where one is due."""
        left = f"about {duration(self.seconds_left)} left"
        now = "the first epoch"
        if self.at is not None:
            now = f"{self.titles[self.at]}, epoch {self.epoch}"
        if self.bar is not None:
            self.bar.n = round(1000 * self.share)
            self.bar.set_description_str(now, refresh=False)
            self.bar.set_postfix_str(left if self.at is not None else "", refresh=False)
            self.bar.refresh()
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            text = "" if self.at is None else f", {left}"
            print(f"{self.share:.0%} done{text} ({now})", file=self.stream, flush=True)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Keep the display up to date while epochs last, and take the bar away at the end."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK_SECONDS):
                with self.lock:
                    self._show()

        clock = threading.Thread(target=tick, name="progress", daemon=True)
        if not self.quiet:
            clock.start()
        try:
            yield
        finally:
            over.set()
            if clock.is_alive():
                clock.join()
            self.close()

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
) -> list[Stage]:
    """The trainings a run may come to; rounds that drop nothing come out cheaper.

    Args:
        settings: of the run.
        samples: that are trained on.
        tested: whether there is a test split, so that models are compared.
        truth: whether the true labels are known.
    """
    recipe = settings.recipe
    stages = _finding_stages(recipe, samples)
    if recipe.ssl != "none":
        work = SSL_COST * samples * recipe.ssl_epochs
        stages.append(Stage(recipe.ssl, "semi-supervised stage", work))
    if settings.compare and tested:
        final = _final_work(recipe, samples)
        for key in ("plain", "clean") if truth else ("plain",):
            stage = METHODS[key].stage
            stages.append(Stage(stage, f"{stage}, to compare with", final))
    return stages


def _finding_stages(recipe: Recipe, samples: int) -> list[Stage]:
    """The trainings that find the wrong labels, and that of the final model."""
    if recipe.method == "mild":
        return [Stage(METHODS["mild"].stage, "training", _final_work(recipe, samples))]
    first, later = (
        float(samples * epochs) for epochs in (recipe.first_epochs, recipe.round_epochs)
    )
    networks = recipe.scouts if recipe.plants else 1
    of = f" of up to {networks}" if networks > 1 else ""
    several = recipe.rounds > 1
    titles = [f"network {k}{of}" if networks > 1 else "training" for k in range(1, networks + 1)]
    if several:
        titles = [f"first round, {title}" if networks > 1 else "first round" for title in titles]
    stages = [Stage("round 0", titles[0], first)]
    stages += [Stage(f"scout {k}", titles[k], first) for k in range(1, networks)]
    stages += [
        Stage(f"round {k}", f"round {k + 1} of up to {recipe.rounds}", later)
        for k in range(1, recipe.rounds)
    ]
    return [*stages, Stage("final", "final training", _final_work(recipe, samples))]


def _final_work(recipe: Recipe, samples: int) -> float:
    """Of the final model, and of each one it is compared with."""
    epochs = recipe.final_epochs + (recipe.first_epochs if recipe.method == "mild" else 0)
    return float(samples * epochs)


def comparison_work(recipe: Recipe, samples: int, key: str, *, matched: bool) -> float:
    """The work of one training of a comparison, in visits.

    Args:
        recipe: of the comparison.
        samples: that are trained on.
        key: of `METHODS`.
        matched: whether all methods make as many steps as the rounds, of which there are as many as there may be.
    """
    rounds = sum(
        s.work for s in _finding_stages(recipe.override({"method": "mild-rounds"}), samples)
    )
    single = float(samples * (recipe.first_epochs + recipe.final_epochs))
    work = rounds if matched or METHODS[key].finds == "mild-rounds" else single
    return work + semi_supervised_work(recipe, samples, key)


def semi_supervised_work(recipe: Recipe, samples: int, key: str) -> float:
    """What a method of a comparison does on top of the others."""
    return SSL_COST * samples * recipe.ssl_epochs if METHODS[key].semi_supervised else 0.0
