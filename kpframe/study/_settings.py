"""What a study is, checked: networks, tasks, trainings, and what is recorded of them when."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from kpframe.plugin._settings import setting
from kpframe.study._moment import OPERATORS
from kpframe.study._running.training import TrainingSettings


@frozen
class NetworkSettings:
    """A network of a study: a registered model and its settings."""

    name: str = setting(help="registered name of the model")
    label: str = setting(help="what figures and tables call it")
    settings: dict[str, Any] = setting(help="the model's own settings; input_size comes from the task")
    reads: str | None = setting(None, help="component of the state that is read out; all of it by default")


@frozen
class RuleSettings:
    """A learning rule that is compared with the exact gradient at the recorded steps."""

    name: str = setting(help="registered name of the rule")
    label: str = setting(help="what figures and tables call it")
    settings: dict[str, Any] = setting(help="the rule's own settings")


@frozen
class QuantitySettings:
    """Something that is recorded.

    ``label`` is the registered name, or ``<own label>:<name>``; an own label stands before the names of its
    variables, so that one quantity can be recorded twice.
    """

    name: str = setting(help="registered name of the quantity")
    label: str = setting(help="the name, or <own label>:<name>")
    settings: dict[str, Any] = setting(help="the quantity's own settings")


@frozen
class MeasureSettings:
    """When the operators are measured, along which inputs, and what may be spent."""

    steps: tuple[int, ...] = setting(help="training steps to measure at; 0 is the untrained network")
    trials: int = setting(24, ge=2, help="trials of each fixed batch of inputs")
    inputs: tuple[str, ...] = setting(
        ("test",), choices=("train", "test"), help="sets of inputs: of training, and unseen ones"
    )
    operators: tuple[str, ...] = setting(OPERATORS, help="operators: products of P, K, Phi, J, G, and P* ...")
    budget: int = setting(60, ge=4, help="operator products spent on each estimate")
    probes: str = setting(
        "each", choices=("each", "same"), help="random probes: each step its own, or the same at all steps"
    )
    keep: str = setting(
        "all",
        choices=("all", "sqrt"),
        help="states kept along a trial: all, or sqrt(T) of them, between which each product rolls out again",
    )


@frozen
class SweepAxis:
    """A setting that is varied: a name for the dimension, the path of the setting, and its values."""

    name: str
    path: str
    values: tuple[Any, ...]


@frozen
class StudySettings:
    """A whole study.

    Attributes:
        title: of the study.
        task, task_settings: a registered task.
        seeds: of weights, trials, probes and random rules; each a training of its own.
        dtype: ``"float32"`` or ``"float64"``.
        threads: number of threads inside a torch operation while training: small networks are fastest with
            one, whatever else the machine is doing.
        networks: what is trained.
        trained_by: texts of the learning rules that networks are trained by, ``"rflo"`` or
            ``"truncated_bptt(window=5)"``, the first of them the one that others are compared with; empty for
            ``training.gradient``.
        rules: learning rules that are compared with the exact gradient at the recorded steps.
        training: how.
        measure: when and how the operators are measured.
        quantities: what is recorded.
        sweep: settings that are varied, each combination a training of its own.
        plugins: the distributions that offer what it names.
        question, published: what it asks, and what is published of it; empty where it does not say.
        quick: whether this is the quick form of the study.
    """

    title: str
    task: str
    task_settings: dict[str, Any]
    seeds: tuple[int, ...]
    dtype: str
    threads: int
    networks: tuple[NetworkSettings, ...]
    rules: tuple[RuleSettings, ...]
    training: TrainingSettings
    measure: MeasureSettings
    quantities: tuple[QuantitySettings, ...]
    trained_by: tuple[str, ...] = ()
    sweep: tuple[SweepAxis, ...] = ()
    plugins: tuple[str, ...] = ()
    question: str = ""
    published: str = ""
    quick: bool = False
