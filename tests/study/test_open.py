"""Runs as trees: finished ones from their file, others from what there is, several by name."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import matplotlib
import numpy as np
import pytest
import xarray as xr

import kpframe
from kpframe.errors import ArgumentError
from kpframe.study._disk.results import write_dataset
from kpframe.study._reading.merge import merged

from .recorded import cell, ended, figure, write_run


def measured(one, step):
    place = "ab".index(one["coordinates"]["network"])
    return xr.Dataset(
        {
            "effective_rank": figure([1.0 + step + place, 3.0], "operator"),
            "kernel": figure(np.eye(3) * (step + 1.0), ("time", "time_other")),
        },
        {"operator": ["K", "Phi"], "time": np.arange(3)},
    )


def losses(one):
    return ended(np.array([3.0, 2.0, 1.5 + "ab".index(one["name"])])).assign(seconds=figure(2.5))


def begun(path: Path) -> Path:
    return write_run(path, [cell("a"), cell("b")], measured, losses)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(tmp_path: Path, written: Path) -> Path:
    """A run that is under way, in a folder of its own."""
    return Path(copytree(written, tmp_path / "run"))


def say(run: Path, **said: object) -> None:
    """Change what ``run.json`` says."""
    record = json.loads((run / "run.json").read_text()) | said
    (run / "run.json").write_text(json.dumps(record))


def finish(run: Path, name: str = "results.nc", **said: object) -> Path:
    """Write the file of results, and say that the run has come to its end."""
    data = merged(run, {})
    say(run, state="finished", **said)
    return write_dataset(data, run / name)


def test_a_run_under_way_is_what_there_is_and_says_so(run: Path) -> None:
    (run / "steps" / "b-000010.nc").unlink()
    with kpframe.open_run(run) as tree:
        assert tree.attrs["state"] == "running"
        assert float(tree.effective_rank.sel(network="a", step=10, operator="K")) == 11
        assert np.isnan(tree.effective_rank.sel(network="b", step=10)).all()
        assert set(tree.data_vars) == {"effective_rank", "kernel"}
        assert "update" not in tree.dims
        assert set(tree.training.data_vars) == {"training_loss", "outcome", "stopped_at", "reason", "seconds"}
        assert tree.training.training_loss.sel(network="b", update=3) == 2.5
        assert tree.sel(network="a").kernel.dims == ("step", "time", "time_other")


def test_a_finished_run_is_read_when_it_is_used_and_equals_the_same_under_way(run: Path) -> None:
    before = kpframe.open_run(run)
    file = finish(run)
    with kpframe.open_run(str(run)) as tree:
        lazy = tree.kernel.variable._data
        assert type(lazy).__name__ == "MemoryCachedArray"
        assert not isinstance(lazy.array, np.ndarray)
        for node in ("/", "training"):
            xr.testing.assert_equal(tree[node].to_dataset(), before[node].to_dataset())
        assert tree.attrs["state"] == "finished"
        assert file in held() or not held()
    assert file not in held()
    file.write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"results\.nc' is damaged .*delete it: kpframe resume"):
        kpframe.open_run(run)
    file.unlink()
    xr.testing.assert_equal(kpframe.open_run(run).to_dataset(), before.to_dataset())


def test_results_of_another_run_are_refused(run: Path) -> None:
    finish(run)
    say(run, id="another")
    with pytest.raises(ArgumentError, match=r"results\.nc' belongs to another run"):
        kpframe.open_run(run)


def held() -> set[Path]:
    """Return the files that this process holds open, where the system says it."""
    return {one.resolve() for one in Path("/proc/self/fd").glob("*")}


@pytest.mark.parametrize(("command", "name"), [("train", "training.nc"), ("compare", "comparison.nc")])
def test_each_command_has_its_own_file(run: Path, command: str, name: str) -> None:
    """Also where the run is not made of trainings, as comparisons of checkpoints are not."""
    write_dataset(xr.Dataset({"own": figure(4.0)}), run / name)
    record = json.loads((run / "run.json").read_text())
    del record["cells"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArgumentError, match="nothing training by training"):
        kpframe.open_run(run)
    say(run, state="finished", command=command)
    with kpframe.open_run(run) as tree:
        assert list(tree.data_vars) == ["own"]
        assert not tree.children


def test_several_runs_are_nodes_by_their_names(run: Path, tmp_path: Path) -> None:
    other = Path(copytree(run, tmp_path / "other"))
    finish(other)
    with kpframe.open_run(tmp_path) as tree:
        assert list(tree.children) == ["other", "run"]
        assert [tree[name].attrs["state"] for name in tree.children] == ["finished", "running"]
        assert tree["run/training"].training_loss.shape == (2, 3)
    with kpframe.open_run([run, other]) as tree:
        assert list(tree.children) == ["run", "other"]
    inner = Path(copytree(run, tmp_path / "deep" / "run"))
    assert list(kpframe.open_run([run, inner]).children) == [f"{tmp_path.name}-run", "deep-run"]
    with pytest.raises(ArgumentError, match="each run once, got one more than once"):
        kpframe.open_run([run, run])
    with pytest.raises(ArgumentError, match="the folder of a run, or several, got none"):
        kpframe.open_run([])
    with pytest.raises(ArgumentError, match="which does not exist"):
        kpframe.open_run([run, tmp_path / "none"])


def test_what_is_no_run_says_what_it_is(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"'.*empty', which has no run\.json"):
        kpframe.open_run(tmp_path / "empty")
    with pytest.raises(ArgumentError, match="which is a file"):
        kpframe.open_run(run / "run.json")
    say(run, format=99)
    with pytest.raises(ArgumentError, match="in format 99, of a newer kpframe"):
        kpframe.open_run(run)


def test_one_training_alone_has_few_dims(tmp_path: Path) -> None:
    """As a loop of one's own leaves it: one network, nothing of its training."""
    run = write_run(tmp_path / "run", [cell("a", (0,))], measured, command="track", state="finished")
    tree = kpframe.open_run(run)
    assert tree.effective_rank.dims == ("network", "step", "operator")
    assert not tree.children


def test_variables_plot_themselves(run: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with kpframe.open_run(run) as tree:
        (line,) = tree.effective_rank.sel(network="a", operator="K").plot()
        np.testing.assert_array_equal(line.get_xydata(), [[0, 1], [10, 11]])
        assert line.axes.get_xlabel() == "updates made [1]"
        assert line.axes.get_ylabel() == "a figure [1]"
        pyplot.figure()
        mesh = tree.kernel.sel(network="b", step=10).plot()
        np.testing.assert_array_equal(mesh.get_array(), 11 * np.eye(3))
    pyplot.close("all")
