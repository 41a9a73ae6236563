"""What the dataset of a training by rules says, from one seed and from several, against loops written out."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve
from click.testing import CliRunner

from kpframe import Readout, linearize
from kpframe.cli._app import cli
from kpframe.errors import SettingsError
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._report.html import plus_minus
from kpframe.study._report.training import write_training
from kpframe.study._rules.experiment import Experiment
from kpframe.study._rules.seeds import over_seeds
from kpframe.study._rules.train_rules import train_rules
from kpframe.study._running.training import TrainingSettings

F64 = torch.float64
STEPS, SEEDS = 5, (3, 4, 5)
EXPERIMENT = Experiment(
    model="small",
    task="sum",
    training=TrainingSettings(
        steps=STEPS, batch_size=6, optimizer="sgd", learning_rate=0.2, gradient="operators"
    ),
    dtype="float64",
    trials=4,
    budget=12,
    seed=SEEDS[0],
)


@pytest.fixture(scope="module")
def rules(offered: ModuleType):
    return {"exact": offered.Exact(), "window": offered.Window()}


@pytest.fixture(scope="module")
def one(rules) -> xr.Dataset:
    return train_rules(rules, EXPERIMENT)


@pytest.fixture(scope="module")
def several(rules, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    folder = tmp_path_factory.mktemp("several") / "run"
    return train_rules(rules, evolve(EXPERIMENT, seeds=len(SEEDS)), folder), folder


def trained_by_hand(offered: ModuleType, seed: int, window: bool) -> dict[str, object]:
    """Return what gradient descent gives, by autograd; with errors that travel no step back for a window."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, task = offered.Small(2).double(), offered.Sum()
    readout, stream = Readout(model.width, 1, generator=seed, dtype=F64), torch.Generator().manual_seed(seed)
    probe = task.sample(4, generator=seed, split="test", dtype=F64)
    test = task.sample(500, generator=seed + 1, split="test", dtype=F64)
    own, losses = [*model.parameters(), *readout.parameters()], []
    first = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss_of(trials) -> torch.Tensor:
        h, states = torch.zeros(len(trials.inputs), model.width, dtype=F64), []
        for t in range(trials.inputs.shape[1]):
            h = model.step(trials.inputs[:, t], h.detach() if window else h)
            states.append(h)
        return (readout(torch.stack(states, dim=1)) - trials.targets)[:, 1:].square().mean()

    def Phi() -> torch.Tensor:
        flow = linearize(model, probe.inputs)
        G = flow.P.to_dense() @ flow.J.to_dense()
        return G @ G.T

    found: dict[str, object] = {
        "first": first,
        "test_loss_before": float(loss_of(test).detach()),
        "Phi_before": Phi(),
    }
    for _ in range(STEPS):
        loss = loss_of(task.sample(6, generator=stream, dtype=F64))
        gradients = torch.autograd.grad(loss, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= 0.2 * gradient
        losses.append(float(loss.detach()))
    last = {name: p.detach().clone() for name, p in model.named_parameters()}
    return found | {"losses": losses, "last": last, "test_loss": float(loss_of(test).detach()), "Phi": Phi()}


@pytest.fixture(scope="module")
def by_hand(offered: ModuleType):
    return {
        (rule, seed): trained_by_hand(offered, seed, rule == "window")
        for rule in ("exact", "window")
        for seed in SEEDS
    }


def test_figures_of_one_seed(one, by_hand) -> None:
    """Losses at their own update, norms of each parameter, alignments and ranks of dense matrices."""
    made = {rule: by_hand[rule, SEEDS[0]] for rule in ("exact", "window")}
    changes = {
        rule: torch.cat([(m["last"][n] - m["first"][n]).reshape(-1) for n in m["last"]])
        for rule, m in made.items()
    }
    for rule, right in made.items():
        found = one.sel(rule=rule)
        np.testing.assert_allclose(found.training_loss, right["losses"], rtol=1e-9)
        assert min(abs(np.diff(right["losses"]))) > 1e-6
        assert float(one.test_loss_before) == pytest.approx(right["test_loss_before"], rel=1e-10)
        assert float(found.test_loss) == pytest.approx(right["test_loss"], rel=1e-9)
        assert right["test_loss"] < 0.9 * right["test_loss_before"]
        for name in one.parameter.values:
            start, end = right["first"][name], right["last"][name]
            for figure, value in (
                (one.parameter_norm_before, start),
                (found.parameter_norm, end),
                (found.parameter_change, end - start),
            ):
                assert float(figure.sel(parameter=name)) == pytest.approx(float(value.norm()), rel=1e-8)
        for other, matrix in (("first", made["exact"]["Phi"]), ("initial", right["Phi_before"])):
            likeness = float((right["Phi"] * matrix).sum() / right["Phi"].norm() / matrix.norm())
            stderr = float(found[f"alignment_with_{other}_stderr"])
            assert float(found[f"alignment_with_{other}"]) == pytest.approx(likeness, abs=5 * stderr + 1e-9)
            assert (stderr > 1e-6) == ((rule, other) != ("exact", "first"))
        rank, stderr = (found[f"effective_rank{part}"].sel(operator="Phi") for part in ("", "_stderr"))
        dense = float(right["Phi"].trace() ** 2 / right["Phi"].square().sum())
        assert 0 < float(stderr) < 0.2 * dense
        assert float(rank) == pytest.approx(dense, abs=5 * float(stderr))
        assert found.effective_rank_method.values.tolist() == ["participation of op, nystrom"] * 2
        for second, change in changes.items():
            cosine = float(changes[rule] @ change / changes[rule].norm() / change.norm())
            assert float(found.change_cosine.sel(rule_other=second)) == pytest.approx(cosine, rel=1e-9)
    assert float(one.change_cosine.sel(rule="exact", rule_other="window")) < 0.999


@pytest.mark.slow
def test_several_seeds_are_those_of_each_alone(several, rules, one, by_hand) -> None:
    data, folder = several
    assert data.seed.values.tolist() == list(SEEDS)
    alone = [one, *(train_rules(rules, evolve(EXPERIMENT, seed=seed)) for seed in SEEDS[1:])]
    files = ["checkpoint", "checkpoint_by_seed"]
    together = over_seeds(alone, SEEDS).drop_vars(files)
    assert data.attrs["probe_trials"] == "4 test trials"  # what a run says besides
    assert data.attrs.items() > together.attrs.items()
    xr.testing.assert_identical(
        data.drop_vars(files).assign_attrs(together.attrs), together.assign_attrs(data.attrs)
    )
    for rule in rules:
        losses = [by_hand[rule, seed]["test_loss"] for seed in SEEDS]
        found = data.sel(rule=rule)
        np.testing.assert_allclose(found.test_loss_by_seed, losses, rtol=1e-9)
        assert float(found.test_loss) == pytest.approx(np.mean(losses), rel=1e-9)
        student = 4.302653 / 1.959964  # the 97.5% quantile of t with 2 degrees of freedom, of the normal
        assert float(found.test_loss_stderr) == pytest.approx(
            np.std(losses, ddof=1) / 3**0.5 * student, rel=1e-6
        )
    kept = read_dataset(folder / "training.nc")
    xr.testing.assert_identical(kept.drop_attrs(deep=False), data.drop_attrs(deep=False))
    for seed in SEEDS:
        path = folder / "checkpoints" / f"small-window-seed={seed}-{STEPS:06d}.safetensors"
        saved, right = load_checkpoint(path), by_hand["window", seed]["last"]
        assert saved.extra["seed"] == seed
        assert torch.allclose(saved.tensors["model.W"], right["W"], rtol=1e-9)
    names = {path.stem for path in (folder / "checkpoints").glob("*.safetensors")}
    stems = (("exact", 0), ("exact", STEPS), ("window", STEPS))
    assert names == {f"small-{rule}-seed={seed}-{step:06d}" for rule, step in stems for seed in SEEDS}


@pytest.mark.slow
def test_what_there_was_before_ctrl_c_has_the_seeds_before(rules, one, tmp_path: Path) -> None:
    """Stopped in the first rule's training from the second seed: the first seed is whole."""

    def stop(label: str, made: int, total: int, loss: float) -> None:
        assert total == 3 * STEPS
        if made == STEPS + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rules(rules, evolve(EXPERIMENT, seeds=3), tmp_path / "run", stop)
    data = read_dataset(tmp_path / "run" / "training.nc")
    assert data.seed.values.tolist() == list(SEEDS[:2])
    np.testing.assert_array_equal(data.test_loss_by_seed.sel(seed=SEEDS[0]), one.test_loss)
    assert bool(data.test_loss_by_seed.sel(seed=SEEDS[1]).isnull().all())
    assert data.outcome_by_seed.sel(seed=SEEDS[1]).values.tolist() == ["under way", ""]
    assert int(data.training_loss_by_seed.sel(seed=SEEDS[1], rule="exact").notnull().sum()) == 2
    assert (data.test_loss_stderr == np.inf).all()  # of one seed nothing is known
    write_training(data, tmp_path / "page.html")


def text_of(page: Path) -> str:
    html = re.sub(r"<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("&#39;", "'").split())


@pytest.mark.slow
def test_a_page_says_what_its_bars_are(one, several, tmp_path: Path) -> None:
    single = text_of(write_training(one, tmp_path / "one.html"))
    many = text_of(write_training(several[0], tmp_path / "many.html"))
    assert "± and bars are those of the estimates alone" in single
    assert "not say how far other initial weights and other training trials would lead" in single
    assert "kpframe train --seeds 5" in single
    assert "The intervals are those of the estimates, for these networks." in single
    assert "Means over the seeds 3, 4, 5, " in many
    assert "± is the standard error of the mean over the seeds" in many
    assert "The intervals are those of the mean over seeds, by Student's t." in many
    assert "of the estimates alone" not in many
    assert "over the seeds" not in single
    assert "3 of 3" in many
    for page in (single, many):
        assert page.count("participation of op, nystrom participation of op, nystrom") == 2  # Phi, P P*


@pytest.mark.slow
def test_the_command_takes_seeds(offered: ModuleType, tmp_path: Path) -> None:
    arguments = ["train", "--rule", "own_exact", "--model", "small", "--task", "sum", "--steps", "2"]
    arguments += ["--trials", "3", "--budget", "16", "--seeds", "2", "--output", str(tmp_path / "out")]
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    data = read_dataset(tmp_path / "out" / "training.nc")
    assert data.seed.values.tolist() == [0, 1]
    assert data.attrs["title"] == "small trained on sum by 1 learning rule, from 2 seeds"
    assert plus_minus(data.test_loss[0], data.test_loss_stderr[0]) in result.stdout
    assert "own_exact: update 4 of 4" in result.stderr
    assert "Means over the seeds 0, 1, " in text_of(tmp_path / "out" / "training.html")


def test_weights_with_a_seed_of_their_own_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"model_settings: expected no 'seed' with several seeds, .*got 0"
    ):
        evolve(EXPERIMENT, seeds=2, model_settings={"seed": 0})
    assert evolve(EXPERIMENT, model_settings={"seed": 0}).seeds == 1
    with pytest.raises(SettingsError, match=r"seeds: expected .*>= 1, got 0"):
        evolve(EXPERIMENT, seeds=0)
