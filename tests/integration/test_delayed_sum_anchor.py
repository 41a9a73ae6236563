"""How well rules follow the exact gradient on the delayed sum of Marschall, Cho & Savin (JMLR 21, 2020).

The task: from bits x of probability 1/2, ``y(t) = 0.5 + 0.5 x(t - 6) - 0.25 x(t - 10)``, given as the pairs
``[x, 1 - x]`` and ``[y, 1 - y]``; softmax outputs, cross-entropy. The network: 32 tanh units, alpha = 1,
``W_in ~ N(0, 1/2)``, ``W_rec`` orthogonal, ``W_out ~ N(0, 1/32)``, biases of 0 at first. It learns a part of
the task (200 updates), is frozen, and runs along a stream of 5,000 steps. How long it learns is our choice:
before learning, errors are constant offsets that every rule follows well.
"""

from __future__ import annotations

import pytest
import torch

from kpframe import Flow, LearningRule, Model, Readout, create_model, create_rule, linearize

F64 = torch.float64
UNITS, LAGS, STREAM = 32, (6, 10), 5000


def delayed_sum(batch: int, steps: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets ``[batch, steps, 2]``; what lies before the first step counts as 0."""
    x = (torch.rand(batch, steps, generator=generator, dtype=F64) < 0.5).to(F64)
    y = torch.full_like(x, 0.5)
    for lag, weight in zip(LAGS, (0.5, -0.25), strict=True):
        y[:, lag:] += weight * x[:, :-lag]
    return torch.stack([x, 1 - x], dim=-1), torch.stack([y, 1 - y], dim=-1)


def network(seed: int) -> tuple[Model, Readout]:
    generator = torch.Generator().manual_seed(seed)
    model = create_model("rnn", input_size=2, hidden_size=UNITS, seed=seed).to(F64)
    readout = Readout(UNITS, 2, generator=seed, dtype=F64)
    values = {
        "weight_hh_l0": torch.linalg.qr(torch.randn(UNITS, UNITS, generator=generator, dtype=F64)).Q,
        "weight_ih_l0": torch.randn(UNITS, 2, generator=generator, dtype=F64) / 2**0.5,
        "bias_ih_l0": torch.zeros(UNITS, dtype=F64),
        "bias_hh_l0": torch.zeros(UNITS, dtype=F64),
    }
    model.load_state_dict(values)
    weight = torch.randn(2, UNITS, generator=generator, dtype=F64) / UNITS**0.5
    readout.load_state_dict({"weight": weight, "bias": torch.zeros(2, dtype=F64)})
    return model, readout


def train(model: Model, readout: Readout, updates: int, generator: torch.Generator) -> None:
    """Descend the gradient on stretches of 60 steps, four at a time, scored once both bits are known."""
    optimizer = torch.optim.SGD([*model.parameters(), *readout.parameters()], lr=0.05)
    for _ in range(updates):
        inputs, targets = delayed_sum(4, 60, generator)
        chances = readout(model.rollout(inputs).states).log_softmax(dim=-1)
        optimizer.zero_grad()
        (-(targets * chances)[:, 15:].sum(dim=-1).mean()).backward()
        optimizer.step()


def stream(model: Model, readout: Readout) -> tuple[Flow, torch.Tensor]:
    """Return the flow along the stream and the errors, which begin once both bits are known."""
    inputs, targets = delayed_sum(1, STREAM, torch.Generator().manual_seed(7))
    flow = linearize(model, inputs)
    with torch.no_grad():
        err = (readout(flow.trajectory.states).softmax(dim=-1) - targets) @ readout.weight / STREAM
    err[:, : max(LAGS)] = 0
    return flow, err


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=-1)


def step_cosines(flow: Flow, err: torch.Tensor, rule: LearningRule, chosen: list[int]) -> dict[str, float]:
    """Return mean cosines of a rule's past-facing parts with the exact ones of each facing."""
    P_rule, J = rule.propagator(flow), flow.J
    carried = flow.P.T(err)
    parts: dict[str, list[torch.Tensor]] = {"rule": [], "past": [], "future": []}
    for start in range(0, len(chosen), 10):
        alone, used = (err.new_zeros(10, *err.shape) for _ in range(2))
        for row, step in enumerate(chosen[start : start + 10]):
            alone[row, :, step] = err[:, step]
            used[row, :, step] = carried[:, step]
        parts["rule"].append(J.T(P_rule.T(alone)))
        parts["past"].append(J.T(flow.P.T(alone)))
        parts["future"].append(J.T(used))
    rows = {name: torch.cat(found) for name, found in parts.items()}
    return {name: float(cosine(rows["rule"], rows[name]).mean()) for name in ("past", "future")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rules_on_the_delayed_sum(seed: int) -> None:
    model, readout = network(seed)
    train(model, readout, 200, torch.Generator().manual_seed(100 + seed))
    flow, err = stream(model, readout)
    exact = (flow.J.T @ flow.P.T)(err)

    def summed(name: str, **settings: object) -> float:
        return float(cosine(create_rule(name, **settings).update_operator(flow, readout)(err), exact))

    long, short = (summed("truncated_bptt", window=window) for window in (14, 6))
    rflo = summed("rflo")
    uoro = sum(summed("uoro", seed=draw) for draw in range(8)) / 8
    chosen = torch.linspace(50, STREAM - 50, 100).int().tolist()
    steps = step_cosines(flow, err, create_rule("truncated_bptt", window=14), chosen)
    print(
        f"\nseed {seed}: 14 terms {long:.3f}, 6 terms {short:.3f}, rflo {rflo:.3f}, uoro {uoro:.3f}; {steps}"
    )
    assert long >= 0.99
    assert 0.6 < short < 0.95  # the first bit is just out of reach of six terms
    assert 0.3 < rflo < 0.55
    assert abs(uoro) < 0.8 * rflo
    assert rflo == pytest.approx(summed("truncated_bptt", window=1))  # no leak at alpha = 1
    assert steps["past"] > 0.95
    assert 0.1 < steps["future"] < 0.4  # the same rule, past-facing beside future-facing
