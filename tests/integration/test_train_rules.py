"""Training one network by several rules: against autograd, by seed, and with a rule that diverges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve

from kpframe import LearningRule, StochasticRule, create_rule, create_task, effective_rank, linearize
from kpframe.errors import ArgumentError, NonFiniteProductError, UnsupportedError
from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset, write_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._report.training import failed_rules, write_training
from kpframe.study._rules.experiment import Experiment
from kpframe.study._rules.train_rules import train_rules
from kpframe.study._running.build import network_of
from kpframe.study._running.training import Trainer, TrainingSettings, redrawn

TASK = {"fixation": 1, "stimulus": 2, "memory": 2, "response": 2, "grace": 0}
EXPERIMENT = Experiment(
    model="rnn",
    task="memory_pro",
    training=TrainingSettings(steps=12, batch_size=5, learning_rate=0.02, gradient="operators"),
    model_settings={"hidden_size": 6, "gain": 1.2},
    task_settings=TASK,
    dtype="float64",
    trials=3,
    budget=140,
)


class Exploding(LearningRule):
    """Exact but for one update that is not finite."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def change(self, update):
        return update

    def apply_gradient(self, model, flow, err, readout=None) -> None:
        super().apply_gradient(model, flow, err, readout)
        self.calls += 1
        if self.calls == self.after:
            next(iter(model.trainable().values())).grad.fill_(torch.nan)  # type: ignore[union-attr]


class Signs(StochasticRule):
    """Uphill or downhill, at random."""

    def change(self, update):
        sign = 1.0 if int(torch.randint(2, (), generator=self.generator())) else -1.0
        return update.replace(P=sign * update.P)


RULES = {"bptt": create_rule("bptt"), "short": create_rule("truncated_bptt", window=1)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return train_rules(RULES, EXPERIMENT, folder), folder


def network_file(folder: Path, rule: str) -> Path:
    """Return where a network is after training, or the initial one: in the files of the first rule."""
    stem = "rnn-bptt-000000" if rule == "initial" else f"rnn-{rule}-000012"
    return folder / "checkpoints" / f"{stem}.safetensors"


def networks_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").iterdir())


def by_autograd(experiment: Experiment) -> tuple[np.ndarray, Trainer]:
    task = create_task(experiment.task, **experiment.task_settings)
    model, readout = network_of(experiment.cells(["bptt"])[0]["bptt"], task)
    settings = evolve(experiment.training, gradient="autograd")
    made = Trainer(model, readout, task, settings, seed=experiment.seed)
    return np.array([progress.loss for progress in made.run()]), made


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.rows(4)
def test_backpropagation_is_training_by_autograd(tmp_path: Path, optimizer: str) -> None:
    training = evolve(EXPERIMENT.training, optimizer=optimizer)
    experiment = evolve(EXPERIMENT, training=training, budget=16)
    data = train_rules(RULES, experiment, tmp_path)
    losses, made = by_autograd(experiment)
    np.testing.assert_allclose(data.training_loss.sel(rule="bptt"), losses, rtol=1e-10)
    apart = np.abs(data.training_loss.sel(rule="short").values / losses - 1)
    assert apart[0] < 1e-12  # the same network on the same trials, until the first update
    assert apart.max() > 1e-4
    for name, value in made.model.state_dict().items():
        one, other = (
            load_checkpoint(network_file(tmp_path, rule)).tensors[f"model.{name}"]
            for rule in ("bptt", "short")
        )
        assert torch.allclose(one, value, rtol=1e-10, atol=1e-12), name
        assert not torch.allclose(other, value, rtol=1e-4), name


def test_figures_are_those_of_the_checkpoints(trained) -> None:
    data, folder = trained
    assert dict(data.sizes) == {"rule": 2, "update": 12, "operator": 2, "parameter": 4, "rule_other": 2}
    task = create_task("memory_pro", **TASK)
    probe = task.sample(3, generator=0, split="test", dtype=torch.float64)
    networks = {
        name: load_checkpoint(network_file(folder, name)).build_model()
        for name in ("initial", "bptt", "short")
    }
    Phi = {name: linearize(model, probe.inputs).Phi.to_dense() for name, model in networks.items()}
    for rule in RULES:
        one = data.sel(rule=rule)
        rank = float(Phi[rule].trace() ** 2 / Phi[rule].norm() ** 2)
        spread = 4 * float(one.effective_rank_stderr.sel(operator="Phi")) + 1e-8
        assert float(one.effective_rank.sel(operator="Phi")) == pytest.approx(rank, abs=spread)
        for name, other in (("first", "bptt"), ("initial", "initial")):
            likeness = float((Phi[rule] * Phi[other]).sum() / Phi[rule].norm() / Phi[other].norm())
            spread = 4 * float(one[f"alignment_with_{name}_stderr"]) + 1e-8
            assert float(one[f"alignment_with_{name}"]) == pytest.approx(likeness, abs=spread)
        for name in data.parameter.values:
            moved = networks[rule].get_parameter(name) - networks["initial"].get_parameter(name)
            assert float(one.parameter_change.sel(parameter=name)) == pytest.approx(
                float(moved.detach().norm())
            )
    first = data.sel(rule="bptt")  # with itself
    assert (float(first.alignment_with_first), float(first.alignment_with_first_stderr)) == (1, 0)
    assert float(data.alignment_with_first.sel(rule="short")) < 0.9999
    assert data.change_cosine.values.diagonal() == pytest.approx([1, 1])
    assert float(data.change_cosine[0, 1]) < 0.99
    assert bool((data.test_loss < data.test_loss_before).all())
    _, made = by_autograd(EXPERIMENT)
    test = task.sample(500, generator=1, split="test", dtype=torch.float64)
    loss, accuracy = made.evaluate(test)
    assert float(data.test_loss.sel(rule="bptt")) == pytest.approx(loss, rel=1e-9)
    assert float(data.test_r2.sel(rule="bptt")) == pytest.approx(accuracy, rel=1e-9)
    assert float(data.test_loss.sel(rule="short")) != pytest.approx(loss, rel=1e-6)
    assert bool(data.diverged_at.isnull().all())


@pytest.mark.slow
def test_the_seed_decides(trained) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    again = train_rules(RULES, EXPERIMENT)
    assert torch.equal(torch.random.get_rng_state(), before)
    xr.testing.assert_identical(again, trained[0])
    other = train_rules(RULES, evolve(EXPERIMENT, seed=1))
    assert not bool((other.training_loss == again.training_loss).any())


@pytest.mark.slow
def test_a_stochastic_rule_draws_anew() -> None:
    rule = Signs(seed=4)
    generator = torch.Generator().manual_seed(0)
    seeds = [redrawn(rule, generator).seed for _ in range(3)]  # type: ignore[attr-defined]
    assert len({*seeds, 4}) == 4
    composed = redrawn(RULES["short"] @ rule, generator)
    assert repr(composed.outer) == repr(RULES["short"])  # type: ignore[attr-defined]
    assert composed.inner.seed not in (*seeds, 4)  # type: ignore[attr-defined]
    assert redrawn(RULES["short"], generator) is RULES["short"]
    data = train_rules({"signs": rule, "bptt": RULES["bptt"]}, evolve(EXPERIMENT, budget=16))
    apart = (data.training_loss.sel(rule="signs") - data.training_loss.sel(rule="bptt")).values
    assert np.abs(apart[0]) < 1e-12
    assert np.abs(apart).max() > 1e-3


@pytest.mark.slow
def test_a_rule_that_diverges_leaves_the_others(tmp_path: Path) -> None:
    rules = {"bptt": RULES["bptt"], "nan": Exploding(4), "short": RULES["short"]}
    data = train_rules(rules, EXPERIMENT, tmp_path)
    assert data.diverged_at.values.tolist() == pytest.approx([np.nan, 5, np.nan], nan_ok=True)
    gone = data.sel(rule="nan")
    assert np.isfinite(gone.training_loss).values.tolist() == [True] * 4 + [False] * 8
    for name in ("test_loss", "test_r2", "alignment_with_first", "effective_rank", "parameter_change"):
        assert bool(gone[name].isnull().all()), name
        assert bool(data[name].sel(rule="short").notnull().all()), name
    alone = train_rules(RULES, EXPERIMENT)
    xr.testing.assert_allclose(alone.training_loss, data.training_loss.sel(rule=["bptt", "short"]))
    assert networks_in(tmp_path) == ["rnn-bptt-000000", "rnn-bptt-000012", "rnn-short-000012"]
    xr.testing.assert_identical(read_dataset(write_dataset(data, tmp_path / "t.nc")), data)
    page = write_training(data, tmp_path / "t.html").read_text(encoding="utf-8")
    assert "Diverged, at the crosses: nan." in page
    assert "update 5" in page
    first = train_rules({"nan": Exploding(1), "bptt": RULES["bptt"]}, EXPERIMENT)
    assert first.diverged_at.values.tolist() == pytest.approx([2, np.nan], nan_ok=True)
    assert bool(first.alignment_with_first.isnull().all())
    write_training(first, tmp_path / "u.html")


def test_rules_that_cannot_be_used_are_known_before(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="rules: expected at least one learning rule, got none"):
        train_rules({}, EXPERIMENT)
    experiment = evolve(EXPERIMENT, model="gru", model_settings={"hidden_size": 4})
    seen: list[str] = []
    with pytest.raises(UnsupportedError, match=r"rflo needs"):
        train_rules(
            {"bptt": RULES["bptt"], "rflo": create_rule("rflo")},
            experiment,
            tmp_path,
            lambda label, *_: seen.append(label),
        )
    assert seen == []
    assert list(tmp_path.iterdir()) == []


# -- rules that raise ----------------------------------------------------------------------------------------


class Raising(Exploding):
    """Exact but for one update that raises an error."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__(after)
        self.error = error

    def apply_gradient(self, model, flow, err, readout=None) -> None:
        LearningRule.apply_gradient(self, model, flow, err, readout)
        self.calls += 1
        if self.calls == self.after:
            raise self.error


ERRORS = {
    "library": np.linalg.LinAlgError("SVD did not\nconverge"),
    "own": ArgumentError("metric: expected one that is positive, got another"),
    "product": NonFiniteProductError("product of P: expected finite numbers, got inf"),
    "wrapped": RuntimeError(),
}


@pytest.fixture(scope="module")
def alone() -> xr.Dataset:
    return train_rules(RULES, evolve(EXPERIMENT, budget=16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.rows(10)
def test_a_rule_that_raises_costs_its_own_curve(tmp_path: Path, alone: xr.Dataset, kind: str) -> None:
    error = ERRORS[kind]
    rules = {"bptt": RULES["bptt"], "bad": Raising(3, error), "short": RULES["short"]}
    experiment = evolve(EXPERIMENT, budget=16)
    returned = train_rules(rules, experiment, tmp_path)
    data = read_dataset(tmp_path / "training.nc")
    xr.testing.assert_equal(data, returned)
    assert data.outcome.values.tolist() == ["trained", "failed", "trained"]
    bad = data.sel(rule="bad")
    assert float(bad.failed_at) == 3
    assert np.isnan(bad.diverged_at)  # loss and states were finite
    assert bad.reason.item() == f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    assert np.isfinite(bad.training_loss).values.tolist() == [True] * 2 + [False] * 10
    for name in ("training_loss", "test_loss", "effective_rank", "alignment_with_first", "parameter_change"):
        assert bool(np.isnan(bad[name].values[..., -1:] if bad[name].ndim else bad[name]).all()), name
        xr.testing.assert_equal(alone[name], data[name].sel(rule=["bptt", "short"]))
    assert data.checkpoint.values.tolist() == ["rnn-bptt-000012", "", "rnn-short-000012"]
    assert networks_in(tmp_path) == ["rnn-bptt-000000", "rnn-bptt-000012", "rnn-short-000012"]
    assert failed_rules(data) == [f"bad, at update 3 ({bad.reason.item()})"]
    if kind == "own":
        page = write_training(data, tmp_path / "training.html").read_text(encoding="utf-8")
        assert f"Failed: bad, at update 3 ({bad.reason.item()})" in page


def test_what_cannot_be_measured_after_training_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is trained, and kept; the estimate is NaN, with the reason, and nothing has diverged."""
    seen = []

    def refuse(operator, **options):
        seen.append(operator)
        if len(seen) == 4:  # two of the network before training, two of the first rule's
            raise NonFiniteProductError("product of P P*: expected finite numbers, got inf")
        return effective_rank(operator, **options)

    monkeypatch.setattr("kpframe.study._rules.train_rules.effective_rank", refuse)
    data = train_rules(RULES, evolve(EXPERIMENT, budget=16))
    assert data.outcome.values.tolist() == ["failed", "trained"]
    assert data.failed_at.values.tolist() == pytest.approx([13, np.nan], nan_ok=True)
    assert bool(data.diverged_at.isnull().all())
    assert data.effective_rank.isnull().values.tolist() == [[False, True], [False, False]]
    assert bool(data.test_loss.notnull().all())
    assert failed_rules(data) == [f"bptt, after the last update ({data.reason[0].item()})"]
    assert data.reason[0].item().startswith("effective rank of P P*: NonFiniteProductError: product of P P*")


@pytest.mark.slow
def test_a_rule_that_diverges_in_its_last_update() -> None:
    """Its losses are all finite; the update at which they would no longer be is one more than there are."""
    experiment = evolve(EXPERIMENT, budget=16)
    data = train_rules({"late": Exploding(12), "bptt": RULES["bptt"]}, experiment)
    assert data.diverged_at.values.tolist() == pytest.approx([13, np.nan], nan_ok=True)
    assert data.outcome.values.tolist() == ["diverged", "trained"]
    assert bool(data.training_loss.notnull().all())
    assert bool(data.test_loss.sel(rule="late").isnull())


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_ended(tmp_path: Path, alone: xr.Dataset) -> None:
    """Ctrl-C in the second rule's training leaves what there is; the same again ends in the same figures."""
    experiment, output = evolve(EXPERIMENT, budget=16), tmp_path / "run"
    seen: list[tuple[str, int]] = []

    def stop(label: str, made: int, steps: int, loss: float) -> None:
        seen.append((label, made))
        if len(seen) == 12 + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rules(RULES, experiment, output, stop)
    data = read_dataset(output / "training.nc")
    assert data.outcome.values.tolist() == ["trained", "under way"]
    assert np.isfinite(data.training_loss).sum("update").values.tolist() == [12, 4]
    xr.testing.assert_equal(data.test_loss.sel(rule="bptt"), alone.test_loss.sel(rule="bptt"))
    assert read_record(output)["state"] == "interrupted"
    assert load_checkpoint(network_file(output, "bptt")).step == 12
    again = train_rules(RULES, experiment, output, stop)
    assert seen[16:] == [("short", made) for made in range(5, 13)]
    xr.testing.assert_identical(again.drop_attrs(), alone.drop_attrs())
    assert read_record(output)["state"] == "finished"


@pytest.mark.rows(10)
@pytest.mark.parametrize("gone", ["after.nc", "before.nc", "000012.nc", "000012.safetensors"])
@pytest.mark.slow
def test_files_that_are_lost_are_made_anew(tmp_path: Path, alone: xr.Dataset, gone: str) -> None:
    """Of a run that was killed: figures from checkpoints, and those by training once more."""
    experiment, output = evolve(EXPERIMENT, budget=16), tmp_path / "run"
    train_rules(RULES, experiment, output)
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"state": "running"}))
    paths = list(output.rglob(f"rnn-*-{gone}"))
    assert paths
    for path in paths:
        path.write_bytes(path.read_bytes()[:100])
    seen: list[str] = []
    again = train_rules(
        RULES, experiment, output, lambda label, *_: seen.append(label), tell=lambda line: None
    )
    assert len(seen) == (24 if gone.endswith("safetensors") else 0)
    xr.testing.assert_identical(again.drop_attrs(), alone.drop_attrs())
