"""From samples to a value and a standard error, for independent and for leave-one-out samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen
from scipy.special import ndtri, stdtrit

from kpframe.isolation import isolated

#: A smooth function of means, ``[..., q] -> [...]``.
Function = Callable[[torch.Tensor], torch.Tensor]

#: What takes the place of zero under a root or a bar; its root is zero in any sum.
TINY = 1e-300

#: Work of the pair covariance: deletions times the cube of the number of probes.
_WORK = 80**4


def widen(num: float) -> float:
    """Return the ratio of Student's t to the normal quantile at 95% for ``num`` samples.

    A spread that is itself estimated from few samples is too often too small; scaled by this ratio,
    ``± 1.96 stderr`` is the t interval.
    """
    return float(stdtrit(num - 1, 0.975) / ndtri(0.975))


def mean(samples: torch.Tensor) -> tuple[float, float]:  # [m]
    """Return the mean of independent samples and its standard error (infinite for one sample)."""
    num = len(samples)
    value = float(samples.mean())
    if num < 2:
        return value, math.inf
    return value, float(samples.std()) / math.sqrt(num) * widen(num)


def jackknife(samples: torch.Tensor, function: Function) -> tuple[float, float]:  # [m, q]
    """Return ``function`` of the mean of independent samples and its standard error.

    A smooth function of a mean has a bias of order 1/m; leaving out one sample at a time removes it and
    gives the error too (Quenouille 1956, Tukey 1958).
    """
    num = len(samples)
    whole = float(function(samples.mean(0)))
    if num < 2:
        return whole, math.inf
    left = function((samples.sum(0) - samples) / (num - 1))  # [m]
    value = num * whole - (num - 1) * float(left.mean())
    return value, float(left.std(correction=0)) * math.sqrt(num - 1) * widen(num)


def identity(means: torch.Tensor) -> torch.Tensor:  # [..., 1] -> [...]
    """Return the only mean there is."""
    return means[..., 0]


def deletions(num: int, device: torch.device) -> torch.Tensor:  # [g, num - 1]
    """Return, for the first g probes, the indices of all others.

    g is the number of probes up to 80 of them; beyond, it falls so that the work stays bounded.
    """
    chosen = num if num <= 80 else max(16, _WORK // num**3)
    others = torch.arange(num - 1, device=device).expand(chosen, num - 1)
    return others + (others >= torch.arange(chosen, device=device)[:, None])


@frozen(eq=False)
class LeaveOneOut:
    """Samples T_i that each see the sketch of all other probes, and the same from one probe fewer.

    The T_i share probes and are correlated, so the variance of their mean T, were they not, is too small
    (``alone``). Let U_ij be sample i from a sketch without both i and j. Given the other probes, U_ij and
    U_ji are independent and both unbiased, hence E[U_ij U_ji] is the square of the truth, and

        ``joint = -mean of (U_ij - T)(U_ji - T)`` over the pairs

    estimates the variance of T (for the mean of independent samples it is the variance over m, exactly).
    It is centred but noisy where few directions carry the error. The jackknife of the whole estimator,
    ``jack``, is quiet, but too large on average (Efron, Stein 1981). So the mean is taken of ``joint`` and
    of the geometric mean of the two quiet bounds, ``sqrt(alone jack)``, measured to be 0.8 to 1.9 times the
    true variance for eigenvalues that are flat, stepped, or fall as powers or exponentials. ``alone`` over
    the result tells how many independent samples the correlated ones are worth, and Student's t is taken
    for that number.

    The rule was chosen on five spectra (0.9^i, 1/i, 1/i^2, a step, a slope) and then tried on nine others:
    95% intervals cover in 91-99% of runs, but in 82-87% for some quantities where the eigenvalues fall
    as 0.7^i and are sketched through their squares.
    """

    samples: torch.Tensor  # [m, q]
    pairs: torch.Tensor  # [g, g, q], U_ij; the diagonal is unused
    without: torch.Tensor  # [g, q], the means of all samples without probe j

    @classmethod
    def of(cls, samples: torch.Tensor, deleted: torch.Tensor) -> LeaveOneOut:
        """Return the statistics from samples ``[1, m, q]`` and ``[g, m - 1, q]``, see ``deletions``."""
        samples = samples[0]
        chosen = len(deleted)
        if len(samples) < 2:
            return cls(samples, samples[None], samples)
        pairs = deleted.new_zeros(chosen, len(samples), deleted.shape[2])
        places = deletions(len(samples), deleted.device)
        pairs.scatter_(1, places[:, :, None].expand_as(deleted), deleted)
        return cls(samples, pairs[:, :chosen], deleted.mean(1))

    def estimate(self, function: Function) -> tuple[float, float]:
        """Return ``function`` of the means without its bias of order 1/m, and the standard error."""
        num, chosen = len(self.samples), len(self.pairs)
        if num < 2:
            return float(function(self.samples.mean(0))), math.inf
        if function is identity:
            value = float(self.samples.mean())
        else:
            value, _ = jackknife(self.samples, function)
        with isolated(self.samples.device, "standard error"), torch.enable_grad():
            means = self.samples.mean(0).requires_grad_()
            (slope,) = torch.autograd.grad(function(means), means)
        samples = (self.samples - means.detach()) @ slope
        pairs = ((self.pairs - means.detach()) @ slope).fill_diagonal_(0)
        alone = float(samples.var()) / num
        joint = -float((pairs * pairs.mT).sum()) / (chosen * (chosen - 1))
        jack = float((self.without @ slope).var()) * (num - 1) ** 2 / num
        variance = max(alone, (joint + math.sqrt(alone * jack)) / 2)
        if variance == 0:
            return value, 0.0
        return value, math.sqrt(variance) * widen(max(min(num, 5.0), num * alone / variance))
