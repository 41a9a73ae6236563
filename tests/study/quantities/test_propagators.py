"""How alike propagators of groups of trials are, against dense products of step Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.study._moment import Moment
from kpframe.study._quantities.propagators import PropagatorSimilarity

from ...toy_moments import LENGTHS, B, Cell, H, T, moment_of, reseeded, trials_of  # noqa: TID252

GROUPS = ([0, 2, 4], [1, 5], [3])


def dense(moment: Moment) -> torch.Tensor:
    """Return P - I of each trial at its own steps, ``[B, T H, T H]``, by autograd of ``step``."""
    found = torch.zeros(B, T, H, T, H, dtype=torch.float64)
    for trial, length in enumerate(LENGTHS):
        h, steps = torch.zeros(H, dtype=torch.float64), []
        for x in moment.trials.inputs[trial, :length]:

            def step(state: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
                return moment.model.step(x[None], state[None])[0]

            steps.append(torch.autograd.functional.jacobian(step, h))
            h = step(h).detach()
        for s in range(length):
            product = torch.eye(H, dtype=torch.float64)
            for t in range(s + 1, length):
                product = steps[t] @ product
                found[trial, t, :, s] = product
    return found.reshape(B, T * H, T * H)


def right(moment: Moment) -> np.ndarray:
    Q = dense(moment)
    inner = torch.einsum("ixy,jxy->ij", Q, Q).numpy()
    found = np.full((len(GROUPS), len(GROUPS)), np.nan)
    for a, rows in enumerate(GROUPS):
        for b, others in enumerate(GROUPS):
            pairs = [inner[i, j] for i in rows for j in others if i != j]
            sizes = [np.mean([inner[i, i] for i in own]) for own in (rows, others)]
            found[a, b] = np.mean(pairs) / np.sqrt(np.prod(sizes)) if pairs else np.nan
    return found


@pytest.fixture(scope="module")
def moment() -> Moment:
    return moment_of(trials_of())


def test_it_is_the_mean_inner_product_of_two_trials(moment: Moment) -> None:
    data, expected = PropagatorSimilarity(by="task", draws=T * H).measure(moment), right(moment)
    np.testing.assert_allclose(data.propagator_similarity, expected, rtol=1e-10)
    assert float(data.propagator_similarity_stderr.max()) == 0
    assert data.group.values.tolist() == ["a", "b", "c"]
    assert np.isnan(expected[2, 2])  # a group of one trial
    apart = expected[np.triu_indices(3, 1)]
    assert np.all(apart < 0.98)
    assert np.ptp(apart) > 0.02


def test_estimates_are_within_their_standard_errors(moment: Moment) -> None:
    upper, expected = np.triu_indices(3, 1), right(moment)
    runs = [
        PropagatorSimilarity(by="task", draws=12).measure(reseeded(moment, 8, seed)) for seed in range(40)
    ]
    off = np.stack([(run.propagator_similarity - expected).values[upper] for run in runs])
    errors = np.stack([run.propagator_similarity_stderr.values[upper] for run in runs])
    assert np.all(off.std(axis=0) > 0.005)
    assert np.all(abs(off.mean(axis=0)) < 3 * off.std(axis=0) / np.sqrt(len(runs)))
    ratio = off.std(axis=0) / errors.mean(axis=0)
    assert np.all((ratio > 0.6) & (ratio < 1.5)), ratio


def test_scale_is_of_no_matter_and_a_state_that_forgets_has_none() -> None:
    def measured(factor: float) -> np.ndarray:
        model = Cell()
        with torch.no_grad():
            model.W.mul_(factor)
            model.b.zero_()
        trials = trials_of()
        trials.inputs.mul_(0)  # A = W at each step
        own = moment_of(trials, model=model)
        return PropagatorSimilarity(by="task", draws=T * H).measure(own).propagator_similarity.values

    # the powers of W grow so that the highest alone counts, and squares leave the range of numbers
    alone = measured(1e45)
    assert alone[0, 0] == pytest.approx(measured(1e40)[0, 0], rel=1e-9)
    assert np.isfinite(alone[:2, :2]).all()
    assert not np.allclose(alone[:2, :2], measured(1.0)[:2, :2], rtol=1e-2)
    assert np.isnan(measured(0.0)).all()


def test_what_is_no_group_is_refused(moment: Moment) -> None:
    with pytest.raises(ArgumentError, match="by: expected a coordinate of the trials"):
        PropagatorSimilarity(by="tusk").measure(moment)
