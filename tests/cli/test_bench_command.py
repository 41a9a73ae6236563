from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kpframe.cli import _app as app


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], threads) -> None:
    path = tmp_path / "bench.json"
    code = app.run(
        ["bench", "wrapped cell", "--size", "2x3x4", "--runs", "1", "--no-spectra", "--json", str(path)]
    )
    out = capsys.readouterr().out
    assert code == 0
    (line,) = [line for line in out.splitlines() if "\tlinearize\t" in line and "roll-out forward" in line]
    assert "P: dense, K: autograd" in line
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["settings"]["dtype"] == "float32"
    assert {row["size"] for row in document["rows"]} == {"2 x 3 x 4"}
    assert document["sweeps"] == []


@pytest.mark.slow
def test_a_row_of_two_ranks(tmp_path: Path, threads) -> None:
    path = tmp_path / "bench.json"
    options = ["--size", "3x4x5", "--runs", "1", "--no-spectra", "--ranks", "2", "--json", str(path)]
    assert app.run(["bench", "wrapped cell", *options]) == 0
    row = json.loads(path.read_text(encoding="utf-8"))["rows"][-1]
    assert (row["what"], row["beside"]) == ("Phi on 2 ranks", "Phi on 2 threads")
    assert row["milliseconds"] > 0
    assert float(row["note"].rpartition(" ")[2]) < 1e-5  # how far it is from one process


def test_sizes_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("20x90", "axbxc", "0x1x1"):
        assert app.run(["bench", "--size", text]) == 2
        assert "expected BxTxH such as 20x90x256, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peer", "kpflow"], "--peer kpflow: it takes the cells of torch, of rnn, gru"),
        (["--ranks", "3"], "--ranks: expected at most 2, one for each trial, got 3"),
        (["--device", "gpu"], "--device: expected a device of this machine, got 'gpu'"),
        (["--json", "/nowhere/a.json"], "cannot write '/nowhere/a.json': its folder does not exist; make it"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    capsys: pytest.CaptureFixture[str], threads, options, message
) -> None:
    assert app.run(["bench", "wrapped cell", "--size", "2x3x4", "--runs", "1", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[0]  # no row was measured before


def test_a_peer_that_is_missing_is_told_first(capsys: pytest.CaptureFixture[str], threads) -> None:
    assert app.run(["bench", "rnn", "--size", "2x3x4", "--peer", "no_such_package"]) == 2
    assert "--peer no_such_package: it cannot be imported" in capsys.readouterr().err.splitlines()[0]
