from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kpframe.cli import _app as app
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.testing._toys import Plain


@pytest.fixture
def run(capsys):
    """A function that runs the command line in this process: (exit code, output, errors)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = app.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
def test_a_good_model_gives_a_table_and_exit_code_0(run) -> None:
    code, out, err = run("verify", "kpframe.testing._toys:Gated", "--examples", "3")
    assert code == 0
    assert all(re.search(r" \(\d+ of \d+\)", line) for line in err.splitlines())  # where it takes long
    assert out.startswith("model:Gated\n")
    (line,) = [line for line in out.splitlines() if "phi_equals_total_jacobian" in line]
    assert line.split()[1] == "passed"
    assert float(line.split()[2]) < 1e-12
    assert line.split()[3:5] == ["1e-09", "3"]
    assert out.rstrip().endswith(" passed")
    reducers = [run("verify", "reducer:mean", "--examples", "3")[1] for _ in range(2)]
    assert reducers[0] == reducers[1] != out


@pytest.mark.slow
def test_a_bad_model_gives_exit_code_1_and_its_smallest_case(run) -> None:
    code, out, _ = run("verify", "kpframe.testing.mutants.flows:SignSlip", "--examples", "3")
    assert code == 1
    assert "look at: step() and propagator()" in out
    assert "smallest failing case: FlowCase(model='kpframe.testing.mutants.flows:SignSlip'" in out
    assert " failed" in out


def test_json(run) -> None:
    code, out, _ = run("verify", "kpframe.testing.mutants.steps:TooWide", "--examples", "2", "--json")
    assert code == 1
    data = json.loads(out)
    assert (data["kind"], data["label"], data["passed"]) == ("model", "TooWide", False)
    verdicts = {check["name"]: check["verdict"] for check in data["checks"]}
    assert verdicts["state_shape"] == "failed"
    assert verdicts["taylor_slope"] == "not run"
    assert json.loads(run("verify", "reducer:mean", "--examples", "2", "--json")[1])["passed"] is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_model", "no model 'no_such_model'"),
        ("rule:no_such_rule", "no rule 'no_such_rule'"),
        ("no.such.module:Model", "cannot be imported: ModuleNotFoundError"),
        ("kpframe.testing._toys:Nothing", "has no attribute 'Nothing'"),
        ("missing.safetensors", "expected a file, got 'missing.safetensors'"),
        (
            "task:digits",
            "spec: expected one of the kinds model, rule, reducer, propagator, parameter_operator, quantity",
        ),
        (
            "operator:algebra",
            "NAME: expected a model, rule:NAME, reducer:NAME, propagator:NAME, parameter_operator:NAME or "
            "quantity:NAME",
        ),
        ("no-such-distribution:model", "no model 'no-such-distribution:model'"),
        ("", "no model ''"),
        ("\x1b[31m", "no model '\\x1b[31m'"),
        ("rule:", "'rule:' "),
        ("..:x", "no model '..:x'"),
        ("x" * 5000, "no model 'xxxxx"),
        ("/", "no model '/'"),
    ],
)
def test_errors_take_one_line_and_exit_code_2(run, name: str, message: str) -> None:
    code, out, err = run("verify", name)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "unexpected" not in err
    assert len(err) < 3000


def test_what_ends_the_process_is_a_failed_check(run) -> None:
    code, out, _ = run("verify", "sys:exit", "--examples", "1")
    assert code == 1
    assert "cannot be built" in out
    assert "SystemExit" in out


def test_a_checkpoint_without_a_name_is_refused(run, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.safetensors", Plain(1, 2))
    code, _, err = run("verify", str(path))
    assert code == 2
    assert "it holds no registered model's name" in err


def test_examples_must_be_positive(run) -> None:
    code, _, err = run("verify", "gru", "--examples", "0")
    assert code == 2
    assert "--examples" in err


def test_the_theorem_of_weight_sites(run) -> None:
    code, out, err = run("verify", "--theorem", "weight-sites", "kpframe.testing._toys:Elman")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "Elman" in line]
    assert "Gram matrix of site inputs" in line
    code, out, err = run("verify", "--theorem", "weight-sites", "kpframe.testing._toys:Gated", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["models"]
    assert row["verdict"] == "neuron-diagonal"
    assert row["between_neurons"] == 0
    assert row["from_one_gram_matrix"] > 1e-4


@pytest.mark.slow
def test_the_theorem_needs_no_extra_for_tests() -> None:
    code = """
        import sys
        sys.modules["hypothesis"] = sys.modules["pytest"] = None
        from kpframe.cli import _app as app
        sys.exit(app.run(["verify", "--theorem", "weight-sites", "kpframe.testing._toys:Elman"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gram matrix of site inputs" in done.stdout


@pytest.mark.slow
def test_without_the_extra_for_tests_one_line_says_what_to_install() -> None:
    names = ("kpframe.testing._toys:Gated", "rule:bptt", "reducer:mean", "no_such_model", "no.such:Model")
    code = f"""
        import sys
        sys.modules["hypothesis"] = None
        from kpframe.cli import _app as app
        for name in {names!r}:
            for options in ((), ("--json",)):
                print(app.run(["verify", name, *options]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.split() == ["2"] * 2 * len(names)
    assert done.stderr.splitlines() == [
        "Error: this command needs hypothesis, which is not installed: pip install 'kpframe[test]'"
    ] * (2 * len(names))


NOISY = """
import torch
from kpframe import Model


class Noisy(Model):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        print("noise of the model")
        super().__init__(input_size=input_size, state={"h": hidden_size})
        self.weight = torch.nn.Parameter(torch.full((hidden_size, input_size), 0.5))

    def step(self, x, h, t=None):
        print("noise of a step")
        return torch.tanh(0.5 * h + x @ self.weight.T)
"""


def test_what_a_model_prints_does_not_spoil_json(run, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "kpf_noisy_model.py").write_text(NOISY)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = run("verify", "kpf_noisy_model:Noisy", "--examples", "1", "--json")
    assert json.loads(out)["label"] == "Noisy"
    assert code == 0
    assert "noise of the model" in err
    assert "noise of a step" in err
    code, out, err = run("verify", "--theorem", "weight-sites", "kpf_noisy_model:Noisy", "--json")
    assert code == 0
    assert json.loads(out)["models"][0]["model"] == "kpf_noisy_model:Noisy"
    assert "noise of a step" in err


@pytest.mark.slow
def test_on_ranks(run) -> None:
    code, out, _ = run("verify", "kpframe.testing._toys:Elman", "--ranks", "2", "--examples", "1")
    assert code == 0
    assert out.startswith("model:Elman on 2 ranks\n")
    (line,) = [line for line in out.splitlines() if "phi_on_ranks" in line]
    assert (line.split()[1], line.split()[3:6]) == ("passed", ["1e-12", "1", "1"])
    wrong = "kpframe.testing.mutants.ranks:DrawsByPlace"
    code, out, _ = run("verify", f"rule:{wrong}", "--ranks", "3", "--examples", "1", "--json")
    assert code == 1
    data = json.loads(out)
    assert data["label"] == "DrawsByPlace on 3 ranks"
    assert data["checks"][0]["message"].startswith(
        "update_on_ranks: the update of DrawsByPlace() on 3 ranks of"
    )


def test_what_ranks_are_not_for(run) -> None:
    code, _, err = run("verify", "reducer:mean", "--ranks", "2")
    assert code == 2
    assert "a parameter operator to check on ranks, got a reducer: mean" in err
    code, _, err = run("verify", "gru", "--ranks", "1")
    assert code == 2
    assert "'--ranks'" in err
    assert "two things to do" in run("verify", "gru", "--ranks", "2", "--theorem", "weight-sites")[2]


def test_a_name_is_needed_but_for_a_theorem(run) -> None:
    code, out, err = run("verify")
    assert (code, out) == (2, "")
    assert "Missing argument 'NAME'" in err
    assert run("verify", "--theorem", "weight-sites", "nothing")[0] == 2
