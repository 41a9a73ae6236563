"""Where gradient descent would arrive if Phi stayed as it is: the linearised network, integrated exactly.

The outputs of the linearised network, ``y = y_0 + G_y w`` for parameters ``theta + w``, move along Theta
(``output_kernel``) alone, whatever w is. With e(y) the slope of the loss::

    descent     y_{k+1} = y_k - eta Theta e(y_k)                                                         (1)
    flow        dy/dt   = - Theta e(y),        t = eta k                                                 (2)

For a squared error both are linear, see ``_laws``: solved in the eigenvectors of Theta where it is small, in
a Krylov space else. For a cross entropy (1) is iterated, exactly, one product an update, and (2) integrated
by the method of Dormand and Prince of order 8, twice; the difference is taken for the error.

How far the network itself arrives from there says how lazy its learning is, or how rich: Jacot, Gabriel,
Hongler 2018; Chizat, Oyallon, Bach 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from attrs import frozen

from kpframe.errors import ArgumentError, as_whole, mismatch, shown, whole
from kpframe.flow._flow import Flow
from kpframe.forecast._laws import LAWS, Decay, Law
from kpframe.forecast._modes import dense_modes, lanczos_modes, length_of
from kpframe.forecast._nonlinear import Drive
from kpframe.forecast._objective import F64, Objective, check_finite_outputs
from kpframe.forecast._output_kernel import OutputKernel, output_kernel
from kpframe.forecast._scored import ScoredOperator
from kpframe.forecast._stable_rate import StableRate, leading
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import check_memory
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.ranks import basis_rows, own_rows, whole_rows
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials

#: Scored outputs up to which the matrix of Theta is made.
DENSE = 256
#: Most scored outputs for which it is made where iterating would take more products.
DENSE_ITERATED = 2048
#: Krylov steps without a budget.
STEPS = 1000


@frozen(eq=False)
class Forecast:
    """Outputs and losses of gradient descent on a frozen Phi.

    Attributes:
        updates: numbers of updates at which they are given, ``n`` of them.
        outputs: ``[n, B, T, O]``, float64; of this rank's trials, where ranks share them.
        losses: ``[n]``, of these trials, float64; of all ranks' trials.
        error_norms: ``[n]``, bounds on the norm of what the scored outputs are off by: by what was cut off,
            and by the rounding of products, which are known to the dtype of the flow.
        converged: ``[n]`` bool, whether that is within the tolerance.
        law: ``descent`` or ``flow``.
        learning_rate: eta.
        stable_rate: the largest stable eta, see ``kpframe.forecast.stable_rate``.
        num_matvecs: products with Theta.
        method: how it was found.
    """

    updates: tuple[int, ...]
    outputs: torch.Tensor
    losses: torch.Tensor
    error_norms: torch.Tensor
    converged: torch.Tensor
    law: Law
    learning_rate: float
    stable_rate: float
    num_matvecs: int
    method: str

    @property
    def stable(self) -> bool:
        """Whether the rate is below the largest stable one; above, descent on a squared error diverges."""
        return self.learning_rate < self.stable_rate


@in_isolation
def forecast(
    flow: Flow,
    readout: Readout,
    trials: Trials,
    loss: Loss,
    *,
    learning_rate: float,
    updates: int | Iterable[int],
    law: Law = "descent",
    budget: int | None = None,
    tol: float | None = None,
) -> Forecast:
    """Return the outputs and the loss after updates of gradient descent, if Phi stayed as it is.

    It is of plain gradient descent, each update on all of these trials: ``theta <- theta - eta dL/dtheta``
    for the network and, where it learns, the readout. Other optimisers, Adam among them, and momentum move
    the outputs in other ways, which Phi alone does not tell.

    Exact but for rounding up to 256 scored outputs (scored steps times outputs), where the matrix of Theta is
    made from as many products. Beyond, a squared error is forecast in a Krylov space with a bound on what is
    cut off; a cross entropy by iterating, a product an update, or by the matrix where that is cheaper. Of a
    flow whose trials ranks share, all of this is said of the trials of all ranks.

    Args:
        flow: of the network along the trials.
        readout: its readout; those of its parameters that require gradients learn.
        trials: those the flow was made along.
        loss: ``mse`` or ``cross_entropy``.
        learning_rate: eta, of one update.
        updates: how many are made, one number >= 0 or several.
        law: ``descent``, or ``flow`` for its limit of many small updates at the same ``eta k``.
        budget: bound on the products of a Krylov space, of iterations and of integration; None: 1000 for a
            Krylov space, as many as it takes else.
        tol: largest error of the scored outputs that counts as converged, relative to their change; None:
            the root of eps, 1.5e-8 in float64 and 3.5e-4 in float32.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: naming the argument, what was expected and what
            came; where no step is scored; for a budget that does not suffice to iterate.
        NonFiniteError: where the forecast leaves the range of numbers, at rates above the stable one.
        MemoryBudgetError: for trials that are too many to keep vectors of.
        RankError: where ranks share the trials, for settings or a readout that are not the same on all.

    Sources: Jacot, Gabriel, Hongler 2018 (the linear law); Saad 1992; Botchev, Grimm, Hochbruck 2013.

    Examples:
        >>> import kpframe, torch
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4).double()), x)
        >>> readout = kpframe.Readout(4, 1, generator=0, dtype=torch.float64)
        >>> trials = kpframe.Trials.from_tensors(x, torch.ones(2, 5, 1, dtype=torch.float64))
        >>> ahead = kpframe.forecast.forecast(
        ...     flow, readout, trials, "mse", learning_rate=0.01, updates=[0, 10, 100]
        ... )
        >>> bool(ahead.converged.all()), bool((ahead.losses.diff() < 0).all())
        (True, True)
    """
    theta = output_kernel(flow, readout)
    space, eps = theta.domain, torch.finfo(theta.dtype).eps

    def checked() -> tuple[float, tuple[int, ...], Law, Loss, int | None, float]:
        rate = _positive(learning_rate, "learning_rate")
        if law not in LAWS:
            raise ArgumentError(mismatch("law", f"one of {', '.join(LAWS)}", repr(law)))
        most = None if budget is None else whole(budget, "budget")
        return rate, _counts(updates), law, loss, most, eps**0.5 if tol is None else _positive(tol, "tol")

    settings = space.together(checked)
    space.agree("learning_rate, updates, law, loss, budget and tol", settings)
    rate, counts, law, loss, budget, tol = settings
    objective = Objective.of(flow, readout, trials, loss)
    solver = _Solver(theta, objective, rate, law, sorted(set(counts)), budget, tol)
    order = [solver.counts.index(count) for count in counts]
    summed, errors, method = solver.solve()
    outputs = solver.outputs(summed[order])
    check_finite_outputs(outputs, rate, solver.stable, space)
    start, scored = objective.start, solver.scored.domain
    moved = scored.norms((outputs[:, objective.trials.scored] - start).flatten(1))
    # a product is known to eps times its own size
    floor = eps * (moved + length_of(start.flatten(), scored))
    bounds = torch.from_numpy(errors[order]).to(moved) + floor
    return Forecast(
        counts,
        outputs,
        torch.tensor([objective.loss(one) for one in outputs], dtype=F64),
        bounds.cpu(),
        (bounds <= tol * moved + floor).cpu(),
        law,
        rate,
        solver.stable,
        solver.products,
        method,
    )


class _Solver:
    """One forecast: the sums of slopes that move the outputs at each horizon."""

    def __init__(
        self,
        theta: OutputKernel,
        objective: Objective,
        rate: float,
        law: Law,
        counts: Sequence[int],
        budget: int | None,
        tol: float,
    ) -> None:
        self.theta, self.objective = theta, objective
        self.rate, self.law, self.counts, self.budget, self.tol = rate, law, counts, budget, tol
        self.scored = ScoredOperator(theta, objective)
        self.space = self.scored.domain
        self.matvec = Matvecs(self.scored, plain=True)
        self._others = 0

    @property
    def products(self) -> int:
        """Products with Theta so far."""
        return self.matvec.count + self._others

    def solve(self) -> tuple[torch.Tensor, np.ndarray, str]:
        """Return sums ``[k, n]``, bounds on the norms of errors, and how they were found."""
        size, most = self.space.dimension, self.counts[-1]
        linear, exact = self.objective.kind == "mse", self.theta.dtype == F64
        outputs, count = self.objective.outputs.shape[2], self.objective.count
        iterated = not linear and size <= min(DENSE_ITERATED, 2 * most)
        if size <= DENSE or iterated:
            needed, remedy = 4 * 8 * size**2, "take fewer trials"
            check = partial(check_memory, "forecast: Theta", needed, self.theta.device, remedy, None)
            self.space.together(check)
            rows = self.matvec(basis_rows(self.space, 0, size, self.scored))
            matrix = whole_rows(rows, self.space).to(F64)  # all of it on every rank
            matrix = (matrix + matrix.mT) / 2
            self._largest(matrix)
            if linear:
                return (*self._linear(matrix), "dense")
            start, targets = whole_rows(torch.stack(self._rows()), self.space)
            drive = Drive(start, targets, outputs, count, lambda s: matrix @ s, Space.of(output=size))
            summed, errors, how = drive.summed(self.law, self.rate, self.counts, exact=exact)
            return own_rows(summed, self.space), errors, f"dense, {how}"
        found = self._largest(None)
        if linear:
            assert found is not None  # there is no matrix
            largest = found.curvature + found.residual if found.converged else math.inf
            return (*self._linear(None, max(1.0, self.rate * largest - 1)), "Lanczos")
        drive = Drive(*self._rows(), outputs, count, self._product, self.space)
        return drive.summed(self.law, self.rate, self.counts, exact=exact)

    def _rows(self) -> tuple[torch.Tensor, torch.Tensor]:  # [n], [n]
        """Return the scored outputs and their classes, one-hot, of a cross entropy."""
        start = self.objective.start
        onehot = torch.nn.functional.one_hot(self.objective.targets, start.shape[1])
        return start.flatten(), onehot.flatten().to(start)

    def outputs(self, summed: torch.Tensor) -> torch.Tensor:  # [k, n] -> [k, B, T, O]
        """Return the outputs everywhere, ``y_0 - Theta s``."""
        objective = self.objective
        slopes = objective.placed(summed.reshape(len(summed), *objective.start.shape))
        check_finite_outputs(slopes, self.rate, self.stable, objective.space)
        whole_ = Matvecs(self.theta, plain=True)
        moved = whole_(slopes.to(self.theta.dtype).flatten(1)).reshape(slopes.shape)
        self._others += whole_.count
        return objective.outputs - moved.to(F64)

    def _product(self, s: torch.Tensor) -> torch.Tensor:  # [n] -> [n]
        if self.budget is not None and self.matvec.count >= self.budget:
            expected = (
                f"as many products as the {self.law} takes, for {self.counts[-1]} updates of a cross entropy"
            )
            raise ArgumentError(mismatch("budget", expected, self.budget))
        return self.matvec(s[None].to(self.theta.dtype))[0].to(F64)

    def _largest(self, matrix: torch.Tensor | None) -> StableRate | None:
        """Find the largest stable rate: of the matrix of Theta where it is the loss's curvature, too."""
        if matrix is not None and self.objective.kind == "mse":
            largest = self.objective.curvature * float(torch.linalg.eigvalsh(matrix)[-1])
            self.stable = 2 / largest if largest > 0 else math.inf
            return None
        found = leading(self.theta, self.objective, tol=1e-2)
        self._others += found.num_matvecs
        self.stable = found.rate
        return found

    # -- squared error ---------------------------------------------------------------------------------------

    def _linear(self, matrix: torch.Tensor | None, growth: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
        objective = self.objective
        error = (objective.start - objective.targets).flatten()
        decay = Decay(self.law, self.rate * objective.curvature)
        if matrix is not None:
            modes = dense_modes(matrix, error, len(self.counts), self.space)
        else:
            modes = lanczos_modes(
                self.matvec,
                error,
                decay,
                self.counts,
                growth=growth,
                tol=self.tol / 100,
                most=self.budget or STEPS,
            )
        summed = torch.stack([modes.combined(decay.summed(modes.values, count)) for count in self.counts])
        bounds = np.nan_to_num(modes.bounds, nan=math.inf)
        eps, largest = torch.finfo(self.theta.dtype).eps, float(max(modes.values.max(), 0.0))
        # a product is off by eps |Theta| at most, and so is each update
        left = np.array([modes.size(decay.left(modes.values, count)) for count in self.counts])
        reached = np.maximum.accumulate(np.maximum(left, length_of(error, self.space)))
        return summed, bounds + eps * decay.rate * largest * np.array(self.counts) * reached


def _counts(updates: int | Iterable[int]) -> tuple[int, ...]:
    expected = "a whole number >= 0, or several"
    one = as_whole(updates)
    given = updates if one is None else (one,)
    if not isinstance(given, Iterable):
        raise ArgumentError(mismatch("updates", expected, shown(updates)))
    counts = tuple(whole(count, "updates", 0, expected=expected) for count in given)
    if not counts:
        raise ArgumentError(mismatch("updates", expected, "none"))
    return counts


def _positive(value: object, argument: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ArgumentError(mismatch(argument, "a finite number > 0", shown(value)))
    return float(value)
