"""Study files: the grammar, every error at once with the path of its key, and the way back to a table."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from kpframe.errors import ArgumentError, SettingsError, mismatch
from kpframe.plugin import PluginManager, get_manager, setting
from kpframe.plugin._settings import describe
from kpframe.study._cells import expand
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import MeasureSettings
from kpframe.study._study_file.blocks import Block, Offered
from kpframe.study._study_file.reading import bundled_study, load_study, parse_study, template_text, to_table
from kpframe.study._study_file.schedule import steps_of
from kpframe.study._study_file.tables import DEFAULTS, StudyTable

LEAST = {"task": {"name": "sum"}, "network": [{"name": "small"}], "measure": {"steps": [0, 1000]}}
FULL = {
    "title": "All <b>of it</b>",
    "plugins": ["kpf-toy"],
    "seeds": [3, 1],
    "dtype": "float64",
    "threads": 2,
    "task": {"name": "sum", "delay": 4},
    "network": [
        {"name": "small", "label": "my net", "gain": 0.5},
        {"name": "small", "reads": "h"},
    ],
    "rule": [{"name": "own_window", "label": "short", "window": 2}],
    "training": {"steps": 20, "learning_rate": 0.1, "rules": ["own_exact", "short"]},
    "measure": {"steps": {"every": 10}, "inputs": ["train", "test"], "operators": ["K"], "budget": 8},
    "quantity": [{"name": "trace"}, {"name": "trace", "label": "late", "from": 3}],
    "sweep": {
        "network.gain": [0.5, 1],
        "network.my net.width": [3, 4],
        "eta": {"path": "training.learning_rate", "values": [0.1, 0.2]},
    },
}


def problems(table: dict[str, Any], offered: Offered | None = None) -> list[str]:
    """Return the lines that are wrong with a table; the whole study must then be refused."""
    reader = StudyTable(table, offered)
    study = reader.study()
    assert (study is None) == bool(reader.problems)
    return reader.problems


def test_which_states_are_kept_is_a_setting_that_older_runs_do_not_know() -> None:
    measure = LEAST["measure"]
    kept = parse_study(LEAST | {"measure": {**measure, "keep": "sqrt"}}, "here")
    assert parse_study(LEAST, "here") == evolve(kept, measure=evolve(kept.measure, keep="all"))
    assert to_table(kept)["measure"]["keep"] == "sqrt"
    assert "keep" not in to_table(parse_study(LEAST, "here"))["measure"]
    (problem,) = problems(LEAST | {"measure": {**measure, "keep": "sqr"}})
    assert problem.startswith("measure.keep: expected one of 'all', 'sqrt', got 'sqr'")


def test_the_least_study_has_defaults() -> None:
    study = parse_study(LEAST, "here")
    assert study.title == "small on sum"
    assert (study.seeds, study.dtype, study.threads) == ((0,), "float32", 1)
    assert tuple(one.label for one in study.quantities) == DEFAULTS
    assert study.training.gradient == "autograd"
    assert (study.trained_by, study.sweep, study.rules) == ((), (), ())


def test_everything_that_can_be_said_is_read() -> None:
    study = parse_study(FULL, "here")
    assert study.seeds == (3, 1)
    assert (study.task, study.task_settings) == ("sum", {"delay": 4})
    assert [(n.label, n.reads, n.settings) for n in study.networks] == [
        ("my net", None, {"gain": 0.5}),
        ("small", "h", {}),
    ]
    assert study.trained_by == ("own_exact", "short")
    assert study.training.gradient == "operators"
    assert study.measure.steps == (0, 10, 20)
    assert [(q.name, q.label, q.settings) for q in study.quantities] == [
        ("trace", "trace", {}),
        ("trace", "late:trace", {"from": 3}),
    ]
    assert [(a.name, a.path, a.values) for a in study.sweep] == [
        ("gain", "network.gain", (0.5, 1.0)),
        ("width", "network.my net.width", (3, 4)),
        ("eta", "training.learning_rate", (0.1, 0.2)),
    ]
    # rules are compared where there are some, unless the study names what it records
    assert "rules" not in [one.name for one in study.quantities]
    compared = parse_study({**LEAST, "rule": [{"name": "own_exact"}]}, "here")
    assert [one.name for one in compared.quantities] == [*DEFAULTS, "rules"]


@pytest.mark.parametrize("table", [LEAST, FULL, "demo", "quick demo"])
def test_a_study_is_the_same_by_way_of_json(table: dict[str, Any] | str) -> None:
    study = (
        parse_study(table, "here") if isinstance(table, dict) else bundled_study("demo", quick=" " in table)
    )
    text = json.dumps(to_table(study), sort_keys=True)  # as the record of a run has it
    assert parse_study(json.loads(text), "there") == study
    assert parse_study({**json.loads(text), "seeds": [9]}, "there") != study


def test_the_task_itself_is_swept_as_text() -> None:
    rest = {key: value for key, value in LEAST.items() if key != "task"}
    table = {**rest, "sweep": {"task": ["sum(delay=4)", "other"], "network.gain": [1, 2]}}
    study = parse_study(table, "here")
    assert (study.task, study.task_settings) == ("sum", {"delay": 4})
    cells = [(cell.coordinates["task"], cell.task, dict(cell.task_settings)) for cell in expand(study)]
    assert cells == [("sum(delay=4)", "sum", {"delay": 4})] * 2 + [("other", "other", {})] * 2
    assert len({cell.name for cell in expand(study)}) == 4
    assert parse_study(json.loads(json.dumps(to_table(study), sort_keys=True)), "there") == study
    assert "task" not in to_table(study)

    def told(**change: Any) -> list[str]:
        return problems({**table, **change})

    assert told(task={"name": "sum"}) == [
        "task: expected none beside sweep.task, which has it as text, got a table"
    ]
    assert told(sweep={"task": ["sum(delay", "a b"]}) == [
        f"sweep.task[{place}]: task: expected a task such as flip_flop or flip_flop(bits=2), got {said}"
        for place, said in enumerate(("'sum(delay' ('(' was never closed)", "'a b' (invalid syntax)"))
    ]
    assert (
        told(sweep={"task": [1, 2]})[0]
        == "sweep.task[0]: expected a task as text, flip_flop(bits=2), got 1 (int)"
    )
    own = told(sweep={"task": ["sum"], "task.delay": [1]})
    assert own == ['sweep."task.delay": expected a setting of its own, got that of sweep.task again']


@pytest.mark.usefixtures("offered")
def test_each_task_of_a_sweep_is_looked_up_with_its_settings(tmp_path: Path) -> None:
    rest = {key: value for key, value in LEAST.items() if key != "task"}
    table = {**rest, "measure": {"steps": [0]}, "sweep": {"task": ["sum", "sun", "sum(dellay=3)"]}}
    found = problems(table, Offered(get_manager(), ()))
    assert found[0].startswith("sweep.task[1]: no task 'sun'; did you mean 'sum'?")
    assert found[1].startswith("sweep.task[2].dellay: expected one of the settings of task 'sum'")
    assert len(found) == 2


def test_a_number_of_inputs_that_the_task_will_give_is_no_problem() -> None:
    @frozen
    class Pairs:
        input_size: int = setting(ge=1, help="inputs")
        parts: int = setting(2, ge=1, help="parts")

        def __attrs_post_init__(self) -> None:
            if self.input_size % self.parts:
                raise ArgumentError(mismatch("input_size", f"a multiple of {self.parts}", self.input_size))

    def block(**settings: Any) -> list[str]:
        return Block("network[0]", "network", settings, Pairs).problems()

    assert block() == []
    assert block(parts=7) == []
    assert block(input_size=3) == ["network[0]: input_size: expected a multiple of 2, got 3"]
    assert block(parts=0) == ["network[0].parts: expected int >= 1, got 0"]


def test_seeds_are_counted_from_the_first() -> None:
    assert parse_study({**LEAST, "seed": 5, "seeds": 3}, "here").seeds == (5, 6, 7)
    assert parse_study({**LEAST, "seed": 5}, "here").seeds == (5,)


@pytest.mark.parametrize(
    ("form", "steps"),
    [
        ([30, 0], (0, 30)),
        ({"every": 30}, (0, 30, 60, 90, 100)),
        ({"count": 5}, (0, 25, 50, 75, 100)),
        ({"log": 4}, (0, 1, 10, 100)),
        ({"log": 101}, tuple(range(101))),
    ],
)
def test_steps_are_a_list_or_a_rule(form: Any, steps: tuple[int, ...]) -> None:
    assert steps_of(form, 100) == steps


@pytest.mark.parametrize("rule", ["log", "count"])
def test_there_are_as_many_steps_as_asked_for(rule: str) -> None:
    for last in (1, 2, 7, 60, 1000):
        for number in {2, last // 2 + 2, last + 1}:
            steps = steps_of({rule: number}, last)
            assert len(set(steps)) == number
            assert (steps[0], steps[-1], sorted(steps)) == (0, last, list(steps))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"netwrk": []}, ["netwrk: unknown table or key; did you mean 'network'?"]),
        ({"network": []}, ["network: expected at least one table [[network]], got none"]),
        (
            {"network": {"name": "small"}},
            ["network: expected a list of tables [[network]], got a table: write [[network]]"],
        ),
        (
            {"network": [{"nam": "small"}]},
            [
                "network[0].name: expected the registered name of a model, got nothing (it is required); "
                "there is 'nam'"
            ],
        ),
        (
            {"network": [{"name": "small"}, {"name": "small"}]},
            [
                "network[1].label: expected another one than network[0], got 'small' again; a label of its "
                "own tells them apart"
            ],
        ),
        ({"task": {}}, ["task.name: expected the registered name of a task, got nothing (it is required)"]),
        ({"seeds": [0, 2, 0]}, ["seeds[2]: expected another seed than those before, got 0 again"]),
        ({"seed": -1}, ["seed: expected a whole number in [0, 2**53), got -1 (int)"]),
        (
            {"seeds": 2, "network": [{"name": "small", "seed": 4}]},
            [
                "network[0].seed: expected none where the study has several seeds, each of which draws "
                "initial weights of its own, got 4"
            ],
        ),
        (
            {"measure": {"steps": [0, 5, "a", 1001]}},
            [
                f"measure.steps[{n}]: expected a whole number from 0 to 1000, the last step of the training, "
                f"got {value}"
                for n, value in ((2, "'a'"), (3, 1001))
            ],
        ),
        (
            {"training": {"step": 3, "batch_size": 0}},
            [
                "training.step: expected one of the settings of [training] (steps, batch_size, optimizer, "
                "learning_rate, momentum, gradient), got an unknown name; did you mean 'steps'?",
                "training.batch_size: expected int >= 1, got 0",
            ],
        ),
        (
            {"training": {"rules": ["a"], "gradient": "autograd"}},
            ["training.gradient: expected 'operators', with training.rules, got 'autograd'"],
        ),
        (
            {"training": {"gradient": "operators"}},
            [
                "training.gradient: expected learning rules in training.rules with 'operators', got none",
            ],
        ),
        (
            {"measure": {"steps": [0], "operators": ["K", "J", "Q*", "J P", "K", "PhiP*"]}},
            [
                "measure.operators[1]: expected a product that maps states to states, got 'J', which maps "
                "parameters to states",
                "measure.operators[2]: expected a product of P, K, Phi, J, G and their adjoints (P*), "
                "got 'Q*'",
                "measure.operators[5]: expected a product of P, K, Phi, J, G and their adjoints (P*), "
                "got 'PhiP*'; did you mean 'Phi P*'?",
                "measure.operators[3]: expected factors that fit each other, got 'J P': J takes parameters, "
                "P makes states",
                "measure.operators[4]: expected another one than those before, got 'K' again",
            ],
        ),
        (
            {"quantity": [{"name": "a", "label": "x"}, {"name": "b"}, {"name": "b", "label": "x"}]},
            ["quantity[2].label: expected another one than quantity[0], got 'x' again"],
        ),
        (
            {"quantity": [{"name": "a"}, {"name": "a"}, {"name": "b", "label": "no name"}]},
            [
                "quantity[1].label: expected another one than quantity[0], got 'a' again; a label of its "
                "own tells them apart",
                "quantity[2].label: expected letters, digits and _, from a letter on, got 'no name' (str)",
            ],
        ),
        (
            {"sweep": {"network.gain": [1, "b"], "network.nett.gain": [1], "training.steps": [2000, 1500.5]}},
            [
                'sweep."network.gain": expected numbers alone, texts alone or truth values alone, got '
                "[1, 'b'] (list)",
                "sweep.\"network.nett.gain\": label: expected the label of a network ('small'), got 'nett'",
                'sweep."training.steps"[1]: expected int >= 0, got 1500.5 (float)',
            ],
        ),
        (
            {"sweep": {"network": {"step": [1]}, "network.gain": [1, 1], "task.gain": [2]}},
            [
                'sweep."network.step": expected a name of letters, digits and _ for the dimension, got '
                "'step', which results have already; write [sweep.NAME] path = \"network.step\" values = "
                "[...]",
                'sweep."network.gain"[1]: expected another value than sweep."network.gain"[0], got 1',
            ],
        ),
        (
            {"sweep": {"network.gain": [1], "task.gain": [2], "g": {"path": "network.small.gain"}}},
            [
                "sweep.\"task.gain\": expected a dimension of its own, got 'gain' again; write [sweep.NAME] "
                'path = "task.gain" values = [...]',
                "sweep.g.values: expected a value, got nothing (it is required)",
            ],
        ),
        (
            {"sweep": {"network.gain": [1], "g": {"path": "network.small.gain", "values": [2]}}},
            ['sweep.g: expected a setting of its own, got that of sweep."network.gain" again'],
        ),
        ({"task": {"name": "sum", "x": float("nan")}}, ["task.x: expected a number, got nan"]),
        (
            {"training": {"rules": "rflo", "steps": 10**9}, "measure": {"steps": {"every": 2}}},
            [
                "training.rules: expected a list of texts, got 'rflo' (str); did you mean ['rflo']?",
                "measure.steps.every: expected at most 100000 steps, got 500000001",
            ],
        ),
        (
            {"seeds": 10**12, "threads": 10**9},
            [
                "seeds: expected how many (1 to 100000), or a list of seeds, got 1000000000000 (int)",
                "threads: expected a whole number in [1, 1024], got 1000000000 (int)",
            ],
        ),
        (
            {"seeds": 1000, "sweep": {"task.a": list(range(200)), "network.seed": [1, 2]}},
            [
                "sweep: expected at most 100000 trainings in all, got 200000",
                'sweep."network.seed": expected a name of letters, digits and _ for the dimension, got '
                "'seed', which results have already; write [sweep.NAME] path = \"network.seed\" values = "
                "[...]",
            ],
        ),
        (
            {"seeds": 2, "sweep": {"w": {"path": "network.small.seed", "values": [1, 2]}}},
            ["sweep.w: expected no seed of weights, where seeds are listed, got network.small.seed"],
        ),
        (
            {"training": {"steps": "x"}, "measure": {"steps": "all"}},
            [
                "training.steps: expected int >= 0, got 'x' (str)",
                "measure.steps: expected a list such as [0, 10, 100], {every = 10}, {log = 12} or "
                "{count = 60}, got 'all'",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(change: dict[str, Any], lines: list[str]) -> None:
    assert sorted(problems({**LEAST, **change})) == sorted(lines)


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    table = {
        "titel": "x",
        "threads": 0,
        "task": {"name": 3},
        "network": [{"name": "small", "label": " "}],
        "measure": {"steps": [], "budgt": 9},
    }
    with pytest.raises(SettingsError) as caught:
        parse_study(table, "my study.toml")
    paths = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert all(line.startswith("my study.toml: ") for line in str(caught.value).splitlines())
    assert paths == ["titel", "threads", "task.name", "network[0].label", "measure.steps", "measure.budgt"]


@pytest.mark.usefixtures("offered")
def test_names_and_settings_of_what_is_registered_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a study.toml"
    path.write_text(
        """
        quantity = []
        [task]
        name = "sun"
        [[network]]
        name = "small"
        input_sise = 3
        [[rule]]
        name = "own_window"
        label = "short"
        span = 3
        [training]
        steps = 4
        rules = ["own_twice", "own_trice", "short"]
        [measure]
        steps = [0, 4]
        [sweep]
        network.input_size = [2, 0]
        "network.slope" = [2.0]
        """
    )
    with pytest.raises(SettingsError) as caught:
        load_study(path)
    lines = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    starts = [
        "task.name: no task 'sun'; did you mean 'sum'?",
        "network[0].input_sise: expected one of the settings of model 'small' (input_size, gain), got an "
        "unknown name; did you mean 'input_size'?",
        "rule[0].span: expected one of the settings of rule 'own_window' (no settings), got an unknown name",
        "training.rules[1]: no rule 'own_trice'; did you mean 'own_twice'?",
        "training.rules[2]: rule 'own_window': span: expected one of its settings (no settings), got",
        'sweep."network.input_size"[1]: expected int >= 1, got 0',
        "sweep.\"network.slope\": expected one of the settings of model 'small' (input_size, gain), got "
        "'slope'",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 7, lines


def test_what_is_not_installed_says_what_to_install() -> None:
    offered = Offered(PluginManager(lambda: (), {}), ["kpf-toy"])
    found = problems({**LEAST, "quantity": []}, offered)
    assert found == [
        f"{path}.name: no {kind} {name!r}: this study needs kpf-toy, not installed here: pip install kpf-toy"
        for path, kind, name in (("task", "task", "sum"), ("network[0]", "model", "small"))
    ]
    assert problems({**LEAST, "quantity": []}) == []  # a table alone asks no plugin


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"does not exist; kpframe run --template"):
        load_study(tmp_path / "none.toml")
    with pytest.raises(ArgumentError, match=r"expected a TOML file, got the folder '[^';]*'$"):
        load_study(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArgumentError, match="'kpframe resume' goes on with the run in it"):
        load_study(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("title = 1\nsteps = ")
    with pytest.raises(ArgumentError, match=r"broken.toml: no TOML: .*line 2, column 9, the end"):
        load_study(broken)
    broken.write_text("title = 1\nx = [2] 3\n")
    with pytest.raises(ArgumentError, match=r"line 2, column 9\)"):
        load_study(broken)
    broken.write_bytes(b"title = 1\n# caf\xe9\n")
    with pytest.raises(ArgumentError, match=r"expected UTF-8, got another byte \(at line 2\)"):
        load_study(broken)


def uncommented(text: str) -> str:
    """Return a study file with the keys and tables that stand in comments."""
    return re.sub(r'^# (?=\[|\w+ = |")', "", text, flags=re.MULTILINE)


def test_the_template_parses_as_it_is_and_with_all_that_it_shows() -> None:
    plain = parse_study(tomllib.loads(template_text()), "template")
    assert (plain.sweep, plain.trained_by, len(plain.seeds)) == ((), (), 2)
    everything = uncommented(template_text())
    study = parse_study(tomllib.loads(everything), "template")
    assert [axis.name for axis in study.sweep] == ["hidden_size", "reset", "learning_rate", "M"]
    assert study.trained_by == ("bptt", "4 steps back")
    assert study.measure == plain.measure  # what it shows there are the defaults
    for cls, key in ((TrainingSettings, "training"), (MeasureSettings, "measure")):
        shown = set(re.findall(r"^(?:# )?(\w+) = ", template_text().partition(f"[{key}]")[2], re.MULTILINE))
        names = {info.name for info in describe(cls)} - {"gradient", "momentum"}
        assert names <= shown, key


ZERO = "expected a whole number in [1, 1024], got 0 (int)"
QUICK = {
    **FULL,
    "about": {"question": "Is  it\nso?", "published": "It is <b>so</b>."},
    "quick": {
        "seeds": 1,
        "network": [{"name": "small", "label": "my net"}],
        "training": {"steps": 4},
        "measure": {"steps": {"count": 2}},
        "sweep": {"network.gain": [0.5], "network.my net.width": [3]},
    },
}


def test_the_quick_form_is_laid_over_the_rest() -> None:
    full, quick = parse_study(QUICK, "here"), parse_study(QUICK, "here", quick=True)
    assert (full.quick, quick.quick) == (False, True)
    assert full == evolve(
        parse_study(FULL, "here"), question="Is it so?", published="It is <b>so</b>."
    )  # what [quick] says changes nothing but the quick form
    assert (quick.question, quick.published) == (full.question, full.published)
    assert quick.seeds == (0,)
    assert [(n.label, n.settings) for n in quick.networks] == [("my net", {})]  # a list is replaced
    assert quick.training == evolve(full.training, steps=4)  # a table is merged
    assert quick.measure == evolve(full.measure, steps=(0, 4))  # forms of steps exclude each other
    assert [(a.name, a.values) for a in quick.sweep] == [
        ("gain", (0.5,)),
        ("width", (3,)),
        ("eta", (0.1, 0.2)),
    ]
    text = json.dumps(to_table(quick), sort_keys=True)
    assert parse_study(json.loads(text), "there") == quick
    assert parse_study({**json.loads(text), "quick": {"seeds": [0]}}, "there") == evolve(quick, quick=False)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"about": "why"}, ["about: expected a table [about], got 'why' (str)"]),
        (
            {"about": {"questoin": "?", "published": ""}},
            [
                "about.questoin: expected question or published, got an unknown name; did you mean "
                "'question'?",
                "about.published: expected text, got '' (str)",
            ],
        ),
        ({"quick": 3}, ["quick: expected a table [quick], got 3 (int)"]),
        ({"quick": {}}, ["quick: expected keys that differ in the quick form, got an empty table"]),
        (
            {"quick": {"about": {}}},
            ["quick.about: expected a table or key that differs, got [about], which is of all forms"],
        ),
        (
            {"quick": {"sedes": 3, "threads": 0}},
            [
                "quick.sedes: unknown table or key; did you mean 'seeds'?",
                f"quick.threads: {ZERO}",
            ],
        ),
        (
            {"threads": 0, "quick": {"seeds": 1}},
            [f"threads: {ZERO}"],
        ),
        (
            {"threads": 0, "quick": {"threads": 0}},
            [f"{key}: {ZERO}" for key in ("threads", "quick.threads")],
        ),
        (
            {"quick": {"training": {"steps": 1}}},
            [
                "measure.steps[1]: expected a whole number from 0 to 1, the last step of the training, got "
                "1000 (with what stands in [quick])"
            ],
        ),
        (
            {"quick": {"sweep": {"network.gain": []}}},
            ['quick.sweep."network.gain": expected a list of at least one value, got [] (list)'],
        ),
        ({"quick": {"seeds": date(2026, 1, 1)}}, None),
    ],
)
def test_what_is_wrong_with_about_and_quick_is_said_used_or_not(
    change: dict[str, Any], lines: list[str] | None
) -> None:
    said = []
    for quick in (False, True):
        with pytest.raises(SettingsError) as caught:
            parse_study({**LEAST, "quick": {"seeds": 2}, **change}, "f", quick=quick)
        said.append([line.removeprefix("f: ") for line in str(caught.value).splitlines()])
    assert said[0] == said[1]
    if lines is None:
        assert {line.partition(":")[0] for line in said[0]} == {"quick.seeds"}
    else:
        assert said[0] == lines


@pytest.mark.usefixtures("offered")
def test_a_quick_form_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    least = 'quantity = []\n{}[task]\nname = "sum"\n[[network]]\nname = "small"\n[measure]\nsteps = [0]\n'
    path.write_text(least.format(""))
    with pytest.raises(
        ArgumentError, match=r"a study with a table \[quick\], got '.*study.toml' without one"
    ):
        load_study(path, quick=True)
    path.write_text(
        least.format("quick = true\n")
    )  # which marks the record of a quick form, and is no file's
    for quick in (False, True):
        with pytest.raises(SettingsError, match=r"quick: expected a table \[quick\], got True \(bool\)"):
            load_study(path, quick=quick)
