"""The tracker as a callback of the real Lightning: what it records, and that the training is the same."""

from __future__ import annotations

import pickle
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kpframe
from kpframe.errors import ArgumentError, MissingDependencyError
from kpframe.lightning import TrackerCallback
from kpframe.study import read_dataset
from kpframe.study._disk.folder import read_record

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(pytorch_lightning|lightning_fabric|torch).*")


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.GRU(2, 4, batch_first=True)
        self.dropout = torch.nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.rnn(x)[0])


def lightning() -> ModuleType:
    """Return Lightning, which takes seconds to import: only where a test runs."""
    return pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")


@cache
def kind() -> type:
    class Network(lightning().LightningModule):
        """A network whose training and validation draw from torch's global generator."""

        def __init__(self, fails_at: int | None = None) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.head = Encoder(), torch.nn.Linear(4, 1)
            self.fails_at, self.told, self.validated = fails_at, [], []

        def loss(self, x: torch.Tensor) -> torch.Tensor:
            return (self.head(self.encoder(x)) - x.sum(dim=2, keepdim=True)).square().mean()

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            if self.global_step == self.fails_at:
                raise RuntimeError("out of memory")
            loss = self.loss(batch[0])
            self.told.append(float(loss.detach()))
            return loss

        def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            self.validated.append(float(self.loss(batch[0] + torch.randn(()))))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.02)

    return Network


def fresh(fails_at: int | None = None) -> torch.nn.Module:
    return kind()(fails_at)


def batches(shuffle: bool) -> torch.utils.data.DataLoader:
    x = torch.randn(12, 5, 2, generator=torch.Generator().manual_seed(3))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4, shuffle=shuffle)


def probe() -> torch.Tensor:
    return torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(5))


def fit(
    network: torch.nn.Module, path: Path, *callbacks: object, ckpt_path: Path | None = None, **options: object
):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning().Trainer(
        accelerator="cpu",
        default_root_dir=path,
        callbacks=list(callbacks),
        **{"max_epochs": 3, "enable_checkpointing": False} | quiet | options,
    )
    trainer.fit(network, batches(True), batches(False), ckpt_path=ckpt_path)
    return trainer


def callback(path: Path, **options: object) -> TrackerCallback:
    given = {
        "readout": "head",
        "output": path,
        "quantities": ["trace"],
        "quiet": True,
        "schedule": [0, 1, 3, 9],
    }
    return TrackerCallback("encoder.rnn", probe(), **given | options)


def test_the_training_is_the_same_bit_for_bit_and_recorded_by_its_updates(tmp_path: Path) -> None:
    alone = fresh()
    fit(alone, tmp_path)
    expected = [*alone.state_dict().values(), torch.get_rng_state()]
    watched, track = fresh(), callback(tmp_path / "run")
    fit(watched, tmp_path, track)
    found = [*watched.state_dict().values(), torch.get_rng_state()]
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], next(iter(fresh().state_dict().values())))
    assert watched.validated == alone.validated
    assert watched.told == alone.told
    assert isinstance(track, lightning().Callback)
    assert track.tracker.steps == (0, 1, 3, 9)
    assert track.tracker.missing == {}
    assert read_record(tmp_path / "run")["state"] == "finished"
    losses = read_dataset(tmp_path / "run" / "training" / "GRU.nc").training_loss
    assert losses["update"].values.tolist() == [*range(1, 10)]
    assert losses.values.tolist() == watched.told
    for step, network in ((0, fresh()), (9, watched)):
        data = read_dataset(tmp_path / "run" / "steps" / f"GRU-{step:06d}.nc")
        with kpframe.study.Tracker(
            network.encoder.rnn, probe(), output=tmp_path / f"{step}", quantities=["trace"], quiet=True
        ) as own:
            own.record(step)
        assert (data.trace == read_dataset(tmp_path / f"{step}" / "steps" / f"GRU-{step:06d}.nc").trace).all()


def test_accumulated_batches_share_an_update(tmp_path: Path) -> None:
    network, track = fresh(), callback(tmp_path / "run")
    fit(network, tmp_path, track, accumulate_grad_batches=3)
    losses = read_dataset(tmp_path / "run" / "training" / "GRU.nc").training_loss
    assert losses["update"].values.tolist() == [1, 2, 3]
    means = [sum(network.told[3 * k : 3 * k + 3]) / 3 for k in range(3)]
    assert losses.values.tolist() == pytest.approx(means, rel=1e-6)
    assert track.tracker.steps == (0, 1, 3)


def test_an_error_leaves_the_run_as_interrupted_and_a_checkpoint_goes_on(tmp_path: Path) -> None:
    parts = fresh(fails_at=5)
    saved = lightning().callbacks.ModelCheckpoint(
        dirpath=tmp_path / "kept", save_top_k=-1, every_n_train_steps=3
    )
    track = callback(tmp_path / "parts", schedule=3)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(parts, tmp_path, track, saved, enable_checkpointing=True)
    assert read_record(tmp_path / "parts")["state"] == "interrupted"
    assert track.tracker.steps == (0, 3)
    (kept,) = (tmp_path / "kept").glob("*.ckpt")
    going_on, track = fresh(), callback(tmp_path / "parts", schedule=3, resume=True)
    fit(going_on, tmp_path, track, ckpt_path=kept)
    assert track.tracker.steps == (0, 3, 6, 9)
    losses = read_dataset(tmp_path / "parts" / "training" / "GRU.nc").training_loss
    assert losses["update"].values.tolist() == [*range(1, 10)]
    assert losses.values.tolist() == parts.told[:3] + going_on.told


@pytest.mark.slow
def test_where_it_writes_by_default(tmp_path: Path) -> None:
    logger = lightning().loggers.CSVLogger(tmp_path, name="logs", version=4)
    track = callback(None)
    fit(fresh(), tmp_path, track, logger=logger, max_epochs=1)
    assert (tmp_path / "logs" / "version_4" / "kpframe-track" / "run.json").exists()
    fit(fresh(), tmp_path, callback(None), max_epochs=1)
    assert (tmp_path / "kpframe-track" / "run.json").exists()
    track = callback(tmp_path / "fast")
    fit(fresh(), tmp_path, track, fast_dev_run=True)
    assert track.tracker is None
    assert not (tmp_path / "fast").exists()


def test_only_the_first_process_records(tmp_path: Path) -> None:
    track = callback(tmp_path / "run")

    class Second:
        is_global_zero, fast_dev_run, global_step = False, False, 0

    track.on_train_start(Second(), fresh())
    track.on_train_batch_end(Second(), fresh(), {"loss": torch.ones(())}, None, 0)
    track.on_train_end(Second(), fresh())
    assert track.tracker is None
    assert not (tmp_path / "run").exists()


def test_what_is_not_there_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    for options, message in (
        (
            {"model": "encoder.rn"},
            r"model: expected the place of a module in Network, got 'encoder.rn'; did you",
        ),
        (
            {"readout": "haed"},
            r"readout: expected the place of a module in Network, got 'haed'; did you mean 'head'",
        ),
        ({"model": ""}, r"model: .*give the recurrent cell or layer alone"),
    ):
        network = fresh()
        given = {"model": "encoder.rnn", "inputs": probe(), "output": tmp_path / "run"} | options
        with pytest.raises(ArgumentError, match=message):
            fit(network, tmp_path, TrackerCallback(**given))
        assert network.told == []
    with pytest.raises(
        ArgumentError, match=r"expected options of Tracker, got 'shedule'; did you mean 'schedule'"
    ):
        callback(tmp_path, shedule=3)
    with pytest.raises(ArgumentError, match=r"model: expected the place of a module .*got Linear"):
        TrackerCallback(torch.nn.Linear(2, 2), probe())


def test_a_callback_is_sent_to_other_processes_as_it_was_given(tmp_path: Path) -> None:
    track = pickle.loads(pickle.dumps(callback(tmp_path / "run", schedule=5)))
    assert isinstance(track, lightning().Callback)
    fit(fresh(), tmp_path, track, max_epochs=2)
    assert track.tracker.steps == (0, 5)


def test_without_lightning_the_message_names_the_extra(monkeypatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kpframe\[study,lightning\]'"):
        TrackerCallback("rnn", probe())
