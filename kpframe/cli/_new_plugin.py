"""``kpframe new-plugin``: a complete distribution to start from; it installs and passes its tests at once."""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from pathlib import Path

import click

from kpframe import __version__
from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import API_VERSION, KINDS, get_manager
from kpframe.plugin._core import core
from kpframe.plugin._loading import same_distribution
from kpframe.plugin._specs import plural
from kpframe.study._disk.files import check_folder, make_folder, write_text

PREFIX = "kpframe-"

#: kind: what the template offers, until its author replaces it
SUMMARIES = {
    "model": "a leaky cell: h' = (1 - leak) h + leak tanh(W_in x + W_rec h + b)",
    "rule": "backpropagation through time that discounts each step back",
    "reducer": "the average over the last steps",
    "task": "delayed recall: the output is the input of some steps before",
    "propagator": "forward and backward substitution over blocks of steps",
    "parameter_operator": "J M J* from J written out as a matrix",
    "quantity": "how far the state moves, step by step",
}

#: what the implementations import, which a class must not hide
IMPORTED = {
    *("None", "True", "False", "Mapping", "Site", "SiteModel", "Flow", "LearningRule", "Operator"),
    *("Propagator", "StepJacobian", "ParameterOperator", "ParameterJacobian"),
    *("Reducer", "Settings", "Task", "Trials", "Split", "Update", "Quantity", "Moment"),
}


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(SUMMARIES)), required=True, help="What the plugin offers.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write, new or empty; ./kpframe-NAME when left out.",
)
def new_plugin(name: str, kind: str, output: Path | None) -> None:
    """Write a plugin to start from: a distribution that installs and passes its tests.

    NAME is what it offers (kuramoto), or the distribution's name (kpframe-kuramoto).
    """
    names = names_of(name)
    folder = Path(names["distribution"]) if output is None else output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(mismatch("--output", "a new or empty folder", f"{folder}, which is not"))
    check_folder(folder)
    _check_free(kind, names)
    written = render(kind, names)
    for path, text in written.items():
        make_folder((folder / path).parent)
        write_text(folder / path, text)
    click.echo(f"Wrote {names['distribution']} to {folder}:")
    for path in written:
        click.echo(f"  {path}")
    where = str(folder) if folder.is_absolute() else f"./{folder}"
    click.echo("Next:")
    for command in (
        f"pip install -e {shlex.quote(f'{where}[test]')}",
        f"kpframe show {names['name']}",
        f"pytest {shlex.quote(where)}",
    ):
        click.echo(f"  {command}")
    click.echo(f"Then write your own {said(kind)} in {folder / _implementation(kind, names)}.")


def names_of(name: str) -> dict[str, str]:
    """Return the names that follow from one: of the distribution, its package, what it offers, the class.

    Raises:
        ArgumentError: for a name that cannot be that of a distribution and of something on offer.
    """
    bare = re.sub(r"[-_.]+", "-", name).lower().removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name) or not re.fullmatch(
        r"[a-z][a-z0-9]*(-[a-z0-9]+)*", bare
    ):
        raise ArgumentError(
            mismatch("NAME", "letters, digits and -, from a letter on, such as kuramoto", repr(name))
        )
    if bare == PREFIX.rstrip("-"):
        raise ArgumentError(mismatch("NAME", f"something after {PREFIX!r}", repr(name)))
    offered = bare.replace("-", "_")
    cls = "".join(part.capitalize() for part in bare.split("-"))
    return {
        "distribution": PREFIX + bare,
        "package": f"kpframe_{offered}",
        "name": offered,
        "cls": f"My{cls}" if cls in IMPORTED else cls,
    }


def render(kind: str, names: dict[str, str]) -> dict[str, str]:
    """Return path -> text of every file of the distribution."""
    from jinja2 import Environment, StrictUndefined

    folder = files("kpframe.cli") / "templates" / "plugin"
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    source = f"src/{names['package']}"
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{source}/__init__.py": "init.py",
        _implementation(kind, names): f"{kind}.py",
        "tests/test_conformance.py": "test_conformance.py",
    }
    facts = {
        **names,
        "kind": kind,
        "hook": f"kpframe_{plural(kind)}",
        "said": said(kind),
        "spec": KINDS[kind].__name__,
        "summary": SUMMARIES[kind],
        "api": API_VERSION,
        "kpframe_version": __version__,
    }
    written = {
        path: environment.from_string((folder / f"{template}.j2").read_text(encoding="utf-8")).render(facts)
        for path, template in templates.items()
    }
    return {**written, f"{source}/py.typed": ""}


def said(kind: str) -> str:
    """Return a kind as it is written in a sentence."""
    return kind.replace("_", " ")


def _implementation(kind: str, names: dict[str, str]) -> str:
    return f"src/{names['package']}/{kind}.py"


def _check_free(kind: str, names: dict[str, str]) -> None:
    """Refuse a name that the core has, and warn of one that an installed plugin has."""
    name = names["name"]
    own = [spec.name for spec in core().specs if spec.kind == kind]
    if name in own:
        raise ArgumentError(
            mismatch("NAME", f"none of the core's {said(plural(kind))} ({', '.join(own)})", repr(name))
        )
    for info in get_manager().plugins:
        if same_distribution(info.distribution, names["distribution"]):
            click.echo(
                f"Warning: {info.distribution} {info.version} is installed; to install this one replaces it",
                err=True,
            )
        elif any((spec.kind, spec.name) == (kind, name) for spec in info.specs):
            click.echo(
                f"Warning: {info.distribution} {info.version} offers the {said(kind)} {name!r} too; with "
                f"both installed the bare name is refused, and '{names['distribution']}:{name}' is yours",
                err=True,
            )
