"""A and J against ``torch.func.jacrev`` of ``step``, and the forms that A can be turned into."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize
from kpframe.errors import ArgumentError, DtypeError, MemoryBudgetError, ShapeError, UnsupportedError
from kpframe.flow._step_jacobian import DenseStepJacobian, DiagonalStepJacobian


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.rows(14)
def test_A_and_J_equal_jacrev_of_step(lab, toy, method, mask) -> None:
    model = lab.make(toy, seed=1)
    flow = linearize(model, **lab.trials(model, h0=True, mask=mask), method=method)
    blocks = lab.step_blocks(model, flow)
    lab.close(flow.A.blocks(), blocks)
    lab.close(flow.J.to_dense(), lab.parameter_blocks(model, flow))
    if flow.trajectory.space.shape[2] > 1 and toy != "bare":
        lab.differ(flow.A.blocks(), blocks.mT)
    if flow.J.domain.size:
        other = linearize(lab.make(toy, seed=2), **lab.trials(model, h0=True, mask=mask), method=method)
        lab.differ(flow.J.to_dense(), other.J.to_dense())


def test_which_form_a_model_gets(lab, structured) -> None:
    model = lab.make(structured)
    flow = linearize(model, **lab.trials(model))
    assert (flow.A.method, flow.K.method, flow.P.method) == ("sites", "sites", "sites")
    twin = linearize(model, **lab.trials(model), method="autograd")
    assert (twin.A.method, twin.K.method) == ("autograd", "autograd")


def test_a_parameter_at_no_site_leaves_A_structured(lab) -> None:
    model = lab.make("extra")
    flow = linearize(model, **lab.trials(model))
    assert (flow.A.method, flow.K.method) == ("sites", "autograd")
    model.gain.requires_grad_(False)
    assert linearize(model, **lab.trials(model)).K.method == "sites"


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(4)
def test_A_is_a_proper_operator_and_steps_are_its_blocks(lab, toy, method) -> None:
    model = lab.make(toy, seed=3)
    A = linearize(model, **lab.trials(model, h0=True, mask=True), method=method).A
    lab.check_operator(A)
    lab.check_operator(A.diagonal())
    v = lab.randn(5, 2, *A.domain.without("time").shape)
    blocks = A.blocks()
    for t in range(A.steps):
        lab.close(A.step(t, v), (blocks[:, t] @ v.unsqueeze(-1)).squeeze(-1))
        lab.close(A.step_adjoint(t, v), (blocks[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
    lab.close(A.diagonal().values, blocks.diagonal(dim1=-2, dim2=-1))
    lab.close(DenseStepJacobian(blocks, A.domain).to_dense(), A.to_dense())


def test_diagonal_keeps_the_diagonal_only(lab) -> None:
    model = lab.make("lstm", seed=3)
    A = linearize(model, **lab.trials(model, h0=True)).A
    diagonal = A.diagonal()
    assert repr(diagonal) == "diag(A)"
    assert diagonal.diagonal() is diagonal
    assert diagonal.self_adjoint
    lab.close(diagonal.blocks(), torch.diag_embed(A.blocks().diagonal(dim1=-2, dim2=-1)))
    lab.differ(diagonal.blocks(), A.blocks())


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_masked_zeroes_the_chosen_steps(lab, shape) -> None:
    model = lab.make("gru", seed=3)
    A = linearize(model, **lab.trials(model, h0=True)).A
    keep = lab.randn(8, *shape) > 0
    assert keep.any()
    assert not keep.all()
    cut = A.masked(keep)
    lab.check_operator(cut)
    lab.close(cut.blocks(), A.blocks() * keep.expand(2, 4)[..., None, None])
    lab.differ(cut.blocks(), A.blocks())
    lab.close(A.masked(torch.ones(4, dtype=torch.bool)).blocks(), A.blocks())
    v = lab.randn(5, 2, 3)
    for t in range(4):
        lab.close(cut.step(t, v), (cut.blocks()[:, t] @ v.unsqueeze(-1)).squeeze(-1))
        lab.close(cut.step_adjoint(t, v), (cut.blocks()[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
    keep.fill_(True)
    lab.differ(cut.blocks(), A.blocks())  # the mask was copied


def test_replace_swaps_a_weight_and_keeps_the_gains(lab) -> None:
    model = lab.make("rnn", seed=4)
    flow = linearize(model, **lab.trials(model))
    other = lab.randn(9, 3, 3)
    gain = 1 - flow.trajectory.states**2
    lab.close(flow.A.replace({"weight_hh": other}).blocks(), gain[..., None] * other)
    lab.close(flow.A.replace({"weight_hh": model.weight_hh.detach()}).blocks(), flow.A.blocks())
    lab.differ(flow.A.replace({"weight_hh": other}).blocks(), flow.A.blocks())
    assert repr(flow.A.replace({"weight_hh": other})) == "A[weight_hh]"
    given = other.clone()
    replaced = flow.A.replace({"weight_hh": given})
    given.zero_()  # the operator has its own
    lab.close(replaced.blocks(), gain[..., None] * other)


def test_direct_is_the_path_around_the_weights(lab) -> None:
    rate = lab.make("leaky rate", seed=4)
    A = linearize(rate, **lab.trials(rate)).A
    leak = (1 - rate.leak) * torch.eye(3, dtype=torch.float64)
    lab.close(A.direct().blocks(), leak.expand(2, 4, 3, 3).contiguous())
    plain = lab.make("rnn")
    assert not linearize(plain, **lab.trials(plain)).A.direct().blocks().any()
    lstm = lab.make("lstm")
    A = linearize(lstm, **lab.trials(lstm)).A
    zero = {"weight_hh": torch.zeros(12, 3, dtype=torch.float64)}
    lab.close(A.direct().blocks(), A.replace(zero).blocks())
    lab.differ(A.direct().blocks(), A.blocks())


def test_replace_and_masked_refuse_what_does_not_fit(lab) -> None:
    model = lab.make("rnn")
    A = linearize(model, **lab.trials(model)).A
    with pytest.raises(ArgumentError, match=r"names among \['weight_hh'\], got 'weight_hg'; did you mean"):
        A.replace({"weight_hg": torch.zeros(3, 3)})
    with pytest.raises(ShapeError, match=r"weights\['weight_hh'\]: expected shape \[3, 3\], got \[2, 3\]"):
        A.replace({"weight_hh": torch.zeros(2, 3)})
    with pytest.raises(ArgumentError, match=r"expected torch.float64 on cpu, got torch.float32 on cpu"):
        A.replace({"weight_hh": torch.zeros(3, 3)})
    with pytest.raises(
        ShapeError, match=r"keep: expected shape \[time=4\] or \[batch=2, time=4\], got \[3\]"
    ):
        A.masked(torch.ones(3, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"keep: expected dtype torch.bool, got torch.float32"):
        A.masked(torch.ones(4))
    twin = linearize(model, **lab.trials(model), method="autograd").A
    with pytest.raises(UnsupportedError, match=r"A \(autograd form\) does not know its weights"):
        twin.replace({"weight_hh": torch.zeros(3, 3)})


def test_dense_and_diagonal_forms_check_what_they_are_given() -> None:
    with pytest.raises(ShapeError, match=r"blocks: expected shape \[B, T, H, H\], got \[2, 3, 4, 5\]"):
        DenseStepJacobian(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ShapeError, match=r"values: expected shape \[B, T, H\], got \[2, 3\]"):
        DiagonalStepJacobian(torch.zeros(2, 3))
    with pytest.raises(MemoryBudgetError, match=r"blocks of A: .*max_bytes=383.*needs 384 bytes"):
        DenseStepJacobian(torch.zeros(2, 3, 4, 4)).blocks(max_bytes=383)
