"""The maximum of the likelihood: linear constraints, starting points, and a projected Newton method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mild_ext.mixture.counts import Floats, TimeCounts
from mild_ext.mixture.likelihood import Likelihood

#: Bounds that keep the mixture identifiable from whole epochs; see ``bounds_hit_``.
MIN_SHAPE, MAX_SHAPE = 0.05, 30.0
MAX_LOG_HAZARD_1 = 3.0  # H(1) <= e^3: all of the component's mass lies at m = 0
MIN_LOG_HAZARD_P = -12.0  # H(p) >= e^-12: none of it is memorized within p epochs
MAX_FRAILTY = 1.0  # at 1 the clean times are log-logistic
MAX_ABS_LOGIT = 9.0  # weights in [1.2e-4, 1 - 1.2e-4]


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
