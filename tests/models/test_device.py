"""Everything stays on the model's device, in its dtype: run with ``--device cuda`` where there is one."""

from __future__ import annotations

import pytest
import torch

from kpframe import alignment, effective_rank, eigsh, frobenius_norm, linearize, svd, trace, wrap
from kpframe.errors import DeviceError
from kpframe.spectra._lyapunov import lyapunov_exponents

TOYS = ("rnn", "leaky rate", "leaky current", "gru", "lstm", "LSTMCell")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TOYS)
def test_products_stay_on_the_device_and_equal_those_of_the_cpu(lab, device, name, dtype) -> None:
    model = lab.make(name, trainable_initial_state=True, dtype=dtype)
    case = lab.trials(model, mask=True, dtype=dtype)
    here = linearize(model, **case)
    there = linearize(model.to(device), **{key: value.to(device) for key, value in case.items()})
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for pick in ("A", "P", "K", "Phi"):
        q = lab.randn(3, 2, *here.P.domain.shape, dtype=dtype)
        product = getattr(there, pick)(q.to(device))
        assert (product.device.type, product.dtype) == (device.type, dtype)
        lab.close(product.cpu(), getattr(here, pick)(q), tolerance)
        if pick in ("K", "Phi"):
            lab.differ(product.cpu(), q)
    reduced = there.Phi.mean("time").partial_trace("batch").select(hidden=[0, 1])
    assert reduced.to_dense().device.type == device.type
    lab.close(
        reduced.to_dense().cpu(),
        here.Phi.mean("time").partial_trace("batch").select(hidden=[0, 1]).to_dense(),
        tolerance,
    )


def test_estimates_and_spectra_run_on_the_device(lab, device) -> None:
    flow = linearize(wrap(torch.nn.GRUCell(2, 8)).to(device), torch.randn(4, 40, 2, device=device))
    for estimate in (trace, frobenius_norm, effective_rank):
        assert estimate(flow.Phi, budget=20).value > 0
    assert 0 < alignment(flow.P @ flow.K, flow.Phi, budget=40).value < 1
    assert eigsh(flow.Phi, k=3).eigenvectors.device.type == device.type
    assert svd(flow.P, k=3).U.device.type == device.type
    assert lyapunov_exponents(flow.A).exponents.device.type == device.type


def test_a_tensor_on_another_device_is_refused(lab) -> None:
    model = lab.make("gru")
    flow = linearize(model, **lab.trials(model))
    with pytest.raises(DeviceError, match="expected device cpu, got meta"):
        flow.Phi(torch.zeros(flow.P.domain.shape, dtype=torch.float64, device="meta"))
    with pytest.raises(DeviceError, match="x: expected the model's device cpu, got meta"):
        linearize(model, torch.zeros(2, 3, 2, dtype=torch.float64, device="meta"))
