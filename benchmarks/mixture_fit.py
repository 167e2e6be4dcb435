"""How fast, and how well, is the Weibull mixture fitted?

    python benchmarks/mixture_fit.py

1. Time of a fit from a histogram against the number of epochs and of samples.
2. Against ``reliability.Fitters.Fit_Weibull_Mixture`` on continuous times of a known mixture: we see
   whole epochs only, it sees the times themselves; both are scored by the density of the times.
   Skipped where ``reliability`` is not installed.
"""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np

from mild_ext import WeibullMixture
from mild_ext.selection.support import selection_mixture


def draw(size: int, epochs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times of a known mixture, most of them within ``epochs``."""
    rng = np.random.default_rng(seed)
    early = rng.random(size) < 0.6
    scale = np.where(early, 0.12, 0.7) * epochs
    shape = np.where(early, 1.3, 4.0)
    return scale * rng.weibull(1.0, size) ** (1 / shape), early


def histogram(times: np.ndarray, epochs: int) -> np.ndarray:
    table = np.zeros((epochs + 1, epochs + 1), dtype=np.int64)
    table[:, epochs] = np.bincount(np.minimum(times, epochs).astype(np.int64), minlength=epochs + 1)
    return table


def milliseconds(call, repeats: int = 30) -> float:
    call()
    elapsed = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        elapsed.append(time.process_time() - start)
    return 1e3 * statistics.median(elapsed)


def main() -> None:
    print("median CPU milliseconds of a fit from a histogram")
    print("epochs      samples   plain  selection's")
    for epochs in (30, 70, 200):
        for size in (1_000, 45_000, 1_000_000):
            table = histogram(draw(size, epochs)[0], epochs)
            plain = milliseconds(lambda table=table: WeibullMixture().fit_histogram(table))
            ours = milliseconds(lambda table=table: selection_mixture().fit_histogram(table))
            print(f"{epochs:6d} {size:12,d} {plain:7.2f} {ours:8.2f}")

    try:
        from reliability.Fitters import Fit_Weibull_Mixture
    except ImportError:
        print("reliability is not installed: no comparison")
        return
    times, _ = draw(45_000, 60)
    counts = np.floor(times).astype(np.int64)
    epochs = int(counts.max()) + 1

    def fit() -> WeibullMixture:
        return WeibullMixture().fit(counts, seen=epochs)

    ours = milliseconds(fit, 10)
    mixture = fit()
    density = mixture.pdf(times) @ mixture.weights_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        theirs = Fit_Weibull_Mixture(
            failures=times, show_probability_plot=False, print_results=False
        )
        seconds = time.process_time() - start
    print(f"\n45,000 values: {ours:.1f} ms from the samples; reliability {seconds:.2f} s, ")
    print(f"{1e3 * seconds / ours:.0f} times as long")
    print(f"mean log density: ours {np.log(density).mean():.5f}, reliability ", end="")
    print(f"{theirs.loglik / len(times):.5f} nats a sample")


if __name__ == "__main__":
    main()
