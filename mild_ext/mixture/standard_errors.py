"""Standard errors of a fit, from the curvature of its likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mild_ext.mixture.counts import Floats
from mild_ext.mixture.maximum import Optimum


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors from the observed information, conditional on the active constraints.

    ``inf`` where a bound was hit or the likelihood is flat: the data say nothing there.
    """

    weights: Floats
    shapes: Floats
    scales: Floats


def covariance_of(optimum: Optimum, total: float) -> Floats:
    """Covariance [D, D] of theta; infinite along directions the likelihood leaves flat."""
    free, information = optimum.free, optimum.information
    if not free.shape[1]:
        return np.zeros((len(optimum.theta),) * 2)
    values, vectors = np.linalg.eigh((information + information.T) / 2)
    known = values > 1e-9
    basis = free @ vectors
    covariance: Floats = (basis[:, known] / values[known]) @ basis[:, known].T / total
    flat = (np.abs(basis[:, ~known]) > 1e-3).any(axis=1)
    covariance[flat, flat] = np.inf
    return covariance


def line_errors(line: Floats, covariance: Floats, log_p: float) -> tuple[float, float]:
    """Standard errors of (shape, scale) from the covariance [2, 2] of (a, b)."""
    if not np.isfinite(covariance).all():
        return np.inf, np.inf
    a, b = line
    gap = b - a
    scale = float(np.exp(-a * log_p / gap))
    to_shape = np.array([-1.0, 1.0]) / log_p
    to_scale = scale * log_p / gap**2 * np.array([-b, a])
    variances = [float(v @ covariance @ v) for v in (to_shape, to_scale)]
    shape_error, scale_error = (float(np.sqrt(max(v, 0.0))) for v in variances)
    return shape_error, scale_error
