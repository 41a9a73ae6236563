"""The comparison of rules as a dataset, against dense operators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import LearningRule, Readout, create_model, create_rule, create_task, linearize, wrap
from kpframe.cli._compare import show
from kpframe.errors import ArgumentError, CheckpointError, NotLinearError, UnsupportedError
from kpframe.rules._comparison import FACINGS
from kpframe.rules._parse import parse_rule
from kpframe.study._disk.results import read_dataset, write_dataset
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.study._report.comparison import write_comparison
from kpframe.study._rules.compare import compare_rules
from kpframe.study._rules.compare_source import compare_source
from kpframe.tasks._error import error

F64 = torch.float64
B, T, H = 3, 6, 5
TASK = {"fixation": 1, "stimulus": 2, "memory": 1, "response": 2, "grace": 0}
TEXTS = ("bptt", "truncated_bptt(window=2)", 'frozen(parameters=["bias*"]) @ bptt')
RULES = {text: parse_rule(text) for text in TEXTS}


class Bent(LearningRule):
    linear = False

    def change(self, update):
        return update


def network(seed: int = 0) -> tuple[torch.nn.Module, Readout]:
    task = create_task("memory_pro", **TASK)
    model = create_model("rnn", input_size=task.input_size, hidden_size=H, gain=1.3, seed=seed).to(F64)
    return model, Readout(H, task.output_size, generator=seed, dtype=F64)


@pytest.fixture(scope="module")
def compared() -> tuple[xr.Dataset, object, torch.Tensor, Readout]:
    model, readout = network()
    task = create_task("memory_pro", **TASK)
    trials = task.sample(B, generator=1, dtype=F64)
    data = compare_rules(model, readout, trials, task.loss, RULES, budget=400, values=4)
    flow = linearize(model, trials.inputs, mask=trials.mask)
    return data, flow, error(readout, flow.trajectory.states, trials, task.loss), readout


def test_dimensions_are_named(compared) -> None:
    data = compared[0]
    assert dict(data.sizes) == {
        "rule": 3,
        "rule_other": 3,
        "parameter": 4,
        "time": T,
        "time_used": T,
        "lag": T,
        "facing": 4,
        "k": 4,
    }
    assert data.rule.values.tolist() == data.rule_other.values.tolist() == list(TEXTS)
    assert data.facing.values.tolist() == list(FACINGS)
    assert data.loss_rate_by_pair.dims == ("rule", "time", "time_used")
    assert data.cosine_by_time.dims == ("rule", "facing", "time")
    assert data.formula.values.tolist()[:2] == ["P K P*", "P K P_2*"]
    for name, values in data.data_vars.items():
        assert values.attrs["units"] == "1", name
        assert values.attrs["long_name"], name


def test_backpropagation_is_like_itself(compared) -> None:
    one = compared[0].sel(rule="bptt")
    for name in ("update_cosine", "norm_ratio", "descent", "flow_alignment"):
        assert float(one[name]) == pytest.approx(1, rel=1e-10), name
    assert float(one.metric_condition) == pytest.approx(1, abs=1e-6)
    assert float(one.propagator_error) == 0
    assert float(one.symmetric_smallest) >= -1e-9 * float(one.symmetric_largest)
    assert float(one.symmetric_largest) == pytest.approx(float(one.singular_value[0]), rel=1e-2)
    short = compared[0].sel(rule=TEXTS[1])  # the partner: another rule is not
    for name in ("update_cosine", "norm_ratio", "descent", "flow_alignment"):
        assert float(short[name]) < 0.99, name
    assert float(short.propagator_error) > 0.1
    assert float(short.symmetric_smallest) < -1e-3 * float(short.symmetric_largest)
    still = compared[0].sel(rule=TEXTS[2])  # frozen parameters leave P as it is
    assert float(still.propagator_error) == 0
    assert float(still.update_cosine) < 0.999


@pytest.mark.parametrize("text", TEXTS)
def test_values_against_dense_operators(compared, text) -> None:
    data, flow, err, readout = compared
    one, rule = data.sel(rule=text), RULES[text]
    Phi, ours = flow.Phi.to_dense(), rule.flow_operator(flow, readout).to_dense()
    P, P_rule = flow.P.to_dense(), rule.propagator(flow, readout).to_dense()
    likeness = float((Phi * ours).sum() / Phi.norm() / ours.norm())
    assert float(one.flow_alignment) == pytest.approx(
        likeness, abs=4 * float(one.flow_alignment_stderr) + 1e-9
    )
    S = torch.linalg.svdvals(ours)
    assert np.allclose(one.singular_value, S[:4], rtol=1e-2)
    gram = S**2  # the eigenvalues of F F*, of every rule
    rank = float(gram.sum() ** 2 / (gram**2).sum())
    assert float(one.effective_rank) == pytest.approx(rank, abs=4 * float(one.effective_rank_stderr) + 1e-6)
    ends = torch.linalg.eigvalsh((ours + ours.mT) / 2)
    assert float(one.symmetric_largest) == pytest.approx(float(ends[-1]), rel=1e-2)
    assert float(one.symmetric_smallest) == pytest.approx(float(ends[0]), abs=1e-2 * float(ends[-1]))
    apart = torch.linalg.matrix_norm(P - P_rule, 2) / torch.linalg.matrix_norm(P, 2)
    assert float(one.propagator_error) == pytest.approx(float(apart), rel=1e-2, abs=1e-12)
    g = (flow.J.T @ flow.P.T)(err)
    for other in TEXTS:
        v, w = (RULES[name].update_operator(flow, readout)(err) for name in (text, other))
        assert float(one.rule_cosine.sel(rule_other=other)) == pytest.approx(
            float(v @ w / v.norm() / w.norm())
        )
    v = rule.update_operator(flow, readout)(err)
    assert float(one.loss_rate) == pytest.approx(-float(v @ g))
    for parts in ("parameter", "lag"):
        assert float(one[f"loss_rate_by_{parts}"].sum()) == pytest.approx(-float(v @ g)), parts
    assert float(one.loss_rate_by_pair.sum()) == pytest.approx(-float(v @ g))


def test_what_a_rule_leaves_out_is_zero(compared) -> None:
    data = compared[0]
    assert bool((data.loss_rate_by_lag.sel(rule=TEXTS[1])[2:] == 0).all())
    assert bool((data.loss_rate_by_lag.sel(rule="bptt")[2:] != 0).all())
    biases = [name for name in data.parameter.values if "bias" in name]
    assert bool((data.loss_rate_by_parameter.sel(rule=TEXTS[2], parameter=biases) == 0).all())
    assert bool((data.loss_rate_by_parameter.sel(rule="bptt", parameter=biases) < 0).all())


@pytest.mark.slow
def test_seeds(compared) -> None:
    model, readout = network()
    task = create_task("memory_pro", **TASK)
    trials = task.sample(B, generator=1, dtype=F64)

    def made(seed: int) -> xr.Dataset:
        return compare_rules(model, readout, trials, task.loss, RULES, budget=20, values=2, seed=seed)

    first = made(0)
    xr.testing.assert_identical(first, made(0))
    other = made(1)
    assert not bool((other.effective_rank == first.effective_rank).all())
    xr.testing.assert_equal(other.update_cosine, first.update_cosine)


def test_refusals() -> None:
    model, readout = network()
    task = create_task("memory_pro", **TASK)
    trials = task.sample(B, generator=1, dtype=F64)
    with pytest.raises(ArgumentError, match="rules: expected at least one learning rule, got none"):
        compare_rules(model, readout, trials, task.loss, {})
    with pytest.raises(NotLinearError, match="is not linear in the error, so it has no operator"):
        compare_rules(model, readout, trials, task.loss, {"bent": Bent()})
    cell = wrap(torch.nn.RNNCell(task.input_size, H)).double()
    with pytest.raises(UnsupportedError, match=r"rflo needs .* snap1"):
        compare_rules(cell, readout, trials, task.loss, {"rflo": parse_rule("rflo")})


def saved(folder: Path, *, step: int = 0, readout: bool = True, named: bool = True, **extra: object) -> Path:
    """Write a checkpoint of a network as a run does."""
    model, heads = network(step)
    task = {"task": {"name": "memory_pro", "settings": TASK}} if named else {}
    folder.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(
        folder / f"RNN-{step:06d}.safetensors",
        model,
        heads if readout else None,
        name="rnn",
        settings={"input_size": model.input_size, "hidden_size": H},
        step=step,
        extra=task | extra,
    )


def test_a_checkpoint_and_a_folder(tmp_path: Path) -> None:
    paths = [saved(tmp_path / "run" / "checkpoints", step=step) for step in (0, 30)]
    seen: list[tuple[str, int, int]] = []
    told = lambda *said: seen.append(said)  # noqa: E731
    rules = {text: RULES[text] for text in TEXTS[:2]}
    data = compare_source(tmp_path / "run", rules, trials=B, budget=20, seed=1, report=told)
    assert data.checkpoint.values.tolist() == ["RNN-000000", "RNN-000030"]
    places = [(f"RNN-{step:06d}", label) for step in (0, 30) for label in rules]
    expected = [(f"comparing on {name}: {label}", at, len(places)) for at, (name, label) in enumerate(places)]
    assert seen == expected
    assert data.step.values.tolist() == [0, 30]
    assert data.model.values.tolist() == ["rnn", "rnn"]
    alone = compare_source(paths[0], rules, trials=B, budget=20, seed=1)
    assert alone.sizes["checkpoint"] == 1
    xr.testing.assert_allclose(alone.drop_vars("source"), data.isel(checkpoint=[0]).drop_vars("source"))
    short = data.update_cosine.sel(rule=TEXTS[1])
    assert float(short[0]) != pytest.approx(float(short[1]), rel=1e-3)
    model, readout = network()
    task = create_task("memory_pro", **TASK)
    trials = task.sample(B, generator=1, split="test", dtype=F64)
    direct = compare_rules(model, readout, trials, task.loss, rules, budget=20, seed=1)
    xr.testing.assert_allclose(
        data.isel(checkpoint=0, drop=True).reset_coords(drop=True).drop_vars("failure"),
        direct.reset_coords(drop=True),
    )


def test_a_readout_of_a_component(tmp_path: Path) -> None:
    """An LSTM is read by its output; the cell's part of the error is zero."""
    task = create_task("memory_pro", **TASK)
    settings = {"input_size": task.input_size, "hidden_size": 4, "seed": 0}
    model = create_model("lstm", **settings).to(F64)
    hidden = model.component_slice("h")
    readout = Readout(model.width, task.output_size, hidden=hidden, generator=0, dtype=F64)
    extra = {
        "task": {"name": "memory_pro", "settings": TASK},
        "reads": [hidden.start, hidden.stop],
    }
    path = tmp_path / "lstm.safetensors"
    save_checkpoint(path, model, readout, name="lstm", settings=settings, extra=extra)
    data = compare_source(path, RULES, trials=B, budget=20)
    assert data.update_cosine.sel(rule="bptt").item() == pytest.approx(1)
    assert data.update_cosine.sel(rule=TEXTS[1]).item() < 0.999


def test_sources_that_cannot_be_compared(tmp_path: Path) -> None:
    for path, state in ((tmp_path, "holds none"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(
            CheckpointError, match=rf"source: expected a checkpoint .* folder.*, which {state}"
        ):
            compare_source(path, RULES)
    with pytest.raises(CheckpointError, match="holds no readout, through which the error comes"):
        compare_source(saved(tmp_path / "a", readout=False), RULES)
    nameless = saved(tmp_path / "b", named=False)
    with pytest.raises(ArgumentError, match=r"task: expected a task, as .* names none, got none"):
        compare_source(nameless, RULES)
    data = compare_source(nameless, RULES, task=create_task("memory_pro", **TASK), trials=B, budget=20)
    assert data.update_cosine.sel(rule="bptt").item() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 12])
def test_files(tmp_path: Path, count: int) -> None:
    """The numbers come back from the file; the page has every rule, however long its name."""
    texts = [f'frozen(parameters=["bias*"]) @ truncated_bptt(window={k})' for k in range(1, count + 1)]
    rules = {text: parse_rule(text) for text in texts}
    data = compare_source(saved(tmp_path / "checkpoints"), rules, trials=B, budget=20)
    data.attrs = {"title": "A & B", "versions": json.dumps({"torch": torch.__version__})}
    xr.testing.assert_identical(read_dataset(write_dataset(data, tmp_path / "c.nc")), data)
    page = write_comparison(data, tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "<title>A &amp; B</title>" in page
    for text in texts:
        assert text.replace('"', "&#34;") in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.nc", "checkpoints"]


@pytest.mark.slow
def test_a_page_shows_four_checkpoints_at_most(tmp_path: Path) -> None:
    for step in range(6):
        saved(tmp_path / "checkpoints", step=step)
    rules = {"bptt": RULES["bptt"]}
    data = compare_source(tmp_path, rules, trials=2, budget=16)
    page = write_comparison(data, tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 * 5
    assert page.count("<h3>") == 6 + 1  # and how the estimates were made
    for step in (0, 5):
        assert f"<h2>RNN-{step:06d}: Spectra</h2>" in page


@pytest.mark.usefixtures("undrawn")
def test_figures_that_a_rule_does_not_have_are_told_as_none(capsys, tmp_path) -> None:
    """Feedback of more outputs than units is no operator on states, so its flow has no figures."""
    task = create_task("digits")
    model = create_model("rnn", input_size=task.input_size, hidden_size=H, seed=1).to(F64)
    readout = Readout(H, task.output_size, generator=2, dtype=F64)
    trials = task.sample(B, generator=5, dtype=F64)
    names = {"bptt": "bptt", "fa": "feedback_alignment", "eprop": "eprop"}
    rules = {label: create_rule(name) for label, name in names.items()}
    data = compare_rules(model, readout, trials, task.loss, rules, budget=20, values=3)
    assert np.isnan(float(data.effective_rank.sel(rule="fa")))
    assert np.isfinite(float(data.effective_rank.sel(rule="eprop")))
    whole = xr.concat([data], dim=xr.Variable("checkpoint", ["now"]), coords="all")
    whole = whole.assign_coords(step=("checkpoint", [0]), model=("checkpoint", ["rnn"]))
    show(whole)
    table = capsys.readouterr().out
    assert table.count("none") == 3
    assert "nan" not in table
    page = write_comparison(whole, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count(">none<") == 3 + 4  # figures, and the methods by which they were found
    assert ">nan" not in page
