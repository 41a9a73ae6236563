"""What the core offers by its own hooks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import kpframe
from kpframe import Propagator
from kpframe.errors import SettingsError, UnknownNameError
from kpframe.flow import DensePropagator
from kpframe.operators._reducer import Bin, LastValid, Mean, PartialTrace, Project, Select
from kpframe.plugin import PluginManager, PluginWarning, PropagatorSpec, get_manager, hookimpl
from kpframe.plugin._core import core
from kpframe.plugin._settings import describe

NAMES = {
    "propagator": {"scan", "stepwise", "dense", "graph", "cuda_graph"},
    "parameter_operator": {"product", "gram"},
    "reducer": {"mean", "sum", "bin", "select", "last_valid", "project", "partial_trace", "block_diagonal"},
}
#: Some of what studies can record.
RECORDED = {"scores", "effective_rank", "trace", "norm", "spectrum", "time_kernel", "trial_kernel", "rules"}


class Scan:
    """Offers a name that the core has."""

    @hookimpl
    def kpframe_propagators(self):
        yield PropagatorSpec("scan", "kpf_other:Scan")


class Lens:
    """Offers a propagator that takes A and a setting."""

    @hookimpl
    def kpframe_propagators(self):
        yield PropagatorSpec("lens", f"{__name__}:Made")


class Made:
    def __init__(self, A):
        self.A = A


def test_the_core_is_held_and_is_no_plugin():
    manager = PluginManager(lambda: (), {"KPFRAME_PLUGINS": ""})
    assert (manager.plugins, manager.installed(), manager.problems) == ([], [], [])
    for kind, names in NAMES.items():
        assert {spec.name for spec in manager.specs(kind)} == names
    assert {spec.name for spec in manager.specs("quantity")} >= RECORDED
    assert manager.specs("model") == []
    scan = manager.find("propagator", "scan")
    assert scan is manager.find(None, "kpframe:scan")
    assert manager.plugin_of(scan) is core()
    assert core().version == kpframe.__version__
    for spec in core().specs:
        assert spec.summary
        assert all(info.help for info in describe(spec.settings))


def test_the_forms_are_made_of_their_settings():
    flow = kpframe.linearize(kpframe.wrap(torch.nn.GRUCell(2, 3)), torch.ones(1, 4, 2))
    made = get_manager().create("propagator", "kpframe:dense", {"max_bytes": 1000}, Propagator, flow.A)
    assert isinstance(made, DensePropagator)
    assert (made.max_bytes, made.A) == (1000, flow.A)
    whole = get_manager().create("propagator", "kpframe:dense", {}, Propagator, flow.A)
    assert whole.max_bytes == DensePropagator(flow.A).max_bytes > 1000
    with pytest.raises(
        SettingsError, match=r"propagator 'kpframe:dense': max_bytes: expected int >= 1, got 0"
    ):
        get_manager().create("propagator", "kpframe:dense", {"max_bytes": 0}, Propagator, flow.A)


def test_the_core_cannot_be_disabled():
    manager = PluginManager(lambda: (), {"KPFRAME_DISABLE_PLUGINS": "kpframe"})
    with pytest.warns(PluginWarning, match="'kpframe', which is no installed plugin"):
        assert manager.find("propagator", "scan").factory == "kpframe.flow:ScanPropagator"


def test_a_clash_with_the_core_refuses_the_bare_name():
    manager = PluginManager(lambda: (), {})
    with pytest.warns(
        PluginWarning, match=r"kpframe 0\S* offers 'scan' too; the bare name is refused"
    ) as told:
        info = manager.register(Scan(), distribution="kpf-other")
    assert str(told[0].message).endswith("write 'kpf-other:scan' or 'kpframe:scan'")
    with pytest.raises(UnknownNameError, match="write one of kpf-other:scan, kpframe:scan"):
        manager.find("propagator", "scan")
    assert manager.find("propagator", "kpframe:scan") in core().specs
    assert manager.find("propagator", "kpf-other:scan").factory == "kpf_other:Scan"
    manager.unregister(info)
    assert manager.find("propagator", "scan") in core().specs


def test_nothing_else_goes_by_the_name_of_the_core():
    manager = PluginManager(lambda: (), {})
    with pytest.warns(PluginWarning, match="it offers the propagator 'scan' twice"):
        assert manager.register(Scan(), distribution="KPframe").status == "broken"
    assert manager.find("propagator", "kpframe:scan") in core().specs


def test_arguments_go_before_the_settings():
    manager = PluginManager(lambda: (), {})
    manager.register(Lens(), distribution="kpf-lens")
    given = object()
    assert manager.create("propagator", "lens", {}, Made, given).A is given
    with pytest.raises(kpframe.errors.PluginError, match="missing a required argument: 'A'"):
        manager.create("propagator", "lens", {}, Made)
    with pytest.raises(kpframe.errors.PluginError, match="too many positional arguments"):
        manager.create("propagator", "lens", {}, Made, given, given)


def test_the_reducers_are_made_of_their_settings():
    made = kpframe.create_reducer("mean", axes=["time", "batch"])
    assert isinstance(made, Mean)
    assert made.axes == ("time", "batch")
    assert type(kpframe.create_reducer("partial-trace", axes=["time"])) is PartialTrace
    window = kpframe.create_reducer("bin", time=5, batch=2)
    assert isinstance(window, Bin)
    assert window.lengths == {"time": 5, "batch": 2}
    chosen = kpframe.create_reducer("kpframe:select", hidden=slice(0, 2), axis_of_my_own=-1)
    assert isinstance(chosen, Select)
    assert chosen.indices == {"hidden": slice(0, 2), "axis_of_my_own": -1}
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert kpframe.create_reducer("last_valid", mask=mask).mask is mask
    assert isinstance(kpframe.create_reducer("last_valid", mask=mask), LastValid)
    project = kpframe.create_reducer("project", directions=mask, name="readout")
    assert isinstance(project, Project)
    assert (project.axis, project.name) == ("hidden", "readout")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mean", {"axis": ["time"]}, "reducer 'mean': axis: expected one of its settings"),
        ("mean", {"axes": "time"}, "reducer 'mean': axes: expected a list such as"),
        ("last_valid", {}, "reducer 'last_valid': mask: expected Tensor, got nothing"),
        ("project", {"directions": None, "axes": "hidden"}, "reducer 'project': axes: .*did you mean 'axis'"),
    ],
)
def test_wrong_settings_of_a_reducer(name, settings, message):
    with pytest.raises(SettingsError, match=message):
        kpframe.create_reducer(name, **settings)


def test_the_core_s_names_need_no_torch():
    code = (
        "import sys; from kpframe.plugin import PluginManager; "
        "print(len(PluginManager(lambda: ()).specs('reducer')), 'torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "8 False\n"
