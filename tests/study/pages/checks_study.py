"""What studies must put into their datasets and files, on a network of three units, against matrices."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import frozen

from kpframe import LearningRule, Readout, linearize, wrap
from kpframe.plugin import ModelSpec, RuleSpec, TaskSpec, hookimpl, temporary
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._rules.experiment import Experiment
from kpframe.study._running.training import Trainer, TrainingSettings
from kpframe.tasks._error import accuracy, output_error, task_loss
from kpframe.tasks._task import Task, Trials

F64 = torch.float64
B, T, I, H, O = 3, 4, 2, 3, 2  # noqa: E741
UPDATES = 5


class Sums(Task):
    """The running sums of the inputs, or which of them is larger."""

    def __init__(self, loss: str = "mse") -> None:
        super().__init__(input_size=I, output_size=O, loss=loss)  # type: ignore[arg-type]

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        inputs = torch.randn(batch_size, T, I, generator=generator, dtype=F64)
        sums = inputs.cumsum(1)
        targets = sums if self.loss == "mse" else sums.argmax(-1)
        everywhere = torch.ones(batch_size, T, dtype=torch.bool)
        label = np.arange(batch_size)[::-1].copy()
        return Trials(
            inputs, targets, everywhere, everywhere, np.full((batch_size, T), "all"), {"label": label}
        )


class Window(LearningRule):
    """Errors reach so many steps back."""

    def __init__(self, window: int = 1) -> None:
        self.window = window

    def change(self, update):
        return update.replace(P=update.propagator.truncated(self.window))


class Exact(LearningRule):
    def change(self, update):
        return update


class Exploding(Exact):
    """Its third update is not finite."""

    calls = 0

    def apply_gradient(self, model, flow, err=None, readout=None, **output) -> None:
        super().apply_gradient(model, flow, err, readout, **output)
        self.calls += 1
        if self.calls == 3:
            next(iter(model.trainable().values())).grad.fill_(torch.nan)


@frozen
class Sizes:
    input_size: int
    hidden_size: int = H


def cell(input_size: int, hidden_size: int) -> torch.nn.Module:
    """Return a cell whose weights are those of torch's own stream."""
    made = torch.nn.RNNCell(input_size, hidden_size)
    with torch.no_grad():
        made.weight_hh.mul_(2)
    return wrap(made)


@frozen
class Loss:
    loss: str = "mse"


class Offers:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("tiny", "kpf_tiny:cell", settings=Sizes)

    @hookimpl
    def kpframe_rules(self):
        yield RuleSpec("short", "kpf_tiny:Window")

    @hookimpl
    def kpframe_tasks(self):
        yield TaskSpec("sums", "kpf_tiny:Sums", settings=Loss)


@contextmanager
def offered() -> Iterator[None]:
    """Offer the network, the rule and the task by name."""
    module = types.ModuleType("kpf_tiny")
    module.__dict__.update(cell=cell, Window=Window, Sums=Sums)
    with pytest.MonkeyPatch.context() as patch, temporary(Offers()):
        patch.setitem(sys.modules, "kpf_tiny", module)
        yield


def network(seed: int = 0) -> tuple[Any, Readout]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cell(I, H).double(), Readout(H, O, generator=seed, dtype=F64)


def study(name: str) -> types.ModuleType:
    return import_module(f"kpframe.study.{name}")


def rank(matrix: torch.Tensor) -> float:
    return float(matrix.trace() ** 2 / matrix.square().sum())


def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


def measured(
    model, readout, probe: Trials, test: Trials, task: Task, rules: dict[str, Any], budget: int
) -> xr.Dataset:
    """Return what the quantities of a study say of a network."""
    moments = study("_moment")
    probes = {"test": moments.Probe.of(probe)}
    around = moments.Surroundings(probes, loss=task.loss, test=test, rules=rules, budget=budget)
    names = ("scores", "effective_rank", "trace", "spectrum", "time_kernel", "trial_kernel", "rules")
    quantities = {
        name: study("_quantity").create_quantity(name, **({"k": 2} if name == "spectrum" else {}))
        for name in names
    }
    data = study("_record").record(moments.Moment(model, readout, around), quantities)
    assert data.quantity_failure.values.tolist() == [""] * len(names)
    return data


def check_measure() -> None:
    """Ranks, traces, spectra and kernels are those of the dense operators; figures of rules, too."""
    (model, readout), task = network(), Sums()
    probe, test = (task.sample(B, generator=seed, dtype=F64) for seed in (1, 2))
    rules = {"one": Window(1), "two": Window(2)}
    data = measured(model, readout, probe, test, task, rules, 400)
    flow = linearize(model, probe.inputs)
    P, J = flow.P.to_dense(), flow.J.to_dense()
    dense = {"P P*": P @ P.T, "K": J @ J.T, "Phi": P @ J @ J.T @ P.T}
    assert data.operator.values.tolist() == list(dense)
    for name, matrix in dense.items():
        one = data.sel(operator=name)
        assert float(one.effective_rank) == pytest.approx(rank(matrix), rel=1e-9)
        assert float(one["trace"]) == pytest.approx(float(matrix.trace()), rel=1e-9)
        assert (float(one.effective_rank_stderr), float(one.trace_stderr)) == (0, 0)
        top = torch.linalg.eigvalsh(matrix).flip(0)[:2]
        np.testing.assert_allclose(one.singular_value, top, rtol=1e-6)
        whole = matrix.reshape(B, T, H, B, T, H)
        time_kernel = torch.einsum("athbsh->ts", whole) / B**2  # a mean over trials on both sides
        trial_kernel = torch.einsum("athbsh->ab", whole) / T**2
        np.testing.assert_allclose(one.time_kernel, time_kernel, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.trial_kernel, trial_kernel, rtol=1e-9, atol=1e-12)
        time_kernel = time_kernel.numpy()
        values = np.linalg.eigvalsh(time_kernel)[::-1]
        np.testing.assert_allclose(one.time_explained, values / values.sum(), rtol=1e-6, atol=1e-12)
        for value, function in zip(values, one.time_eigenfunction.values, strict=True):
            np.testing.assert_allclose(time_kernel @ function, float(value) * function, atol=1e-9)
            assert function[np.abs(function).argmax()] > 0
    assert int(data.state_dimension) == B * T * H
    assert data.k.values.tolist() == [1, 2]
    assert data.time.values.tolist() == list(range(T))
    check_rules_of(data, flow, readout, probe, rules)
    check_scores(data, model, readout, test, task)


def check_rules_of(data: xr.Dataset, flow, readout, probe: Trials, rules: dict[str, Window]) -> None:
    P, J = flow.P.to_dense(), flow.J.to_dense()
    output_err = output_error(readout(flow.trajectory.states.detach()).detach(), probe, "mse")
    err = (output_err @ readout.weight.detach()).reshape(-1)
    exact = J.T @ P.T @ err
    for label, rule in rules.items():
        one, P_rule = data.sel(rule=label), rule.propagator(flow).to_dense()
        update = J.T @ P_rule.T @ err
        ratio = float(update @ exact / exact.square().sum())
        assert float(one.gradient_cosine) == pytest.approx(likeness(update, exact), rel=1e-9)
        assert float(one.loss_rate_ratio) == pytest.approx(ratio, rel=1e-9)
        Phi, ours = P @ J @ J.T @ P.T, P @ J @ J.T @ P_rule.T
        assert float(one.flow_alignment) == pytest.approx(likeness(ours, Phi), rel=1e-9)
        assert float(one.flow_alignment_stderr) == 0
        assert one.formula.item() == f"P K P_{rule.window}*"


def check_scores(data: xr.Dataset, model, readout, test: Trials, task: Task) -> None:
    with torch.no_grad():
        outputs = readout(model.rollout(test.inputs).states)
    score = {"mse": "test_r2", "cross_entropy": "test_accuracy"}[task.loss]
    assert {"test_r2", "test_accuracy"} & set(data) == {score}
    assert float(data.test_loss) == pytest.approx(float(task_loss(outputs, test, task.loss)), rel=1e-12)
    assert float(data[score]) == pytest.approx(accuracy(outputs, test), rel=1e-12)
    check_units(data, task.loss)


def check_units(data: xr.Dataset, loss: str) -> None:
    """Losses have one unit in a file, all other figures none; every figure says what it is."""
    unit = {"mse": "1", "cross_entropy": "nat"}[loss]
    for name, values in data.data_vars.items():
        is_loss = str(name) in ("training_loss", "test_loss", "test_loss_before")
        if values.dtype.kind == "f":
            assert values.attrs["units"] == (unit if is_loss else "1"), name
        assert values.attrs["long_name"], name
    for name in {"test_r2", "test_r2_before"} & set(data):
        assert data[name].attrs["long_name"].startswith("R^2")
    for name in {"test_accuracy", "test_accuracy_before"} & set(data):
        assert data[name].attrs["long_name"].startswith("accuracy")


def check_demo(loss: str = "mse") -> None:
    """A study's losses, moments and files are those of a training beside it."""
    table = {
        "task": {"name": "sums", "loss": loss},
        "dtype": "float64",
        "network": [{"name": "tiny", "label": "A"}, {"name": "tiny", "label": "B", "hidden_size": 2}],
        "rule": [{"name": "short", "label": "one"}],
        "training": {"steps": UPDATES, "batch_size": 4, "learning_rate": 0.05},
        "measure": {"steps": [0, 2, UPDATES], "trials": B, "budget": 400, "values": 2},
    }
    said: list[Any] = []
    with offered(), TemporaryDirectory() as folder:
        settings = study("_study_file.reading").parse_study(table, "here")
        data = study("_running.run_study").run_study(
            settings, Path(folder), report=lambda *what: said.append(what)
        )
        check_training(data, Path(folder), settings, [what[:4] for what in said if not what[4]])
        kept = {
            path.stem: study("_disk.results").read_dataset(path) for path in Path(folder).glob("steps/*.nc")
        }
        written = study("_disk.results").read_dataset(Path(folder) / "results.nc")
    xr.testing.assert_equal(written, data)
    assert written.attrs == data.attrs
    found = {name: (one.attrs["cell"], one.attrs["step"]) for name, one in kept.items()}
    assert found == {f"{n}-{s:06d}": (n, s) for n in ("A", "B") for s in (0, 2, UPDATES)}
    for network, step in found.values():
        one, whole = kept[f"{network}-{step:06d}"], data.sel(network=network, step=step)
        for name in ("test_loss", "effective_rank", "gradient_cosine"):
            np.testing.assert_array_equal(one[name], whole[name])
    check_units(data, loss)


def check_classes() -> None:
    """The same of a task of classes, whose losses are in nats and whose score is an accuracy."""
    check_demo("cross_entropy")


def check_training(data: xr.Dataset, folder: Path, settings: Any, said: list[Any]) -> None:
    assert (data.network.values.tolist(), data.step.values.tolist()) == (["A", "B"], [0, 2, UPDATES])
    assert data["update"].values.tolist() == list(range(1, UPDATES + 1))
    assert data.trial_label.values.tolist() == sorted(data.trial_label.values.tolist())
    task = Sums(settings.task_settings["loss"])
    model, readout = network(settings.seeds[0])
    test = task.sample(500, generator=settings.seeds[0] + 1, split="test", dtype=F64)
    probe = task.sample(B, generator=settings.seeds[0], split="test", dtype=F64)
    trainer = Trainer(model, readout, task, settings.training, seed=settings.seeds[0])
    score = {"mse": "test_r2", "cross_entropy": "test_accuracy"}[task.loss]
    losses, moments = [], {0: (*trainer.evaluate(test), Phi_of(model, probe))}
    for progress in trainer.run():
        losses.append(progress.loss)
        moments[progress.step] = (*trainer.evaluate(test), Phi_of(model, probe))
    one = data.sel(network="A")
    np.testing.assert_allclose(one.training_loss, losses, rtol=1e-12)
    assert [row for row in said if row[0] == "A"] == [
        ("A", step, UPDATES, pytest.approx(loss)) for step, loss in enumerate(losses, 1)
    ]
    for step in data.step.values:
        there, (loss, value, Phi) = one.sel(step=step), moments[int(step)]
        assert float(there.test_loss) == pytest.approx(loss, rel=1e-12)
        assert float(there[score]) == pytest.approx(value, rel=1e-12)
        assert float(there.effective_rank.sel(operator="Phi")) == pytest.approx(rank(Phi), rel=1e-9)
        saved = load_checkpoint(folder / "checkpoints" / f"A-{step:06d}.safetensors")
        assert (saved.step, saved.model) == (int(step), "tiny")
        assert rank(Phi_of(saved.build_model(), probe)) == pytest.approx(rank(Phi), rel=1e-12)
    assert json.loads(data.attrs["settings"])["training"]["learning_rate"] == 0.05
    assert data.attrs["seed"] == str(settings.seeds[0])
    assert data.attrs["title"] == settings.title
    for label in ("A", "B"):
        assert not bool(data.training_loss.sel(network=label).isnull().any())


def Phi_of(model, probe: Trials) -> torch.Tensor:
    return linearize(model, probe.inputs).Phi.to_dense()


def check_compare() -> None:
    """Cosines, rates, norms and spectra of rules, from matrices."""
    (model, readout), task = network(), Sums()
    trials = task.sample(B, generator=1, dtype=F64)
    rules = {"exact": Exact(), "one": Window(1), "two": Window(2)}
    data = study("_rules.compare").compare_rules(
        model, readout, trials, task.loss, rules, budget=400, values=3
    )
    flow = linearize(model, trials.inputs)
    P, J = flow.P.to_dense(), flow.J.to_dense()
    Phi = P @ J @ J.T @ P.T
    states = flow.trajectory.states.detach()
    err = (output_error(readout(states).detach(), trials, "mse") @ readout.weight.detach()).reshape(-1)
    back = {label: rule.propagator(flow).to_dense() for label, rule in rules.items()}
    updates = {label: J.T @ P_rule.T @ err for label, P_rule in back.items()}
    exact = updates["exact"]
    at = np.arange(B * T * H) // H % T  # the step of each entry
    for label, update in updates.items():
        one, F = data.sel(rule=label), P @ J @ J.T @ back[label].T
        S = torch.linalg.svdvals(F)
        ends = torch.linalg.eigvalsh((F + F.T) / 2)
        expected = {
            "update_cosine": likeness(update, exact),
            "norm_ratio": float(update.norm() / exact.norm()),
            "loss_rate": -float(update @ exact),
            "descent": float(update @ exact / exact.square().sum()),
            "flow_alignment": likeness(F, Phi),
            "effective_rank": float(S.square().sum() ** 2 / S.pow(4).sum()),
            "symmetric_smallest": float(ends[0]),
            "symmetric_largest": float(ends[-1]),
            "propagator_error": float(
                torch.linalg.matrix_norm(P - back[label], 2) / torch.linalg.matrix_norm(P, 2)
            ),
        }
        for name, value in expected.items():
            assert float(one[name]) == pytest.approx(value, rel=1e-6, abs=1e-9), name
        np.testing.assert_allclose(one.singular_value, S[:3], rtol=1e-6)
        pairs = np.zeros((T, T))
        for t in range(T):
            for s in range(T):
                there, used = torch.as_tensor(at == t), torch.as_tensor(at == s)
                part = J.T @ (used * (back[label].T @ (there * err)))
                pairs[t, s] = -float(exact @ part)
        np.testing.assert_allclose(one.loss_rate_by_pair, pairs, rtol=1e-8, atol=1e-12)
        lags = [np.trace(pairs, -lag) for lag in range(T)]
        np.testing.assert_allclose(one.loss_rate_by_lag, lags, rtol=1e-8, atol=1e-12)
        for other, change in updates.items():
            assert float(one.rule_cosine.sel(rule_other=other)) == pytest.approx(likeness(update, change))
        parts = {p.name: p.slice for p in flow.J.domain.axes[0].parts}
        for name in data.parameter.values:
            rate = -float(update[parts[name]] @ exact[parts[name]])
            assert float(one.loss_rate_by_parameter.sel(parameter=name)) == pytest.approx(rate, abs=1e-12)
        check_facings(one, label, P, J, back[label], err, at)
    assert data.formula.values.tolist() == ["P K P*", "P K P_1*", "P K P_2*"]
    first = data.sel(rule="exact")
    assert (float(first.flow_alignment), float(first.flow_alignment_stderr)) == (1, 0)
    check_units(data, task.loss)


def check_facings(one: xr.Dataset, label: str, P, J, P_rule, err, at: np.ndarray) -> None:
    def facing(back: torch.Tensor, kind: str, step: int) -> torch.Tensor:
        chosen = torch.as_tensor(at == step)
        return J.T @ (back.T @ (chosen * err)) if kind == "past" else J.T @ (chosen * (back.T @ err))

    kinds = {
        "past": ("past", "past"),
        "future": ("future", "future"),
        "past of the rule, future of bptt": ("past", "future"),
        "future of the rule, past of bptt": ("future", "past"),
    }
    for name, (ours, theirs) in kinds.items():
        expected = [likeness(facing(P_rule, ours, t), facing(P, theirs, t)) for t in range(T)]
        np.testing.assert_allclose(one.cosine_by_time.sel(facing=name), expected, rtol=1e-8, err_msg=label)


def check_train() -> None:
    """What a training by several rules keeps: losses at their own updates, and where it ends."""
    rules = {"exact": Exact(), "gone": Exploding(), "one": Window(1)}
    module = study("_rules.train_rules")
    training = TrainingSettings(steps=UPDATES, batch_size=4, learning_rate=0.05, gradient="operators")
    with offered(), TemporaryDirectory() as folder:
        experiment = Experiment(
            model="tiny", task="sums", training=training, dtype="float64", trials=B, budget=400
        )
        data = module.train_rules(rules, experiment, Path(folder))
        saved = {
            name: load_checkpoint(Path(folder) / "checkpoints" / f"tiny-{stem}.safetensors").build_model()
            for name, stem in (
                ("initial", "exact-000000"),
                ("exact", f"exact-{UPDATES:06d}"),
                ("one", f"one-{UPDATES:06d}"),
            )
        }
        assert len(list((Path(folder) / "checkpoints").iterdir())) == len(saved)
    task = Sums()
    model, readout = network(0)
    probe = task.sample(B, generator=0, split="test", dtype=F64)
    test = task.sample(500, generator=1, split="test", dtype=F64)
    plain = TrainingSettings(steps=UPDATES, batch_size=4, learning_rate=0.05)
    trainer = Trainer(model, readout, task, plain, seed=0)
    before = {name: value.detach().clone() for name, value in model.trainable().items()}
    scores = trainer.evaluate(test)
    assert (float(data.test_loss_before), float(data.test_r2_before)) == pytest.approx(scores, rel=1e-9)
    losses = [progress.loss for progress in trainer.run()]
    exact = data.sel(rule="exact")
    np.testing.assert_allclose(exact.training_loss, losses, rtol=1e-9)
    assert (float(exact.test_loss), float(exact.test_r2)) == pytest.approx(trainer.evaluate(test), rel=1e-9)
    gone = data.sel(rule="gone")
    np.testing.assert_allclose(gone.training_loss[:3], losses[:3], rtol=1e-9)
    assert bool(gone.training_loss[3:].isnull().all())
    assert data.diverged_at.values.tolist() == pytest.approx([np.nan, 4, np.nan], nan_ok=True)
    assert data.outcome.values.tolist() == ["trained", "diverged", "trained"]
    assert bool(data.failed_at.isnull().all())
    for name in ("test_loss", "test_r2", "effective_rank", "alignment_with_initial", "parameter_change"):
        assert bool(gone[name].isnull().all()), name
    after = {name: Phi_of(found, probe) for name, found in saved.items()}
    P = linearize(saved["initial"], probe.inputs).P.to_dense()
    ranks = {"Phi": rank(after["initial"]), "P P*": rank(P @ P.T)}
    for name, value in ranks.items():
        assert float(data.effective_rank_before.sel(operator=name)) == pytest.approx(value, rel=1e-9)
    for rule in ("exact", "one"):
        one = data.sel(rule=rule)
        assert float(one.effective_rank.sel(operator="Phi")) == pytest.approx(rank(after[rule]), rel=1e-9)
        for name, other in (("first", "exact"), ("initial", "initial")):
            found = float(one[f"alignment_with_{name}"])
            assert found == pytest.approx(likeness(after[rule], after[other]), rel=1e-9), name
        moved = {n: v.detach() - before[n] for n, v in saved[rule].trainable().items()}
        for name, change in moved.items():
            there = one.sel(parameter=name)
            assert float(there.parameter_change) == pytest.approx(float(change.norm()), rel=1e-9)
            assert float(there.parameter_norm_before) == pytest.approx(float(before[name].norm()), rel=1e-9)
            assert float(there.parameter_norm) == pytest.approx(float((before[name] + change).norm()))
    whole = [
        torch.cat([(v.detach() - before[n]).reshape(-1) for n, v in saved[rule].trainable().items()])
        for rule in ("exact", "one")
    ]
    cosine = data.change_cosine.sel(rule="exact", rule_other="one")
    assert float(cosine) == pytest.approx(likeness(*whole), rel=1e-9)
    assert data["update"].values.tolist() == list(range(1, UPDATES + 1))
    check_units(data, task.loss)


def check_errors() -> None:
    """Estimates from few products have standard errors, but for what is 1 by definition."""
    (model, readout), task = network(), Sums()
    probe, test = (task.sample(B, generator=seed, dtype=F64) for seed in (1, 2))
    rules = {"exact": Exact(), "one": Window(1), "two": Window(2)}
    few = measured(model, readout, probe, test, task, rules, 8)
    assert bool((few.effective_rank_stderr > 0).all())
    assert bool((few.trace_stderr > 0).all())
    assert (few.flow_alignment_stderr > 0).values.tolist() == [False, True, True]
    Phi = few.sel(operator="Phi")
    off = float(Phi.effective_rank) - rank(Phi_of(model, probe))
    assert abs(off) < 6 * float(Phi.effective_rank_stderr)
    few = study("_rules.compare").compare_rules(model, readout, probe, task.loss, rules, budget=16, values=3)
    assert bool((few.effective_rank_stderr > 0).all())
    assert (few.flow_alignment_stderr > 0).values.tolist() == [False, True, True]


def check_errors_of_training() -> None:
    """The same after a training."""
    module = study("_rules.train_rules")
    training = TrainingSettings(steps=2, batch_size=4, learning_rate=0.05, gradient="operators")
    experiment = Experiment("tiny", "sums", training, dtype="float64", trials=B, budget=16)
    with offered():
        few = module.train_rules({"exact": Exact(), "one": Window(1)}, experiment)
    assert (few.alignment_with_first_stderr > 0).values.tolist() == [False, True]
    for name in ("alignment_with_initial_stderr", "effective_rank_stderr", "effective_rank_before_stderr"):
        assert bool((few[name] > 0).all()), name


def check_files() -> None:
    """What is written comes back: figures, coordinates, units, attributes."""
    data = xr.Dataset(
        {"x": (("step", "rule"), np.arange(6.0).reshape(3, 2) / 7, {"units": "nat"})},
        coords={"step": [0, 10, 30], "rule": ["a", "b ± c"]},
        attrs={"title": "α"},
    )
    results = study("_disk.results")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "x.nc"
        assert results.write_dataset(data, path, {"network": "A"}) == path
        back = results.read_dataset(path)
        assert [found.name for found in path.parent.iterdir()] == ["x.nc"]
    xr.testing.assert_identical(back, data.assign_attrs(network="A"))
    assert data.attrs == {"title": "α"}
    said = results.versions()
    assert json.loads(said["library_versions"])["numpy"] == np.__version__
    assert json.loads(said["library_versions"])["torch"] == torch.__version__
    assert said["created"].endswith("+00:00")


CHECKS = (
    check_measure,
    check_demo,
    check_classes,
    check_compare,
    check_train,
    check_errors,
    check_errors_of_training,
    check_files,
)
