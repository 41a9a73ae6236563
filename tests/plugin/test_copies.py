"""Metadata that lies about: left over, found twice, of two distributions with one module."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from kpframe.errors import UnknownNameError
from kpframe.plugin._discovery import installed_entry_points

FORK = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("good_model", "kpf_good:other")
"""


@pytest.fixture(params=[False, True], ids=["sorted", "reversed"])
def any_order(request, monkeypatch):
    """List folders in either order, as file systems do."""
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listdir(path), reverse=request.param))


def loaded(infos, version="1.0"):
    info = infos["kpf-good"]
    return (info.status, info.version, [spec.name for spec in info.specs]) == (
        "loaded",
        version,
        ["good_model"],
    )


@pytest.mark.parametrize("where", [0, 1], ids=["same-folder", "earlier-folder"])
@pytest.mark.parametrize("content", [None, "", "Name: kpf-good\n", "Metadata-Version: 2.1\nVersion: 0.9\n"])
@pytest.mark.rows(4)
def test_metadata_that_is_left_over_hides_no_plugin(here, good, any_order, where, content):
    here.sites[where].install("kpf-good", good)
    left = here.sites[0].folder / "kpf_good-0.9.dist-info"
    left.mkdir()
    if content is not None:
        (left / "METADATA").write_text(content)
    infos, (problem,) = here.load()
    assert loaded(infos)
    assert (problem.distribution, problem.stage) == ("kpf-good", "twice")
    assert problem.message == (
        f"beside version 1.0 in {here.sites[where].folder} there is {left}, left of another installation"
    )
    assert problem.fix == f"delete {left}, or KPFRAME_DISABLE_PLUGINS=kpf-good"
    shutil.rmtree(left)
    infos, problems = here.load()
    assert loaded(infos)
    assert problems == []


def test_the_modules_beside_left_over_metadata_go_with_it(here, good):
    """They would be imported in place of those of the whole installation."""
    first, second = here.sites
    first.install("kpf-good", FORK, "0.9")
    (first.folder / "kpf_good-0.9.dist-info" / "METADATA").unlink()
    second.install("kpf-good", good)
    infos, (problem,) = here.load()
    assert infos["kpf-good"].version == "1.0"
    left = [first.folder / "kpf_good-0.9.dist-info", first.folder / "kpf_good"]
    assert problem.fix.startswith(f"delete {left[0]} and {left[1]}, or ")
    for path in left:
        shutil.rmtree(path)
    infos, problems = here.load()
    assert infos["kpf-good"].specs[0].factory == "kpf_good:build"
    assert problems == []


@pytest.mark.parametrize(
    "entry_points", [None, "", "[console_scripts]\nx = y:z\n", "[kpframe]\nx = kpf_gone\n"]
)
def test_stale_metadata_of_a_version_that_was_no_plugin(here, good, any_order, entry_points):
    """It was replaced in part: what is left comes first on the path, and names no module that is there."""
    here.sites[1].install("kpf-good", good)
    stale = here.sites[0].folder / "kpf_good-0.9.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: kpf_good\nVersion: 0.9\n")
    (stale / "RECORD").write_text("")
    if entry_points is not None:
        (stale / "entry_points.txt").write_text(entry_points)
    infos, (problem,) = here.load()
    assert loaded(infos)
    assert problem.stage == "twice"
    places = f"1.0 in {here.sites[1].folder} and 0.9 in {here.sites[0].folder}"
    assert problem.message == f"it is installed 2 times ({places}); 1.0 is used"
    assert problem.fix.startswith(
        "pip uninstall -y kpf-good && pip uninstall -y kpf-good && pip install kpf-good, or KPFRAME_"
    )


def test_of_two_versions_in_one_folder_the_one_written_last_counts(here, good, any_order):
    """The modules are its: pip writes an upgrade over what was there."""
    site = here.sites[0]
    site.install("kpf-good", good, "1.0")
    shutil.copytree(site.folder / "kpf_good-1.0.dist-info", site.folder / "kpf_good-0.9.dist-info")
    path = site.folder / "kpf_good-0.9.dist-info" / "METADATA"
    path.write_text(path.read_text().replace("Version: 1.0", "Version: 0.9"))
    for newest, oldest in (("1.0", "0.9"), ("0.9", "1.0")):
        os.utime(site.folder / f"kpf_good-{newest}.dist-info", (2e9, 2e9))
        os.utime(site.folder / f"kpf_good-{oldest}.dist-info", (1e9, 1e9))
        infos, (problem,) = here.load()
        assert loaded(infos, newest)
        assert problem.stage == "twice"


def test_pip_s_own_left_over_is_no_second_plugin(here, good, any_order):
    site = here.sites[0]
    site.install("kpf-good", good)
    left = site.folder / "~pf_good-1.0.dist-info"
    shutil.copytree(site.folder / "kpf_good-1.0.dist-info", left)
    shutil.copytree(site.folder / "kpf_good", site.folder / "~pf_good")
    infos, problems = here.load()
    assert loaded(infos)
    assert problems == []
    # the plugin itself is gone: pip was stopped after it had moved everything aside
    shutil.rmtree(site.folder / "kpf_good-1.0.dist-info")
    shutil.rmtree(site.folder / "kpf_good")
    infos, (problem,) = here.load()
    assert infos["kpf-good"].status == "broken"
    assert problem.stage == "metadata"
    assert problem.message == (
        "pip was interrupted while it removed or replaced it, and left '~pf_good-1.0.dist-info'"
    )
    assert problem.fix == (
        f"delete '{left}', then pip install --force-reinstall kpf-good, or KPFRAME_DISABLE_PLUGINS=kpf-good"
    )
    shutil.rmtree(left)
    infos, (problem,) = here.load()
    assert (infos, problem.stage) == ({}, "environment")  # what the list allows is not there any more


def test_two_distributions_with_one_module(here, good):
    here.sites[0].install("kpf-good", good)
    here.sites[1].install("kpf-zfork", FORK, "2.0")
    points = here.sites[1].folder / "kpf_zfork-2.0.dist-info" / "entry_points.txt"
    points.write_text("[kpframe]\nkpf-zfork = kpf_good\n")
    infos, (problem,) = here.load()
    assert loaded(infos)
    assert infos["kpf-zfork"].status == "broken"
    assert (problem.distribution, problem.stage) == ("kpf-zfork", "shared")
    assert problem.message == "kpf-good 1.0 installs the module 'kpf_good' too, and is taken for its owner"
    assert problem.fix == (
        "pip uninstall -y kpf-zfork && pip install --force-reinstall kpf-good, "
        "or KPFRAME_DISABLE_PLUGINS=kpf-zfork"
    )
    manager = here.manager(KPFRAME_DISABLE_PLUGINS="kpf-zfork")
    assert manager.find("model", "good_model").name == "good_model"
    assert manager.problems == []
    points.write_text("[kpframe]\nkpf-zfork = kpf_zfork\n")  # with a module of its own it is a clash of names
    _, (problem,) = here.load()
    assert problem.stage == "clash"


def test_a_folder_without_code_is_no_module(here, good):
    here.sites[0].install("kpf-good", good)
    (here.sites[0].folder / "kpf_good" / "__init__.py").unlink()
    infos, (problem,) = here.load()
    assert infos["kpf-good"].status == "broken"
    assert problem.stage == "metadata"
    assert problem.message == (
        "its entry point names the module 'kpf_good', of which only a folder without code is left"
    )
    assert problem.fix.startswith("pip install --force-reinstall kpf-good, or pip uninstall kpf-good, or ")
    (here.sites[0].folder / "kpf_good-1.0.dist-info" / "RECORD").unlink()  # pip cannot replace it
    _, (problem,) = here.load()
    assert problem.fix.startswith(
        f"delete {here.sites[0].folder / 'kpf_good-1.0.dist-info'}, then pip install "
    )


@pytest.mark.parametrize("name", ["kpf_good", "Kpf.Good", "KPF--GOOD"])
def test_names_that_differ_by_signs_only_are_one(here, good, name):
    site = here.sites[0]
    site.install("kpf-good", good.replace("good_model", "good_long_model"))
    path = site.folder / "kpf_good-1.0.dist-info" / "METADATA"
    path.write_text(path.read_text().replace("Name: kpf-good", f"Name: {name}"))
    manager = here.manager()
    (info,) = [info for info in manager.plugins if info.status == "loaded"]
    assert (info.distribution, manager.problems) == (name, [])
    for asked in (
        "good_long_model",
        "good-long-model",
        "kpf-good:good-long_model",
        "kpf_good:good_long_model",
    ):
        assert manager.find("model", asked).name == "good_long_model"
    assert manager.find(None, "good-long-model").name == "good_long_model"
    with pytest.raises(UnknownNameError):
        manager.find("model", "goodlongmodel")
    assert here.manager(KPFRAME_DISABLE_PLUGINS="kpf_good").specs("model") == []


def test_a_distribution_of_any_name_and_form_is_found(here, good):
    """Also one whose metadata lie in an egg-info, and beside one that has none of its own."""
    site = here.sites[0]
    site.install("kpf-good", good)
    (site.folder / "kpf_good-1.0.dist-info").rename(site.folder / "kpf_good.egg-info")
    (site.folder / "kpf_good.egg-info" / "METADATA").rename(site.folder / "kpf_good.egg-info" / "PKG-INFO")
    (site.folder / "-.dist-info").mkdir()
    (site.folder / ".dist-info").mkdir()
    infos, problems = here.load()
    assert loaded(infos)
    assert problems == []
    assert "kpf-good" in {point.name for point in installed_entry_points()}


def test_a_plugin_in_an_archive(here, good, monkeypatch):
    site = here.sites[1]
    site.install("kpf-good", good)
    archive = shutil.make_archive(str(site.folder / "all"), "zip", site.folder)
    shutil.rmtree(site.folder / "kpf_good")
    shutil.rmtree(site.folder / "kpf_good-1.0.dist-info")
    monkeypatch.syspath_prepend(archive)
    infos, problems = here.load()
    assert loaded(infos)
    assert problems == []
    (here.sites[0].folder / "kpf_good-0.9.dist-info").mkdir()
    infos, (problem,) = here.load()
    assert loaded(infos)
    assert problem.fix.startswith(f"delete {here.sites[0].folder / 'kpf_good-0.9.dist-info'}, or ")


def test_a_finder_that_fails_hides_no_plugin(here, good, monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(*arguments):
            return None

        @staticmethod
        def find_distributions(context):
            raise RuntimeError("no")

    here.sites[0].install("kpf-good", good)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    infos, problems = here.load()
    assert loaded(infos)
    assert problems == []


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("Name", "kpf-good\x1b]0;owned\x07", "its Name is 'kpf-good\\x1b]0;owned\\x07'"),
        ("Name", "kpf good; rm -rf /", "its Name is 'kpf good; rm -rf /'"),
        ("Version", "1.0\n Warning: forged", "its Version is ' 1.0\\nWarning: forged'"),
        ("Version", "", "its Version is ''"),
    ],
)
def test_a_name_or_version_that_is_none(here, good, key, text, said):
    site = here.sites[0]
    site.install("kpf-good", good)
    path = site.folder / "kpf_good-1.0.dist-info" / "METADATA"
    lines = {"Metadata-Version": "2.1", "Name": "kpf-good", "Version": "1.0", key: text}
    path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    infos, (problem,) = here.load()
    assert infos["kpf-good"].status == "broken"
    assert problem.stage == "metadata"
    assert problem.message == f"its metadata cannot be read: ValueError: {said}"
    assert "\x1b" not in str(problem)
    assert "\n" not in str(problem)
