"""Estimators: a Weibull mixture for times to memorization, and a single Weibull to compare it with.

What they are fitted by is in ``likelihood.py`` and ``maximum.py``; why, in docs/selection_likelihood.md.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_ext.mixture.counts import Floats, TimeCounts, counts_of, whole_epochs
from mild_ext.mixture.likelihood import Likelihood, log1p_ratio, sigmoid
from mild_ext.mixture.maximum import (
    MAX_SHAPE,
    MIN_SHAPE,
    Constraints,
    Optimum,
    feasible,
    maximize,
    starting_points,
    survival_fit,
)
from mild_ext.mixture.standard_errors import StandardErrors, covariance_of, line_errors


class _WeibullBase:
    """What one Weibull and a mixture of two have in common once (a, b) are known."""

    shapes_: Floats
    scales_: Floats
    weights_: Floats
    log_likelihood_: float
    log_likelihood_trace_: Floats
    converged_: bool
    bounds_hit_: tuple[str, ...]
    standard_errors_: StandardErrors
    num_epochs_: int
    num_samples_: float
    frailty_: float = 0.0
    _lines: Floats  # (a, b) per component, [J, 2]

    @property
    def _num_parameters(self) -> int:
        raise NotImplementedError

    def _store(self, optimum: Optimum, counts: TimeCounts, lines: Floats, weights: Floats) -> None:
        log_p = float(np.log(max(counts.num_epochs, 2)))
        a, b = lines.T
        self._lines = lines
        self._log_p = log_p
        self.shapes_ = (b - a) / log_p
        self.scales_ = np.exp(-a / self.shapes_)
        self.weights_ = weights
        self.num_epochs_ = counts.num_epochs
        self.num_samples_ = counts.total
        self.log_likelihood_ = optimum.value * counts.total
        self.log_likelihood_trace_ = optimum.trace * counts.total
        self.converged_ = optimum.converged
        self.bounds_hit_ = optimum.active
        if not optimum.converged:
            warnings.warn(
                f"the Weibull fit did not converge in {len(optimum.trace)} iterations; "
                "the best parameters so far are kept (raise max_iter)",
                RuntimeWarning,
                stacklevel=4,
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "shapes_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted yet; call fit first")

    @property
    def bic(self) -> float:
        """Bayesian information criterion in nats, lower is better (Schwarz, 1978)."""
        self._check_fitted()
        size = float(np.log(max(self.num_samples_, 2.0)))
        return -2.0 * self.log_likelihood_ + self._num_parameters * size

    def _log_hazard(self, x: ArrayLike) -> Floats:
        """log H of each component at times x >= 0, [n, J]."""
        self._check_fitted()
        times = np.asarray(x, dtype=np.float64)
        if (times < 0).any() or np.isnan(times).any():
            raise ValueError("times must be non-negative numbers of epochs")
        with np.errstate(divide="ignore"):
            logs = np.log(times)[..., None]
        line: Floats = self._lines[:, 0] + self.shapes_ * logs
        return line

    def _cumulative_hazard(self, x: ArrayLike) -> Floats:
        """-log S of each component at times x >= 0, [n, J]."""
        hazard = np.exp(np.minimum(self._log_hazard(x), 60.0))
        if self.frailty_:
            hazard[..., 0] *= log1p_ratio(self.frailty_ * hazard[..., 0])[0]
        return hazard

    def sf(self, x: ArrayLike) -> Floats:
        """Survival function of each component at times ``x`` >= 0 in epochs, float64 [n, J]."""
        return np.exp(-self._cumulative_hazard(x))

    def pdf(self, x: ArrayLike) -> Floats:
        """Density of each component at times ``x`` > 0 in epochs, per epoch, float64 [n, J]."""
        line = np.minimum(self._log_hazard(x), 60.0)
        times = np.asarray(x, dtype=np.float64)[..., None]
        positive = times > 0
        safe = np.where(positive, times, 1.0)
        log_pdf = np.log(self.shapes_) + line - np.log(safe) - self._cumulative_hazard(x)
        if self.frailty_:
            log_pdf[..., 0] -= np.log1p(self.frailty_ * np.exp(line[..., 0]))
        # The density at time 0 is 0, 1 / scale or infinite, as the shape is above, at or below 1.
        steep = np.where(self.shapes_ > 1, 0.0, np.inf)
        at_zero = np.where(self.shapes_ == 1, 1.0 / self.scales_, steep)
        return np.where(positive, np.exp(np.where(positive, log_pdf, 0.0)), at_zero)

    def log_prob_tables(self, num_epochs: int) -> tuple[Floats, Floats]:
        """Log-probabilities in nats of every outcome within ``num_epochs``, per component.

        Returns:
            ``event`` [J, P]: log P(m | n) for m < n, the same for every n;
            ``censored`` [J, P + 1]: log P(n | n).
        """
        hazard = self._cumulative_hazard(np.arange(num_epochs + 1)).T
        step = np.clip(np.diff(hazard, axis=1), 1e-300, 700.0)
        return np.log(np.expm1(step)) - step - hazard[:, :-1], -hazard

    def outcome_probabilities(self, num_epochs: int) -> Floats:
        """P(m | P) of each component for m = 0 ... P of samples seen in all P epochs, [J, P + 1]."""
        event, censored = self.log_prob_tables(num_epochs)
        outcome: Floats = np.exp(np.concatenate([event, censored[:, -1:]], axis=1))
        return outcome


class Weibull(_WeibullBase):
    """One censored Weibull distribution, the null model of the support test.

    Args:
        heavy_tail: let samples differ in difficulty, as in :class:`WeibullMixture`.
        min_shape: least shape. Far below 1, a part is memorized at once and the rest hardly ever:
            two groups under the name of one.
        max_iter: most Newton iterations.
        tol: stop when an iteration promises less than this gain, in nats a sample.

    Attributes after ``fit`` (arrays float64 [1]): ``shapes_``, ``scales_`` (epochs),
    ``weights_`` (1), and the scalars documented at :class:`WeibullMixture`.

    Examples:
        >>> model = Weibull().fit([0, 0, 1, 1, 2, 3, 5, 8], seen=8)
        >>> bool(1.0 < model.scales_[0] < 5.0)
        True
    """

    def __init__(
        self,
        *,
        heavy_tail: bool = False,
        min_shape: float = MIN_SHAPE,
        max_iter: int = 200,
        tol: float = 1e-9,
    ) -> None:
        self.heavy_tail = heavy_tail
        self.min_shape = min_shape
        self.max_iter = max_iter
        self.tol = tol

    @property
    def _num_parameters(self) -> int:
        return 2 + self.heavy_tail

    def fit(
        self,
        misclassified: ArrayLike,
        seen: ArrayLike | int | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Weibull:
        """Fit to samples; arguments as in :meth:`WeibullMixture.fit`."""
        return self._fit(counts_of(misclassified, seen, sample_weight))

    def fit_histogram(self, histogram: ArrayLike) -> Weibull:
        """Fit to counts [P + 1, P + 1] of (misclassified, seen)."""
        return self._fit(TimeCounts.from_histogram(histogram))

    def _fit(self, counts: TimeCounts) -> Weibull:
        if counts.total <= 0:
            raise ValueError("no sample was seen, so there is nothing to fit")
        if not MIN_SHAPE <= self.min_shape <= 9.0:
            raise ValueError(f"min_shape must lie in [{MIN_SHAPE}, 9], got {self.min_shape}")
        likelihood = Likelihood(counts)
        everyone = np.ones((1, counts.num_epochs + 1))
        inside = max(0.2, self.min_shape + 0.1), 10.0
        start = feasible(survival_fit(counts, everyone), likelihood.log_p, inside)
        if self.heavy_tail:
            start = np.insert(start, 2, 0.3, axis=1)
        constraints = Constraints.build(
            1, likelihood.log_p, heavy_tail=self.heavy_tail, shapes=(self.min_shape, MAX_SHAPE)
        )
        optimum = maximize(likelihood, start, constraints, self.max_iter, self.tol)
        self.frailty_ = float(optimum.theta[2]) if self.heavy_tail else 0.0
        line = optimum.theta[:2]
        self._store(optimum, counts, line[None], np.ones(1))
        covariance = covariance_of(optimum, counts.total)[:2, :2]
        shape, scale = line_errors(line, covariance, likelihood.log_p)
        if any("frailty" not in name for name in optimum.active):
            shape = scale = np.inf
        self.standard_errors_ = StandardErrors(np.zeros(1), np.array([shape]), np.array([scale]))
        return self


class WeibullMixture(_WeibullBase):
    """Mixture of a clean (early memorized) and a noisy (late memorized) Weibull component.

    Maximum likelihood of whole-epoch counts, interval- and right-censored, by a monotone projected
    Newton method from several deterministic starts. The same input gives the same fit, always.

    Args:
        ordered: require the clean component to be stochastically smaller within the observed
            epochs, S_clean(x) <= S_noisy(x) for 1 <= x <= p. Without it (``False``) the component
            with the smaller mean within p epochs comes first.
        heavy_tail: let clean samples differ in difficulty: each one's hazard is multiplied by a
            gamma-distributed factor (frailty) of mean 1 and variance ``frailty_`` in [0, 1], so
            S_clean(x) = (1 + f H(x)) ** (-1 / f). Weibull at 0, log-logistic at 1. The order is
            then required of the hazards H at the mean difficulty.
        noisy_shapes: least and largest shape of the noisy component. Above 1 its hazard rises with
            time: wrong labels are memorized late, not at any time. A large one makes it a spike.
        max_iter: most Newton iterations.
        tol: stop when an iteration promises less than this gain, in nats a sample.

    Attributes (after ``fit``; clean component first):
        weights_: float64 [2], sum to 1.
        shapes_: float64 [2], > 0; below 1 the hazard of being memorized falls with time.
        scales_: float64 [2], epochs (the 63 % quantile). Beyond p: mostly never memorized.
        frailty_: variance of the clean samples' difficulty; 0 without ``heavy_tail``.
        log_likelihood_: of all samples, nats.
        log_likelihood_trace_: float64 [iterations], never falls.
        converged_: whether the last iteration promised less than ``tol``.
        bounds_hit_: names of the constraints the optimum lies on; empty is best. A hit bound means
            that the data do not determine the parameter it limits.
        standard_errors_: :class:`StandardErrors` of the above.
        num_epochs_: p, the largest number of seen epochs.
        num_samples_: total weight.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> early, late = 2.0 * rng.weibull(1.0, 700), 24.0 * rng.weibull(3.0, 300)
        >>> m = np.minimum(np.concatenate([early, late]), 30).astype(int)
        >>> mixture = WeibullMixture().fit(m, seen=30)
        >>> [round(float(w), 1) for w in mixture.weights_]
        [0.7, 0.3]
        >>> bool(mixture.predict_proba([0], 30)[0, 0] > 0.95)
        True
    """

    def __init__(
        self,
        *,
        ordered: bool = True,
        heavy_tail: bool = False,
        noisy_shapes: tuple[float, float] = (MIN_SHAPE, MAX_SHAPE),
        max_iter: int = 200,
        tol: float = 1e-9,
    ) -> None:
        self.ordered = ordered
        self.heavy_tail = heavy_tail
        self.noisy_shapes = noisy_shapes
        self.max_iter = max_iter
        self.tol = tol

    @property
    def _num_parameters(self) -> int:
        return 5 + self.heavy_tail

    def fit(
        self,
        misclassified: ArrayLike,
        seen: ArrayLike | int | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> WeibullMixture:
        """Fit to samples.

        Args:
            misclassified: whole numbers [n], epochs each sample was misclassified in.
            seen: whole numbers [n] or one for all, epochs each sample was seen in; a sample with
                ``misclassified == seen`` is right-censored. Default: the largest of
                ``misclassified``, for all. Samples with ``seen == 0`` carry no information.
            sample_weight: float [n], non-negative; 1 each by default.

        Raises:
            TypeError, ValueError: the arrays are of the wrong kind, shape or range, or no sample
                was seen.
        """
        return self._fit(counts_of(misclassified, seen, sample_weight))

    def fit_histogram(self, histogram: ArrayLike) -> WeibullMixture:
        """Fit to counts [P + 1, P + 1] of (misclassified, seen), ``LearningStatus.histogram()``."""
        return self._fit(TimeCounts.from_histogram(histogram))

    def _fit(self, counts: TimeCounts) -> WeibullMixture:
        if counts.total <= 0:
            raise ValueError("no sample was seen, so there is nothing to fit")
        low, high = self.noisy_shapes
        if not (MIN_SHAPE <= low <= 10.0 and low + 1.0 <= high <= MAX_SHAPE):
            raise ValueError(
                f"noisy_shapes must be (least, largest) with {MIN_SHAPE} <= least <= 10 and "
                f"least + 1 <= largest <= {MAX_SHAPE}, got {self.noisy_shapes}"
            )
        likelihood = Likelihood(counts)
        constraints = Constraints.build(
            2,
            likelihood.log_p,
            ordered=self.ordered,
            heavy_tail=self.heavy_tail,
            shapes=(low, high),
        )
        starts = starting_points(counts, self.ordered, (low, high))
        if self.heavy_tail:
            starts = np.insert(starts, 2, 0.3, axis=1)
        best = np.argsort(-likelihood.value(starts), kind="stable")[:4]
        optimum = maximize(likelihood, starts[best], constraints, self.max_iter, self.tol)
        theta = optimum.theta
        first, second = [0, 1], [3, 4] if self.heavy_tail else [2, 3]
        lines = theta[[first, second]]
        weight = float(sigmoid(theta[-1]))
        self.frailty_ = float(theta[2]) if self.heavy_tail else 0.0
        self._store(optimum, counts, lines, np.array([weight, 1.0 - weight]))
        self._store_errors(optimum, lines, (first, second))
        if not self.ordered:
            survival = self.sf(np.arange(1, counts.num_epochs + 1)).sum(axis=0)
            if survival[0] > survival[1] and not self.heavy_tail:
                self._swap()
        return self

    def _store_errors(
        self, optimum: Optimum, lines: Floats, columns: tuple[list[int], list[int]]
    ) -> None:
        covariance = covariance_of(optimum, self.num_samples_)
        errors = []
        for line, where, who in zip(lines, columns, ("clean", "noisy"), strict=True):
            pinned = any(who in name and "weight" not in name for name in optimum.active)
            own = covariance[np.ix_(where, where)]
            errors.append((np.inf, np.inf) if pinned else line_errors(line, own, self._log_p))
        shapes, scales = np.array(errors).T
        pinned = any("weight" in name for name in optimum.active)
        product = float(self.weights_.prod())
        weight = np.inf if pinned else product * float(np.sqrt(covariance[-1, -1]))
        self.standard_errors_ = StandardErrors(np.full(2, weight), shapes, scales)

    def _swap(self) -> None:
        self._lines, self.weights_ = self._lines[::-1], self.weights_[::-1]
        self.shapes_, self.scales_ = self.shapes_[::-1], self.scales_[::-1]
        errors = self.standard_errors_
        self.standard_errors_ = StandardErrors(
            errors.weights, errors.shapes[::-1], errors.scales[::-1]
        )
        other = {"clean": "noisy", "noisy": "clean"}
        self.bounds_hit_ = tuple(
            " ".join(other.get(word, word) for word in name.split()) for name in self.bounds_hit_
        )

    def posterior_tables(self, num_epochs: int) -> tuple[Floats, Floats]:
        """P(clean) of every outcome within ``num_epochs``: events m < n [P], censored m = n [P+1].

        ``censored[0]`` belongs to a sample that was never seen: the clean weight itself.
        """
        return tuple(  # type: ignore[return-value]
            sigmoid(self._log_odds() + table[0] - table[1])
            for table in self.log_prob_tables(num_epochs)
        )

    def score(self, counts: TimeCounts) -> float:
        """Log-likelihood of other counts under this mixture, nats."""
        event, censored = (
            np.logaddexp(*(np.log(self.weights_)[:, None] + table))
            for table in self.log_prob_tables(counts.num_epochs)
        )
        return float(counts.events @ event + counts.censored[1:] @ censored[1:])

    def _log_odds(self) -> float:
        self._check_fitted()
        return float(np.log(self.weights_[0]) - np.log(self.weights_[1]))

    def predict_proba(
        self, misclassified: ArrayLike, seen: ArrayLike | int | None = None
    ) -> Floats:
        """Posterior of the components, float64 [n, 2], column 0 clean, rows sum to 1.

        Args:
            misclassified: whole numbers [n].
            seen: whole numbers [n] or one for all; default ``num_epochs_``.
        """
        self._check_fitted()
        m = whole_epochs(misclassified, "misclassified")
        seen = self.num_epochs_ if seen is None else seen
        n = whole_epochs(np.full(len(m), seen) if np.ndim(seen) == 0 else np.asarray(seen), "seen")
        if n.shape != m.shape or (m < 0).any() or (m > n).any():
            raise ValueError("misclassified must lie in [0, seen], in arrays of the same shape")
        if not len(m):
            return np.zeros((0, 2))
        event, censored = self.posterior_tables(max(int(n.max()), 1))
        clean = np.where(m < n, event[np.minimum(m, len(event) - 1)], censored[n])
        return np.stack([clean, 1.0 - clean], axis=1)

    def sample(
        self, size: int, *, seen: int | None = None, seed: int | np.random.Generator = 0
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Draw from the fitted mixture.

        Args:
            size: number of samples.
            seen: number of epochs; the times are then rounded down to whole epochs and censored
                at it (int64). Default: exact times (float64).
            seed: seed or generator.

        Returns:
            times [size] in epochs and components [size] (0 clean, 1 noisy).
        """
        self._check_fitted()
        rng = np.random.default_rng(seed)
        component = (rng.random(size) >= self.weights_[0]).astype(np.int64)
        hazard = rng.exponential(size=size)
        if self.frailty_:
            tail = np.expm1(self.frailty_ * hazard) / self.frailty_
            hazard = np.where(component == 0, tail, hazard)
        times = self.scales_[component] * hazard ** (1 / self.shapes_[component])
        if seen is None:
            return times, component
        return np.minimum(times, seen).astype(np.int64), component
