from __future__ import annotations

import pytest
import torch

from kpframe import spectra
from kpframe.errors import ArgumentError
from kpframe.operators import FunctionOperator, Operator
from kpframe.operators import _memory as chunks
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics import probes as sampler
from kpframe.spectra._numerics.probes import KINDS, drawn_once

SPACE = Space.of(time=5, hidden=7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_have_shape_dtype_and_unit_covariance(kind: str, dtype: torch.dtype) -> None:
    drawn = spectra.probes(SPACE, 4000, kind=kind, dtype=dtype)
    assert drawn.shape == (4000, 5, 7)
    assert drawn.dtype == dtype
    rows = drawn.flatten(1)
    covariance = rows.mT @ rows / 4000
    assert (covariance - torch.eye(35, dtype=dtype)).abs().max() < 0.1
    if kind == "rademacher":
        assert set(rows.unique().tolist()) == {-1.0, 1.0}
    if kind == "sphere":
        torch.testing.assert_close(rows.norm(dim=1), torch.full((4000,), 35**0.5, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_probes_do_not_depend_on_how_they_are_drawn(kind: str) -> None:
    whole = spectra.probes(SPACE, 8, generator=torch.Generator().manual_seed(3), kind=kind)
    generator = torch.Generator().manual_seed(3)
    parts = torch.cat([spectra.probes(SPACE, num, generator=generator, kind=kind) for num in (5, 0, 2, 1)])
    assert torch.equal(whole, parts)
    assert not torch.equal(
        whole, spectra.probes(SPACE, 8, generator=torch.Generator().manual_seed(4), kind=kind)
    )


def test_no_generator_means_seed_zero_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(
        spectra.probes(SPACE, 3), spectra.probes(SPACE, 3, generator=torch.Generator().manual_seed(0))
    )
    assert torch.equal(before, torch.get_rng_state())


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"kind: expected one of gaussian.*did you mean 'gaussian'"):
        spectra.probes(SPACE, 3, kind="gausian")
    with pytest.raises(ArgumentError, match=r"generator: expected a torch\.Generator or None, got 3"):
        spectra.probes(SPACE, 3, generator=3)  # type: ignore[arg-type]


def everything(op: Operator, seed: int) -> dict[str, torch.Tensor]:
    """All numbers that an estimator gives."""

    def new() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    plain = FunctionOperator(op.domain, op.domain, op._apply, op._apply_adjoint, dtype=op.dtype)
    estimates = {
        **{
            f"trace {name}": spectra.trace(op, method=name, generator=new())
            for name in ("xnystrace", "xtrace", "hutchpp")
        },
        "hutchinson": spectra.trace(op, method="hutchinson", generator=new()),
        "norm": spectra.frobenius_norm(plain, generator=new()),
        "participation": spectra.effective_rank(op, generator=new()),
        "entropy": spectra.effective_rank(op, kind="entropy", generator=new()),
        "threshold": spectra.effective_rank(op, kind="threshold", generator=new()),
        "alignment": spectra.alignment(op, op @ op, generator=new()),
        "other alignment": spectra.alignment(plain, plain @ op, generator=new()),
        "adaptive": spectra.trace(plain, budget=20, rtol=0.2, generator=new()),
    }
    numbers = {name: torch.tensor([e.value, e.stderr], dtype=torch.float64) for name, e in estimates.items()}
    numbers["eigsh"] = spectra.eigsh(op, k=3, budget=60, generator=new()).eigenvectors
    numbers["svd"] = spectra.svd(plain, k=3, budget=90, generator=new()).V
    numbers["randomised"] = spectra.randomized_svd(op, k=3, generator=new()).U
    numbers["density"] = spectra.spectral_density(op, budget=60, generator=new()).nodes
    numbers["partial"] = spectra.partial_trace(op, ("batch", "time"), budget=100, generator=new()).value
    return numbers


def test_the_seed_decides_and_batching_does_not(positive: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    first, again, other = everything(positive, 1), everything(positive, 1), everything(positive, 2)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 9 * 2 * 300 * 8)  # nine probes a batch
    monkeypatch.setattr(chunks, "STEP_BYTES", 0)
    monkeypatch.setattr(chunks, "LEAST_PROBES", 1)
    assert chunks.chunk_size(positive, 60) == 9
    small = everything(positive, 1)
    assert torch.equal(state, torch.get_rng_state())
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        torch.testing.assert_close(value, small[name], rtol=1e-6, atol=1e-8, msg=name)
        if name not in ("eigsh", "svd"):  # those converge to the same
            assert not torch.allclose(value, other[name], rtol=1e-6, atol=0), name


def test_what_is_asked_for_again_is_drawn_once(monkeypatch) -> None:
    draws, drawn = [], sampler._drawn
    monkeypatch.setattr(sampler, "_drawn", lambda *what: draws.append(what) or drawn(*what))

    def draw(seed: int, num: int = 4, kind: str = "gaussian") -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(seed)
        return spectra.probes(SPACE, num, generator=source, kind=kind), source.get_state()

    alone = draw(1)
    with drawn_once():
        first, again = draw(1), draw(1)
        assert len(draws) == 2
        again[0].zero_()  # a tensor of one's own
        third, others = draw(1), [draw(2), draw(1, 3), draw(1, kind="sphere")]
        assert len(draws) == 5
        monkeypatch.setattr(sampler, "KNOWN", 0)
        draw(1), draw(1)
        assert len(draws) == 5  # the latest is kept in any case
        draw(2), draw(1)
        assert len(draws) == 7  # and no other
    for vectors, state in (first, third):
        assert torch.equal(vectors, alone[0])
        assert torch.equal(state, alone[1])
    assert not torch.equal(others[0][0], alone[0])
    assert torch.equal(others[1][0], alone[0][:3])
    draw(1)
    assert len(draws) == 8  # not beyond
