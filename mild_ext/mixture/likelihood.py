"""The likelihood of whole-epoch times under one or two Weibull components, and its maximum.

The number m of epochs that a sample spent misclassified is a survival time counted in whole
epochs. A sample that was memorized after m of its n seen epochs has a time in [m, m + 1); one
that was misclassified in all of them is right-censored at n. With the survival function
S(x) = exp(-(x / scale) ** shape) of a component,

    P(m | n) = S(m) - S(m + 1)   for m < n,        P(n | n) = S(n).

The first expression does not depend on n, so every data set, whatever the mix of ``seen``, is
summed up by two vectors: how many samples had an *event* in [m, m + 1), and how many were
*censored* at n. A fit costs O(epochs), whatever the number of samples.

Parametrization of the optimizer. The log cumulative hazard of a Weibull distribution is a line in
log x. We write it through its values at x = 1 and at the last epoch x = p,

    log H(x) = a (1 - t) + b t,    t = log x / log p,

so that the derivatives are polynomials in t, and "the clean component is stochastically smaller on
[1, p]" is the pair of linear constraints a_clean >= a_noisy, b_clean >= b_noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Bounds that keep the mixture identifiable from whole epochs; see ``bounds_hit_``.
MIN_SHAPE, MAX_SHAPE = 0.05, 30.0
MAX_LOG_HAZARD_1 = 3.0  # H(1) <= e^3: all of the component's mass lies at m = 0
MIN_LOG_HAZARD_P = -12.0  # H(p) >= e^-12: none of it is memorized within p epochs
MAX_FRAILTY = 1.0  # at 1 the clean times are log-logistic
MAX_ABS_LOGIT = 9.0  # weights in [1.2e-4, 1 - 1.2e-4]


@dataclass(frozen=True)
class TimeCounts:
    """Sufficient statistics of censored times: see the module's docstring.

    ``events[m]`` (float64 [p]): weight of the samples memorized after m misclassified epochs;
    ``censored[n]`` (float64 [p + 1]): weight of those misclassified in all n seen epochs.
    """

    events: Floats
    censored: Floats

    @property
    def num_epochs(self) -> int:
        """Largest number of epochs any sample was seen, p."""
        return len(self.events)

    @property
    def total(self) -> float:
        """Total weight (number of samples that were seen at all)."""
        return float(self.events.sum() + self.censored.sum())

    def mean(self, event: Floats, censored: Floats) -> float:
        """Mean of a value per outcome, given for events [>= p] and for censored times [> p]."""
        p = self.num_epochs
        total = self.events @ event[:p] + self.censored[1:] @ censored[1 : p + 1]
        return float(total / self.total)

    @classmethod
    def from_counts(cls, counts: Floats) -> TimeCounts:
        """From the misclassified counts of samples all seen in p epochs, [p + 1]."""
        censored = np.zeros(len(counts))
        censored[-1] = counts[-1]
        return cls(counts[:-1], censored)

    @classmethod
    def from_histogram(cls, histogram: ArrayLike) -> TimeCounts:
        """From counts ``histogram[m, n]`` of (misclassified, seen), shape [P + 1, P + 1]."""
        table = np.asarray(histogram, dtype=np.float64)
        if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] < 2:
            raise ValueError(
                "histogram must be a square [P + 1, P + 1] table of (misclassified, seen) with "
                f"P >= 1, got shape {table.shape}"
            )
        if not np.isfinite(table).all() or (table < 0).any():
            raise ValueError("histogram must hold finite, non-negative counts")
        if np.tril(table, -1).any():
            raise ValueError("histogram counts samples misclassified more often than seen")
        censored = table.diagonal().copy()
        censored[0] = 0.0  # never seen: no evidence
        events = table.sum(axis=1) - table.diagonal()
        seen = np.flatnonzero(table.sum(axis=0)[1:])
        num_epochs = int(seen[-1]) + 1 if len(seen) else table.shape[0] - 1
        return cls(events[:num_epochs], censored[: num_epochs + 1])


def log1p_ratio(z: Floats) -> tuple[Floats, Floats, Floats]:
    """f(z) = log(1 + z) / z for z >= 0, and its first two derivatives; a series near 0."""
    small = z < 1e-2
    y = np.where(small, 1.0, z)
    log = np.log1p(y)
    odds = y / (1.0 + y)
    x = np.where(small, z, 0.0)
    return (
        np.where(small, 1 - x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x / 5))), log / y),
        np.where(
            small, -1 / 2 + x * (2 / 3 - x * (3 / 4 - x * (4 / 5 - x * 5 / 6))), (odds - log) / y**2
        ),
        np.where(
            small,
            2 / 3 - x * (3 / 2 - x * (12 / 5 - x * (10 / 3 - x * 30 / 7))),
            (2 * log - 2 * odds - odds**2) / y**3,
        ),
    )


def _pairs(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of an upper triangle, and where the full matrix finds its entries."""
    rows, columns = np.triu_indices(size)
    symmetric = np.empty((size, size), dtype=np.intp)
    symmetric[rows, columns] = symmetric[columns, rows] = np.arange(len(rows))
    return rows, columns, symmetric


_PAIRS = {size: _pairs(size) for size in (2, 3)}


class Likelihood:
    """Mean log-likelihood of 1 or 2 components with its derivatives, for a batch of parameters.

    Parameters ``theta`` [S, D]: (a, b) or (a, b, frailty) of a single component; (a_1, b_1, a_2, b_2, logit of
    weight_1) of a mixture; (a_1, b_1, frailty_1, a_2, b_2, logit) of one with clean frailty.
    """

    def __init__(self, counts: TimeCounts) -> None:
        self.total = counts.total
        self.log_p = float(np.log(max(counts.num_epochs, 2)))
        self._events = np.flatnonzero(counts.events)
        self._ends = np.flatnonzero(counts.censored)
        # Only the survival at these times matters: the start and end of each event's epoch, and
        # the censoring times. Positions 0..E-1 are starts, E..2E-1 ends, the rest censorings.
        points = np.concatenate([self._events, self._events + 1, self._ends])
        self._zero = points == 0
        t = np.log(np.maximum(points, 1)) / self.log_p
        self._line = np.stack([1 - t, t])
        self._square = np.stack([(1 - t) ** 2, t * (1 - t), t**2])
        mass = np.concatenate([counts.events[self._events], counts.censored[self._ends]])
        self._mass = mass / mass.sum()

    def _unpack(self, theta: Floats) -> tuple[Floats, Floats | None]:
        """Base hazard H at the points [S, J, points], and the frailties [S, J, 1] if any."""
        size = theta.shape[1]
        if size == 6:
            lines = theta[:, [0, 1, 3, 4]].reshape(-1, 2, 2)
            frailty = np.stack([theta[:, 2], np.zeros(len(theta))], axis=1)[..., None]
        elif size == 3:
            lines = theta[:, None, :2]
            frailty = theta[:, 2:, None]
        else:
            lines = theta[:, : 4 if size == 5 else 2].reshape(len(theta), -1, 2)
            frailty = None
        hazard = np.exp(np.minimum(lines @ self._line, 60.0))
        hazard[..., self._zero] = 0.0
        return hazard, frailty

    def _log_prob(self, hazard: Floats) -> tuple[Floats, Floats]:
        """log P of each distinct outcome [..., C] and 1 / (e^D - 1) [..., E] from hazards G."""
        ends = len(self._events)
        stop = hazard[..., ends : 2 * ends]
        # The floor keeps 1 / D and what is multiplied with it finite where D is all rounding.
        step = np.clip(stop - hazard[..., :ends], np.maximum(1e-15 * stop, 1e-200), 700.0)
        log_prob = -np.concatenate([hazard[..., :ends], hazard[..., 2 * ends :]], axis=-1)
        grown = np.expm1(step)
        # log(1 - exp(-D)) = log(expm1(D)) - D, exact for small and large D alike.
        log_prob[..., :ends] += np.log(grown) - step
        return log_prob, 1.0 / grown

    def value(self, theta: Floats) -> Floats:
        """Mean log-likelihood in nats a sample, [S]."""
        hazard, frailty = self._unpack(theta)
        if frailty is not None:
            hazard = hazard * log1p_ratio(frailty * hazard)[0]
        mixed: Floats = self._joint(theta, self._log_prob(hazard)[0])[0] @ self._mass
        return mixed

    @staticmethod
    def _joint(theta: Floats, log_prob: Floats) -> tuple[Floats, Floats | None]:
        """Mixture log-probability [S, C] and the first component's posterior [S, C]."""
        if theta.shape[1] < 5:
            return log_prob[:, 0], None
        logit = theta[:, -1:]
        log_odds = logit + log_prob[:, 0] - log_prob[:, 1]
        # log(w1 P1 + w2 P2) = log w2 P2 + softplus(log odds)
        mixed = log_prob[:, 1] - np.logaddexp(0.0, logit) + np.logaddexp(0.0, log_odds)
        with np.errstate(over="ignore"):
            return mixed, 1.0 / (1.0 + np.exp(-log_odds))

    def _hazard_derivatives(
        self, hazard: Floats, frailty: Floats | None
    ) -> tuple[Floats, Floats, Floats]:
        """G, its K first [S, J, K, points] and K (K + 1) / 2 second derivatives (upper triangle).

        Without frailty G = H. With it G = log(1 + f H) / f, and f is the third parameter.
        """
        base = hazard[:, :, None, :]
        if frailty is None:
            return hazard, base * self._line, base * self._square
        z = frailty * hazard
        ratio, ratio1, ratio2 = log1p_ratio(z)
        fade = 1.0 / (1.0 + z)
        first = np.empty((*hazard.shape[:2], 3, hazard.shape[2]))
        first[:, :, :2] = (hazard * fade)[:, :, None, :] * self._line
        first[:, :, 2] = hazard**2 * ratio1
        second = np.empty((*hazard.shape[:2], 6, hazard.shape[2]))
        bend = (hazard * fade**2)[:, :, None, :]
        second[:, :, [0, 1, 3]] = bend * self._square
        second[:, :, [2, 4]] = -base * bend * self._line
        second[:, :, 5] = hazard**3 * ratio2
        return hazard * ratio, first, second

    def derivatives(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Value [S], gradient [S, D] and Hessian [S, D, D] of the mean log-likelihood."""
        ends = len(self._events)
        hazard, first, second = self._hazard_derivatives(*self._unpack(theta))
        log_prob, q = self._log_prob(hazard)
        mixed, clean = self._joint(theta, log_prob)
        # log P(m | n) = -G(m) + log(1 - e^-D): derivatives -G' + q D' and
        # -G'' + q D'' - q (1 + q) D' D', with D = G(m + 1) - G(m), q = 1 / (e^D - 1).
        q = q[:, :, None, :]
        rows, columns, symmetric = _PAIRS[first.shape[2]]
        rise = first[..., ends : 2 * ends] - first[..., :ends]
        slope = -np.concatenate([first[..., :ends], first[..., 2 * ends :]], axis=-1)
        slope[..., :ends] += q * rise
        curve = -np.concatenate([second[..., :ends], second[..., 2 * ends :]], axis=-1)
        curve[..., :ends] += q * (second[..., ends : 2 * ends] - second[..., :ends])
        pull = q * rise  # q alone may be huge where D is tiny
        curve[..., :ends] -= pull[:, :, rows] * (pull + rise)[:, :, columns]
        value = mixed @ self._mass
        count, _, size, _ = slope.shape
        if clean is None:
            return value, slope[:, 0] @ self._mass, (curve[:, 0] @ self._mass)[:, symmetric]
        share = np.stack([clean, 1.0 - clean], axis=1)[:, :, None, :]  # r_j, [S, 2, 1, C]
        weighted = share * slope  # r_j g_j
        weight = sigmoid(theta[:, -1])
        scores = np.empty((count, 2 * size + 1, len(self._mass)))
        scores[:, :-1] = weighted.reshape(count, 2 * size, -1)
        scores[:, -1] = clean - weight[:, None]
        # d2 log sum_j w_j f_j = blocks r_j (h_j + g_j g_j') - (sum_j r_j g_j)(...)'
        hessian = np.zeros((count, 2 * size + 1, 2 * size + 1))
        hessian[:, :-1, :-1] = -(scores[:, :-1] * self._mass) @ scores[:, :-1].transpose(0, 2, 1)
        curve = (share * curve) @ self._mass
        outer = (weighted * self._mass) @ slope.transpose(0, 1, 3, 2)
        for j in (0, 1):
            block = slice(j * size, (j + 1) * size)
            hessian[:, block, block] += outer[:, j] + curve[:, j][:, symmetric]
        both = clean * (1.0 - clean) * self._mass
        cross = np.concatenate([slope[:, 0], -slope[:, 1]], axis=1) @ both[:, :, None]
        hessian[:, :-1, -1] = hessian[:, -1, :-1] = cross[..., 0]
        hessian[:, -1, -1] = both.sum(axis=1) - weight * (1.0 - weight)
        gradient = scores @ self._mass
        if size == 3:  # the noisy component has no frailty
            own = [0, 1, 2, 3, 4, 6]
            return value, gradient[:, own], hessian[:, own][:, :, own]
        return value, gradient, hessian


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result


@dataclass(frozen=True)
class Constraints:
    """Linear constraints ``normals @ theta >= offsets``, with a name for each."""

    normals: Floats
    offsets: Floats
    names: tuple[str, ...]

    @classmethod
    @lru_cache(maxsize=64)
    def build(
        cls,
        components: int,
        log_p: float,
        *,
        ordered: bool = False,
        heavy_tail: bool = False,
        shapes: tuple[float, float] = (MIN_SHAPE, MAX_SHAPE),  # of the noisy, or only, component
    ) -> Constraints:
        parameters = {1: ("a", "b"), 2: ("a clean", "b clean", "a noisy", "b noisy", "logit")}[
            components
        ]
        if heavy_tail:
            parameters = (*parameters[:2], "frailty", *parameters[2:])
        rows: list[Floats] = []
        offsets: list[float] = []
        names: list[str] = []

        def add(name: str, coefficients: dict[str, float], offset: float) -> None:
            row = np.array([coefficients.get(parameter, 0.0) for parameter in parameters])
            norm = float(np.linalg.norm(row))
            rows.append(row / norm)
            offsets.append(offset / norm)
            names.append(name)

        for who in ("",) if components == 1 else (" clean", " noisy"):
            a, b = f"a{who}", f"b{who}"
            low, high = (MIN_SHAPE, MAX_SHAPE) if who == " clean" else shapes
            add(f"smallest{who} shape", {a: -1.0, b: 1.0}, low * log_p)
            add(f"largest{who} shape", {a: 1.0, b: -1.0}, -high * log_p)
            add(f"all{who} mass at zero epochs", {a: -1.0}, -MAX_LOG_HAZARD_1)
            add(f"no{who} mass before the last epoch", {b: 1.0}, MIN_LOG_HAZARD_P)
        if components == 2:
            add("smallest clean weight", {"logit": 1.0}, -MAX_ABS_LOGIT)
            add("smallest noisy weight", {"logit": -1.0}, -MAX_ABS_LOGIT)
        if ordered:
            add("order at one epoch", {"a clean": 1.0, "a noisy": -1.0}, 0.0)
            add("order at the last epoch", {"b clean": 1.0, "b noisy": -1.0}, 0.0)
        if heavy_tail:
            add("no frailty", {"frailty": 1.0}, 0.0)
            add("largest frailty", {"frailty": -1.0}, -MAX_FRAILTY)
        return cls(np.stack(rows), np.array(offsets), tuple(names))

    def slack(self, theta: Floats) -> Floats:
        slack: Floats = theta @ self.normals.T - self.offsets
        return slack


@dataclass
class Optimum:
    theta: Floats
    value: float
    trace: Floats
    converged: bool
    active: tuple[str, ...]
    information: Floats  # of the mean log-likelihood, in the free directions' coordinates
    free: Floats  # [D, F] orthonormal basis of the directions that no constraint blocks


_ACTIVE = 1e-8  # slack below which a constraint counts as touched


def maximize(
    likelihood: Likelihood,
    starts: Floats,
    constraints: Constraints,
    max_iter: int,
    tol: float,
) -> Optimum:
    """Monotone projected Newton from all starts at once; the best one.

    Each start moves along the Newton direction of the Hessian with its eigenvalues made positive,
    inside the face of constraints that block it, at most to the next constraint and at most its
    trust radius. A move is accepted only if the likelihood rises, so the trace never falls.
    """
    theta = starts.copy()
    count, size = theta.shape
    radius = np.full(count, 2.0)
    value, gradient, hessian = likelihood.derivatives(theta)
    traces = [value.copy()]
    done = np.zeros(count, dtype=bool)
    converged = np.zeros(count, dtype=bool)
    normals = constraints.normals
    for _ in range(max_iter):
        live = np.flatnonzero(~done)
        step, predicted = _newton_step(
            gradient[live], hessian[live], constraints.slack(theta[live]), normals, radius[live]
        )
        finished = predicted < tol
        converged[live[finished]] = done[live[finished]] = True
        # A start that is far below the best and could not catch up by several times what its
        # quadratic model promises is not worth finishing.
        hopeless = value[live] + 10.0 * predicted + 1e-3 < value.max()
        done[live[hopeless & (len(traces) > 6)]] = True
        go = ~done[live]
        if not go.any():
            break
        live, step, predicted = live[go], step[go], predicted[go]
        trial = theta[live] + step
        new_value, new_gradient, new_hessian = likelihood.derivatives(trial)
        better = new_value > value[live]
        took = live[better]
        theta[took], value[took] = trial[better], new_value[better]
        gradient[took], hessian[took] = new_gradient[better], new_hessian[better]
        length = np.sqrt((step**2).sum(axis=1))
        radius[live] = np.where(better, np.maximum(radius[live], 2.0 * length), 0.25 * length)
        stuck = live[radius[live] < 1e-7]
        done[stuck] = converged[stuck] = True
        traces.append(value.copy())
        if len(traces) > 20:  # creeping along a ridge so flat that nothing depends on it
            idle = value - traces[-11] < 10.0 * len(traces) * tol
            converged |= idle & ~done
            done |= idle
    best = int(np.argmax(value))
    trace = np.array([row[best] for row in traces])
    slack = constraints.slack(theta[best])
    touched = slack <= _ACTIVE
    free = _null_space(normals[touched], size)
    return Optimum(
        theta=theta[best],
        value=float(value[best]),
        trace=trace[: max(1, int(np.argmax(trace == trace[-1])) + 1)],
        converged=bool(converged[best]),
        active=tuple(name for name, hit in zip(constraints.names, touched, strict=True) if hit),
        information=-free.T @ hessian[best] @ free,
        free=free,
    )


def _null_space(rows: Floats, size: int) -> Floats:
    if not len(rows):
        return np.eye(size)
    _, singular, right = np.linalg.svd(rows)
    rank = int((singular > 1e-9).sum())
    return np.asarray(right[rank:].T)


def _newton_step(
    gradient: Floats, hessian: Floats, slack: Floats, normals: Floats, radius: Floats
) -> tuple[Floats, Floats]:
    """Feasible ascent steps [S, D] and the gain in mean log-likelihood each one promises [S]."""
    touching = slack <= _ACTIVE
    blocked = np.zeros_like(touching)
    system = -hessian
    for _ in range(4):
        values, vectors = np.linalg.eigh(system)
        size = np.maximum(np.abs(values), 1e-10)
        along = (vectors.transpose(0, 2, 1) @ gradient[:, :, None])[..., 0]
        along = np.where(values > 1e6, 0.0, along / size)
        step = (vectors @ along[:, :, None])[..., 0]
        along_normals = step @ normals.T
        outward = touching & (along_normals < -1e-12) & ~blocked
        if not outward.any():
            break
        blocked |= outward
        # A stiff spring marks the directions blocked; the step has no part along them.
        system = 1e8 * ((blocked[:, :, None] * normals).transpose(0, 2, 1) @ normals) - hessian
    predicted = (step * gradient).sum(axis=1)
    length = np.sqrt((step**2).sum(axis=1))
    shrink = np.minimum(1.0, radius / np.maximum(length, 1e-300))
    closing = -along_normals
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where((closing > 1e-12) & ~blocked, np.maximum(slack, 0.0) / closing, np.inf)
    reach = np.minimum(shrink, room.min(axis=1))
    return step * reach[:, None], predicted


def survival_fit(counts: TimeCounts, share: Floats) -> Floats:
    """(a, b) of the line through log(-log S) of the product-limit survival, [K, 2].

    ``share`` [K, p + 1]: the part of the mass at each m that belongs to the component.
    """
    events = counts.events * share[:, :-1]
    censored = counts.censored * share
    leaving = events + censored[:, 1:]  # everybody whose record ends in this epoch
    at_risk = np.cumsum(leaving[:, ::-1], axis=1)[:, ::-1]
    hazard = events / np.maximum(at_risk, 1e-12)
    survival = np.clip(np.cumprod(1.0 - hazard, axis=1), 1e-3, 1.0 - 1e-3)  # S(1), ..., S(p)
    y = np.log(-np.log(survival))
    weight = survival * np.log(survival) ** 2 / (1.0 - survival)  # 1 / variance of y
    log_p = np.log(max(counts.num_epochs, 2))
    t = np.log(np.arange(1, counts.num_epochs + 1)) / log_p
    mass = weight.sum(axis=1)
    t_mean, y_mean = weight @ t / mass, (weight * y).sum(axis=1) / mass
    spread = (weight * (t - t_mean[:, None]) ** 2).sum(axis=1) / mass
    slope = (weight * (t - t_mean[:, None]) * y).sum(axis=1) / mass / np.maximum(spread, 1e-6)
    slope = np.clip(slope, 0.2 * log_p, 10.0 * log_p)
    a = y_mean - slope * t_mean
    return np.stack([a, a + slope], axis=1)


def feasible(ab: Floats, log_p: float, shapes: tuple[float, float] = (0.2, 10.0)) -> Floats:
    """The components [..., 2 (a, b)] moved inside their own bounds, keeping b if possible."""
    b = np.maximum(ab[..., 1], MIN_LOG_HAZARD_P + 0.5)
    top = np.minimum(MAX_LOG_HAZARD_1 - 0.5, b - shapes[0] * log_p)
    bottom = np.minimum(b - shapes[1] * log_p, top)
    return np.stack([np.clip(ab[..., 0], bottom, top), b], axis=-1)


def starting_points(counts: TimeCounts, ordered: bool, noisy_shapes: tuple[float, float]) -> Floats:
    """Deterministic starting points: soft splits of the histogram at several epochs, [K, 5]."""
    p = counts.num_epochs
    cuts = np.unique(np.round(np.array([0, 0.06, 0.12, 0.2, 0.35, 0.5, 0.7, 0.9, 1]) * p))
    m = np.arange(p + 1)
    low = 1.0 / (1.0 + np.exp((m - cuts[:, None] + 0.5) / (0.06 * p + 0.3)))
    log_p = float(np.log(max(p, 2)))
    both = survival_fit(counts, np.concatenate([low, 1.0 - low]))
    clean = feasible(both[: len(low)], log_p)
    inside = noisy_shapes[0] + 0.1, min(10.0, noisy_shapes[1] - 0.1)
    noisy = feasible(both[len(low) :], log_p, inside)
    if ordered:
        noisy[:, 0] = np.minimum(noisy[:, 0], MAX_LOG_HAZARD_1 - 0.4)
        noisy = feasible(noisy, log_p, inside)
        a = np.minimum(clean[:, 0], MAX_LOG_HAZARD_1 - 0.1)
        a = np.maximum(a, noisy[:, 0] + 0.1)
        b = np.maximum(clean[:, 1], noisy[:, 1] + 0.1)
        b = np.clip(b, a + 0.1 * log_p, a + 20.0 * log_p)
        clean = np.stack([a, b], axis=1)
    mass = np.append(counts.events, 0.0) + counts.censored
    weight = np.clip(low @ mass / mass.sum(), 0.02, 0.98)
    return np.concatenate([clean, noisy, np.log(weight / (1 - weight))[:, None]], axis=1)
