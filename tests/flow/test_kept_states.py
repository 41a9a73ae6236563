"""Flows that keep a few states and roll out between them, against those that keep all of them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from attrs import evolve

from kpframe import linearize
from kpframe.errors import ArgumentError, MemoryBudgetError, NonFiniteError, UnsupportedError
from kpframe.flow import eligibilities
from kpframe.models._kept import ModelSegments

TIME = 7
EXACT = 1e-12


def trials(lab, model, time: int = TIME) -> dict[str, torch.Tensor]:
    """Return two trials, of which the second is padded after its fourth step, beyond a segment's end."""
    return {
        "x": lab.randn(3, 2, time, model.input_size),
        "mask": torch.arange(time) < torch.tensor([[time], [4]]),
    }


def both(lab, toy: str, keep="sqrt", time: int = TIME, **settings):
    method = settings.pop("method", "auto")
    model = lab.make(toy, seed=1, **settings)
    data = trials(lab, model, time)
    return tuple(linearize(model, **data, method=method, keep=which) for which in ("all", keep))


def check(lab, found, expected, seed: int = 5) -> None:
    """Compare products with two dimensions of probes, both ways."""
    q, r = lab.randn(seed, 2, 1, *expected.domain.shape), lab.randn(seed + 1, 2, 1, *expected.codomain.shape)
    lab.close(found(q), expected(q), EXACT)
    lab.close(found.T(r), expected.T(r), EXACT)


TOYS = [
    ("rnn", {"trainable_initial_state": True}),
    ("lstm", {"trainable_initial_state": True}),
    ("leaky current", {}),
    ("extra", {}),
    ("clocked", {}),
    ("plain", {"trainable_initial_state": True}),
    ("plain", {"method": "graph"}),
    ("plain", {"method": "autograd"}),
    ("layers", {}),
]


@pytest.mark.parametrize("keep", ["sqrt", 1, 6])
@pytest.mark.parametrize(("toy", "settings"), TOYS)
@pytest.mark.rows(6)
def test_all_operators_are_the_same(lab, toy, settings, keep) -> None:
    flow, kept = both(lab, toy, keep, time=6, **settings)
    for name in ("A", "J", "P", "K", "Phi", "G"):
        check(lab, getattr(kept, name), getattr(flow, name))
    check(lab, kept.P.inverse, flow.P.inverse)
    q = lab.randn(9, *flow.P.domain.shape)
    lab.close(kept.P(kept.P.inverse(q)), q, EXACT)
    lab.close(kept.trajectory.states, flow.trajectory.states, EXACT)
    lab.close(kept.trajectory.final, flow.trajectory.final, EXACT)
    assert repr(kept.Phi) == repr(flow.Phi)
    assert kept.Phi.tags == flow.Phi.tags == {"self_adjoint", "positive"}
    assert kept.P.method.endswith("in segments")
    if keep != 1:  # what goes from one segment to the next counts
        lab.differ(kept.P(q), flow.P.chunked(kept.P.A.segments.length)(q))


@pytest.mark.parametrize("toy", ["clocked", "layers"])
def test_steps_keep_their_index(lab, toy, monkeypatch) -> None:
    flow, kept = both(lab, toy, time=6)
    begun = ModelSegments.begun
    q = lab.randn(1, *flow.P.domain.shape)
    lab.close(kept.Phi(q), flow.Phi(q), EXACT)
    monkeypatch.setattr(ModelSegments, "begun", lambda self, place: evolve(begun(self, place), first=0))
    lab.differ(both(lab, toy, time=6)[1].Phi(q), flow.Phi(q))


@pytest.mark.parametrize("toy", ["rnn", "lstm", "plain"])
@pytest.mark.rows(3)
def test_what_is_made_of_them_is_the_same(lab, toy) -> None:
    flow, kept = both(lab, toy)
    for window in (1, 2, 5, TIME):
        check(lab, kept.P.truncated(window), flow.P.truncated(window))
        check(lab, kept.P.chunked(window), flow.P.chunked(window))
    q = lab.randn(9, *flow.P.domain.shape)
    lab.differ(kept.P.truncated(2)(q), kept.P.truncated(5)(q), 1e-6)
    for t, s in ((5, 1), (TIME - 1, None), (4, 4)):
        check(lab, kept.P.transition(t, s), flow.P.transition(t, s))
    keep = lab.randn(2, 2, TIME) > 0
    hidden = flow.P.domain.shape[2]
    pattern = lab.randn(4, hidden, hidden) > 0
    changed = [
        lambda A: A.diagonal(),
        lambda A: A.unit_blocks(),
        lambda A: A.where(pattern),
        lambda A: A.masked(keep),
        lambda A: 0.5 * A - A.masked(keep),
        lambda A: A.switched(A.diagonal(), keep),
    ]
    if toy != "plain":
        weight = {name: w + 1 for name, w in flow.A.weights.items()}
        changed += [
            lambda A: A.direct(),
            lambda A: A.pointwise(),
            lambda A: A.cut(["direct"]),
            lambda A: A.replace(weight),
        ]
        assert kept.A.paths == flow.A.paths
    for change in changed:
        check(lab, change(kept.A), change(flow.A))
        check(lab, kept.P.with_step(change(kept.A)), flow.P.with_step(change(flow.A)))
        lab.differ(change(kept.A)(q), kept.A(q))
    lab.close(kept.A.blocks(), flow.A.blocks(), EXACT)
    assert torch.equal(kept.A.units, flow.A.units)
    r = lab.randn(7, *flow.P.domain.shape)
    lab.close(eligibilities(kept.J, r), eligibilities(flow.J, r), EXACT)
    restricted = [name for name in flow.K.parameters if name != "h0"][:1]
    check(lab, kept.K.restrict(restricted), flow.K.restrict(restricted))
    if toy == "rnn":
        check(lab, kept.J.with_gains(r, name="J[r]"), flow.J.with_gains(r, name="J[r]"))
        (group,), (expected,) = (f.J.weight_groups(["weight_hh", "bias_hh"]) for f in (kept, flow))
        lab.close(group.z, expected.z, EXACT)
        lab.close(group.gain(), expected.gain(), EXACT)


@pytest.mark.parametrize("form", ["stepwise", "dense"])
def test_each_segment_has_the_form_that_is_asked_for(lab, form) -> None:
    flow, kept = both(lab, "rnn")
    other = kept.with_propagator(form)
    assert other.P.method == f"{form} in segments"
    check(lab, other.Phi, flow.Phi)
    with pytest.raises(UnsupportedError, match="GraphPropagator does not fit"):
        kept.with_propagator("graph")
    with pytest.raises(UnsupportedError, match="parameter_operator='product' takes any"):
        kept.with_parameter_operator("gram")


def test_a_product_rolls_the_trajectory_out_once_more_in_each_pass(lab, monkeypatch) -> None:
    rolled: list[int] = []
    trajectory = ModelSegments.trajectory

    def count(self, place):
        rolled.append(self.bounds[place].stop - self.bounds[place].start)
        return trajectory(self, place)

    monkeypatch.setattr(ModelSegments, "trajectory", count)
    time, length = 100, 10

    def steps(operator=None) -> int:
        rolled.clear()
        if operator is not None:
            operator(lab.randn(0, *operator.domain.shape))
        return sum(rolled)

    flow = linearize(lab.make("rnn", seed=1), lab.randn(3, 2, time, 2), keep="sqrt")
    assert sum(rolled) == time
    assert [len(rolled), len(flow.P.A.segments)] == [10, 10]
    assert flow.P.why == "10 of 100 states are kept"
    assert steps(flow.P) == time - length  # the first segment is at hand, afterwards the last one
    assert steps(flow.P.T) == time - length
    assert steps(flow.Phi) == time + time - length
    assert steps(flow.A.T) == time - length
    assert steps(flow.P.truncated(3)) == time - length
    assert steps(flow.P.transition(95, 42)) == 60
    held = flow.P.A.segments.kept
    assert sum(state.numel() for state in held) == (10 + 1) * 2 * flow.P.domain.shape[2]


def test_what_the_caller_writes_to_later_changes_nothing(lab) -> None:
    model = lab.make("rnn", seed=1)
    data = trials(lab, model)
    expected = linearize(model, **data)
    kept = linearize(model, **data, keep="sqrt")
    weights = {name: w + 1 for name, w in kept.A.weights.items()}
    pattern = torch.eye(3, dtype=torch.bool)
    replaced, entries = kept.A.replace(weights), kept.A.where(pattern)
    check(lab, replaced, expected.A.replace(weights))
    with torch.no_grad():
        data["x"].zero_()
        data["mask"].fill_(True)
        pattern.fill_(True)
        for tensor in (*weights.values(), *model.parameters()):
            tensor.zero_()
    check(lab, kept.Phi, expected.Phi)
    check(lab, replaced, expected.A.replace({name: w + 1 for name, w in expected.A.weights.items()}))
    check(lab, entries, expected.A.diagonal())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_copies_keep_their_numbers(lab, again) -> None:
    model = lab.make("rnn", seed=1)
    kept = linearize(model, **trials(lab, model), keep="sqrt")
    q = lab.randn(1, *kept.P.domain.shape)
    expected = {name: getattr(kept, name)(q) for name in ("A", "P", "Phi")}
    other = again(kept)
    for name, value in expected.items():
        assert torch.equal(getattr(other, name)(q), value)
    assert torch.equal(other.A.direct()(q), kept.A.direct()(q))
    assert torch.equal(other.trajectory.states, kept.trajectory.states)
    assert repr(other) == repr(kept)


def test_parameters_that_nothing_reads_are_found(lab) -> None:
    model = lab.make("rnn", seed=1)
    model.readout = torch.nn.Linear(3, 1).double()
    kept = linearize(model, **trials(lab, model), keep="sqrt")
    assert kept.unread == linearize(model, **trials(lab, model)).unread == {"readout.weight", "readout.bias"}


@pytest.mark.parametrize(
    ("keep", "got"),
    [
        ("sqt", "did you mean 'sqrt'"),
        (0, "got 0"),
        (TIME + 1, f"each of the {TIME} steps"),
        (None, "got None"),
    ],
)
def test_what_cannot_be_kept_is_refused(lab, keep, got) -> None:
    model = lab.make("rnn", seed=1)
    with pytest.raises(ArgumentError, match=f"^keep: expected .*{got}"):
        linearize(model, **trials(lab, model), keep=keep)


def test_a_roll_out_that_is_not_finite_names_the_step_of_the_whole(lab) -> None:
    model = lab.make("rnn", seed=1)
    data = trials(lab, model)
    model.combine = lambda u, h, t=None: {"h": torch.where(u["u"] > 1e3, torch.inf, torch.tanh(u["u"]))}
    data["x"][0, 5] = 1e6 * torch.sign(model.weight_ih.detach()[0])
    messages = []
    for keep in ("all", "sqrt"):
        with pytest.raises(NonFiniteError, match="first at step 5, trial 0") as caught:
            linearize(model, **data, keep=keep)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_fewer_states_need_less_memory_and_the_refusal_says_so(lab) -> None:
    model = lab.make("rnn", seed=1)
    x = lab.randn(3, 2, 400, 2)
    with pytest.raises(MemoryBudgetError, match="keep='sqrt'"):
        linearize(model, x, max_bytes=40_000)
    linearize(model, x, max_bytes=40_000, keep="sqrt")
    with pytest.raises(MemoryBudgetError) as caught:
        linearize(model, x, max_bytes=2_000, keep="sqrt")
    assert "keep" not in str(caught.value)
