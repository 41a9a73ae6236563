"""The rule against loops that share no code with kpframe's operators, and where it is backpropagation."""

import numpy as np
import pytest
import torch
from kpframe_sign_symmetry.rule import SignSymmetry

import kpframe
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.testing import Elman, Gated, Plain

TRIALS, STEPS, INPUTS, UNITS, OUTPUTS = 3, 7, 2, 5, 2
SIZE = 0.4


class TanhRNN(kpframe.SiteModel):
    """``h' = tanh(M W h + U x + b)``; the mask M holds some of W at zero, if ``sparse``."""

    def __init__(self, sparse=False):
        super().__init__(
            INPUTS,
            UNITS,
            components=("h",),
            sites=(
                kpframe.Site("drive", "input", ("u",), bias="bias"),
                kpframe.Site("effective", "h", ("u",), parameters=("recurrent",)),
            ),
        )
        self.drive = torch.nn.Parameter(torch.randn(UNITS, INPUTS))
        self.recurrent = torch.nn.Parameter(0.6 * torch.randn(UNITS, UNITS))
        self.bias = torch.nn.Parameter(0.3 * torch.randn(UNITS))
        mask = torch.rand(UNITS, UNITS) < 0.6 if sparse else torch.ones(UNITS, UNITS)
        self.register_buffer("mask", mask.to(self.recurrent.dtype))

    def site_weight(self, name):
        return self.mask * self.recurrent if name == "effective" else super().site_weight(name)

    def combine(self, u, h, t=None):
        return {"h": torch.tanh(u["u"])}


@pytest.fixture(params=range(3), autouse=True)
def seed(request):
    torch.manual_seed(request.param)


def draw(model):
    """Return the flow of a model along random inputs, a readout, output errors, and ``Err = W_out^T e``."""
    model = model.double()
    flow = kpframe.linearize(model, torch.randn(TRIALS, STEPS, INPUTS, dtype=torch.float64))
    readout = kpframe.Readout(model.width, OUTPUTS, generator=1, dtype=torch.float64)
    slopes = torch.randn(TRIALS, STEPS, OUTPUTS, dtype=torch.float64)
    return flow, readout, slopes, slopes @ readout.weight.detach()


def rule(**settings):
    return kpframe.create_rule("sign_symmetry", **settings)


def distance(found, expected):
    """Return the largest relative distance between gradients of the same parameters."""
    assert found.keys() == expected.keys()
    assert all(float(value.norm()) > 0 for value in expected.values())
    return max(float((found[name] - value).norm() / value.norm()) for name, value in expected.items())


def bptt(flow, err):
    return by_name(flow, flow.J.T(flow.P.T(err)))


def by_name(flow, flat):
    return {part.name: flat[part.slice].reshape(part.shape) for part in flow.J.domain.axes[0].parts}


def signs(weight, scale):
    size = np.abs(weight[weight != 0]).mean() if scale is None else scale
    return size * np.sign(weight)


def backward_recursion(flow, err, back):
    """Return the gradient of a TanhRNN, entry by entry, with ``back`` in the place of W on the way back."""
    model, inputs = flow.model, flow.trajectory.inputs.numpy()
    drive, bias = model.drive.detach().numpy(), model.bias.detach().numpy()
    mask = model.mask.numpy()
    recurrent = mask * model.recurrent.detach().numpy()
    gradient = {name: np.zeros(tuple(p.shape)) for name, p in model.named_parameters()}
    for trial in range(TRIALS):
        states = [np.zeros(UNITS)]
        for t in range(STEPS):
            states.append(np.tanh(recurrent @ states[-1] + drive @ inputs[trial, t] + bias))
        carried = np.zeros(UNITS)
        for t in reversed(range(STEPS)):
            arrived = err[trial, t] + carried
            local = [(1 - states[t + 1][i] ** 2) * arrived[i] for i in range(UNITS)]
            for i in range(UNITS):
                gradient["bias"][i] += local[i]
                for j in range(INPUTS):
                    gradient["drive"][i, j] += local[i] * inputs[trial, t, j]
                for j in range(UNITS):
                    gradient["recurrent"][i, j] += local[i] * mask[i, j] * states[t][j]
            carried = np.array([sum(back[i, j] * local[i] for i in range(UNITS)) for j in range(UNITS)])
    return {name: torch.from_numpy(value) for name, value in gradient.items()}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("readout", [False, True])
@pytest.mark.parametrize("scale", [None, SIZE])
def test_a_tanh_network_equals_the_backward_recursion_with_sign_matrices(scale, readout, sparse):
    flow, outputs, slopes, err = draw(TanhRNN(sparse))
    recurrent = (flow.model.mask * flow.model.recurrent.detach()).numpy()
    sent = slopes.numpy() @ signs(outputs.weight.detach().numpy(), scale) if readout else err.numpy()
    expected = backward_recursion(flow, sent, signs(recurrent, scale))
    found = rule(scale=scale, readout=readout).gradient(flow, err, outputs)
    assert distance(found, expected) <= 1e-10
    assert distance(found, backward_recursion(flow, sent, recurrent)) > 1e-2  # W through time
    assert distance(found, bptt(flow, err)) > 1e-2
    if readout:
        from_outputs = rule(scale=scale).update(flow, outputs).output_operator(slopes)
        assert distance(by_name(flow, from_outputs), expected) <= 1e-10
        assert distance(found, backward_recursion(flow, err.numpy(), signs(recurrent, scale))) > 1e-2


class BackThrough(torch.autograd.Function):
    """``h W^T`` whose derivative by h is taken with another matrix."""

    @staticmethod
    def forward(ctx, h, weight, back):
        ctx.save_for_backward(h, back)
        return h @ weight.T

    @staticmethod
    def backward(ctx, slope):
        h, back = ctx.saved_tensors
        return slope @ back, slope.T @ h, None


@pytest.mark.parametrize("scale", [None, SIZE])
def test_a_gated_network_equals_autograd_with_another_way_back(scale):
    flow, outputs, slopes, err = draw(Gated(INPUTS, UNITS))
    theta = {name: p.detach().clone().requires_grad_() for name, p in flow.model.named_parameters()}
    W, V, b, c = (theta[f"{kind}_{way}_l0"] for kind in ("weight", "bias") for way in ("hh", "ih"))
    back = torch.from_numpy(signs(W.detach().numpy(), scale))
    h, states = torch.zeros(TRIALS, UNITS, dtype=torch.float64), []
    for t in range(STEPS):
        from_h = BackThrough.apply(h, W, back) + b
        from_x = flow.trajectory.inputs[:, t] @ V.T + c
        (r, z), n = torch.sigmoid(from_h + from_x)[:, : 2 * UNITS].chunk(2, 1), 2 * UNITS
        h = (1 - z) * torch.tanh(from_x[:, n:] + r * from_h[:, n:]) + z * h
        states.append(h)
    sent = slopes @ torch.from_numpy(signs(outputs.weight.detach().numpy(), scale))
    (torch.stack(states, dim=1) * sent).sum().backward()
    expected = {name: p.grad for name, p in theta.items()}
    assert distance(rule(scale=scale).gradient(flow, err, outputs), expected) <= 1e-10
    assert distance(bptt(flow, err), expected) > 1e-2


@pytest.mark.parametrize("cell", [Elman, Gated])
@pytest.mark.parametrize("scale", [None, SIZE])
def test_weights_of_one_size_make_it_backpropagation(cell, scale):
    model = cell(INPUTS, UNITS).double()
    flow, outputs, slopes, err = draw(model)
    with torch.no_grad():
        for weight in (model.weight_hh_l0, outputs.weight):
            weight.copy_(SIZE * weight.sign())
    of_one_size = kpframe.linearize(model, flow.trajectory.inputs)
    same_err = slopes @ outputs.weight.detach()
    exact = rule(scale=scale).gradient(of_one_size, same_err, outputs)
    assert distance(exact, bptt(of_one_size, same_err)) <= 1e-10
    assert distance(rule(scale=2 * SIZE).gradient(of_one_size, same_err, outputs), exact) > 1e-2
    drawn = kpframe.Readout(UNITS, OUTPUTS, generator=1, dtype=torch.float64)
    assert distance(rule(scale=scale).gradient(flow, err, drawn), bptt(flow, err)) > 1e-2


def test_padded_steps_hold_the_error():
    flow, outputs, _, err = draw(Elman(INPUTS, UNITS))
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [4], [1]])
    padded = kpframe.linearize(flow.model, flow.trajectory.inputs, mask=mask)
    short = kpframe.linearize(flow.model, flow.trajectory.inputs[1:2, :4])
    alone = torch.zeros_like(err)
    alone[1, -1] = err[1, -1]  # at a padded step: it belongs to the last real one
    expected = rule().gradient(short, torch.cat([alone[1:2, :3], err[1:2, -1:]], dim=1), outputs)
    assert distance(rule().gradient(padded, alone, outputs), expected) <= 1e-10
    assert distance(rule().gradient(flow, alone, outputs), expected) > 1e-2


def test_units_that_are_not_read_get_no_error_from_outputs():
    flow, *_ = draw(Elman(INPUTS, UNITS))
    outputs = kpframe.Readout(UNITS, OUTPUTS, hidden=slice(1, 4), generator=1, dtype=torch.float64)
    feedback = rule(scale=SIZE).update(flow, outputs).feedback
    assert torch.equal(feedback[:, 1:4], SIZE * outputs.weight.detach().sign())
    assert not feedback[:, [0, 4]].any()


def test_it_composes_with_other_rules():
    class Twofold(kpframe.LearningRule):
        def change(self, update):
            return update.replace(P=update.propagator.truncated(2))

    flow, outputs, _, err = draw(Elman(INPUTS, UNITS))
    composed = Twofold() @ rule()
    A, E = rule().update(flow, outputs).A, rule().update(flow, outputs).error_map(err)
    received = E.clone()
    received[:, :-1] += A.T(E)[:, 1:]
    flat = flow.J.T(received)
    assert float((composed.update_operator(flow, outputs)(err) - flat).norm()) <= 1e-10 * float(flat.norm())
    full = rule().update_operator(flow, outputs)(err)
    assert float((full - flat).norm()) > 1e-2 * float(flat.norm())
    with pytest.raises(UnsupportedError, match="last"):
        (rule() @ Twofold()).gradient(flow, err, outputs)


def test_a_model_without_sites_is_told_what_would_do():
    flow, outputs, _, err = draw(Plain(INPUTS, UNITS))
    with pytest.raises(UnsupportedError, match=r"(?s)SiteModel.*got Plain.*sites.*feedback_alignment"):
        rule().gradient(flow, err, outputs)
    structureless = kpframe.linearize(Elman(INPUTS, UNITS), torch.randn(1, 3, INPUTS), method="autograd")
    with pytest.raises(UnsupportedError, match="replace works on models written as a SiteModel"):
        rule(readout=False).gradient(structureless, torch.randn(1, 3, UNITS))


def test_a_model_that_no_state_enters_by_a_weight_is_refused():
    class Forward(kpframe.SiteModel):
        def __init__(self):
            super().__init__(INPUTS, UNITS, ("h",), (kpframe.Site("weight", "input", ("u",)),))
            self.weight = torch.nn.Parameter(torch.randn(UNITS, INPUTS))

        def combine(self, u, h, t=None):
            return {"h": 0.5 * h["h"] + torch.tanh(u["u"])}

    flow, outputs, _, err = draw(Forward())
    with pytest.raises(UnsupportedError, match=r"weight site that reads the state.*feedback_alignment"):
        rule().gradient(flow, err, outputs)


def test_a_missing_readout_is_named():
    flow, _, _, err = draw(Elman(INPUTS, UNITS))
    with pytest.raises(UnsupportedError, match=r"readout.*SignSymmetry\(scale=None, readout=True\)"):
        rule().gradient(flow, err)
    with pytest.raises(UnsupportedError, match="readout=False"):
        rule().change(kpframe.Update.exact(flow))
    assert rule(readout=False).gradient(flow, err).keys() == dict(flow.model.named_parameters()).keys()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_an_unusable_scale_is_refused(scale):
    with pytest.raises(ArgumentError, match="scale"):
        SignSymmetry(scale=scale)
    with pytest.raises(ArgumentError, match="scale"):
        rule(scale=scale)
