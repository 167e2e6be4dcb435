"""The likelihood of whole-epoch times under one or two Weibull components.

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

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.counts import Floats, TimeCounts


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
