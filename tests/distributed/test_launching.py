"""How ranks come together for a study, and what they must agree on."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed

from kpframe.cli import _app as app
from kpframe.errors import RankError
from kpframe.study._disk.folder import resume_command
from kpframe.study._ranks import team, watch
from kpframe.study._ranks.agreement import disagreements, facts
from kpframe.study._ranks.launcher import Launch, RanksLost, launched
from kpframe.study._ranks.team import NotTogetherError, Team
from kpframe.study._ranks.watch import Watch

GOOD = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "there",
    "MASTER_PORT": "29500",
    "LOCAL_WORLD_SIZE": "2",
}


def test_a_launcher_is_known_by_its_environment() -> None:
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "4"}) is None
    assert launched(GOOD | {"RANK": "0", "WORLD_SIZE": "1"}) is None
    found = launched(GOOD)
    assert found == Launch(1, 4, 2, "there", 29500)
    assert found.command == "torchrun --nnodes 2 --nproc-per-node 2 ... -m kpframe"
    for wrong, told in (
        ({"RANK": "4"}, "RANK: expected one of 0 to 3, as WORLD_SIZE is 4, got 4"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE: expected a whole number, got 'four'"),
        ({"MASTER_PORT": ""}, "got RANK without MASTER_PORT; start the program with torchrun"),
    ):
        with pytest.raises(RankError, match=told):
            launched(GOOD | wrong)


def test_a_missing_launcher_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in GOOD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    assert app.run(["run", "nothing.toml"]) == 2
    assert "got RANK without WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in capsys.readouterr().err


def test_a_port_in_use_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert app.run(["run", "nothing.toml"]) == 2
    assert f"could not meet the others at 127.0.0.1:{port}: the port is in use" in capsys.readouterr().err


def test_ranks_that_disagree_are_told_which_and_in_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.toml"
    study.write_text("title = 'one'")
    first = facts(["run", str(study)])
    assert disagreements([first, dict(first)]) == []
    study.write_text("title = 'another'")
    monkeypatch.setenv("KPFRAME_STRICT_PLUGINS", "1")
    other = facts(["run", str(study), "--quick"]) | {"torch": "1.0"}
    found = disagreements([first, first, other])
    assert [text.partition(":")[0] for text in found] == [
        f"rank 2 has another {name}"
        for name in ("KPFRAME_STRICT_PLUGINS", "arguments", f"file {study}", "torch")
    ]
    assert found[0].endswith("expected none, as rank 0, got 1")
    study.unlink()  # rank 0 reads it for a rank that does not see it
    assert disagreements([first, facts(["run", str(study)]) | {"KPFRAME_STRICT_PLUGINS": ""}])[1:] == []

    store = distributed.HashStore()
    errors: list[str] = []

    def rank(number: int, own: dict[str, str]) -> None:
        with pytest.raises(RankError) as caught:
            team._agree(Launch(number, 2, 2, "", 0), store, own)
        errors.append(str(caught.value))

    ranks = [threading.Thread(target=rank, args=(n, own)) for n, own in enumerate((first, other))]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    assert errors == ["; ".join(text.replace("rank 2", "rank 1") for text in found)] * 2


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "START", 0.2)
    with pytest.raises(RankError, match=r"rank 1 did not come within 0.2 s; 2 were to start"):
        team._agree(Launch(0, 2, 2, "", 0), distributed.HashStore(), {})


def test_a_silent_rank_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    monkeypatch.setattr(watch, "BEAT", 1)
    store = distributed.HashStore()
    one = Watch(Launch(1, 2, 2, "", 0), store)  # it listens to rank 0, which says nothing
    one.start()
    assert one._known.wait(4)
    one.end()
    with pytest.raises(RanksLost, match="rank 0: nothing was heard of it for 0 s"):
        one.check()
    assert b"rank 0: nothing was heard of it" in store.get("lost")


def test_a_rank_that_the_others_wait_for_in_vain_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "GRACE", 0.2)
    launch = Launch(0, 2, 2, "", 0)
    store = distributed.HashStore()
    own = Team(launch, store, Watch(launch, store), None)
    with pytest.raises(RanksLost, match="rank 0: ValueError: here alone"), own._together("done"):
        raise ValueError("here alone")
    with pytest.raises(NotTogetherError, match="it cannot be sent to other ranks"):
        own.call(lambda given: given)
    store.set("done/0/1", "good")
    with pytest.raises(NotTogetherError, match=r"^rank 0: ValueError: here alone$"), own._together("done"):
        raise ValueError("here alone")
    with pytest.raises(RanksLost, match="rank 0: RankError: gone"), own._together("done"):
        raise RankError("gone")


def test_what_goes_on_with_a_run_is_said_for_as_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume_command(Path("a run")) == "kpframe resume 'a run'"
    monkeypatch.setattr(Launch, "under_way", Launch(0, 3, 3, "", 0))
    assert resume_command(Path("a run")) == "torchrun --nproc-per-node 3 -m kpframe resume 'a run'"


def test_the_time_limit_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(seconds=team.timeout()) == timedelta(minutes=5)
    monkeypatch.setenv(team.TIMEOUT_VARIABLE, "soon")
    with pytest.raises(RankError, match="KPFRAME_RANK_TIMEOUT: expected seconds, at least 1, got 'soon'"):
        team.timeout()
