"""Mixtures of Weibull distributions over times counted in whole epochs; NumPy and SciPy alone."""

from mild_ext.mixture.weibull import Weibull, WeibullMixture

__all__ = ["Weibull", "WeibullMixture"]
