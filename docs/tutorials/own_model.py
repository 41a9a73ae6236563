# %% [markdown]
# # Write an architecture as a plugin
#
# You have the equations of a recurrent model and want its operators: P, K, Phi, their spectra, what a learning rule does to it. This page
# writes a network of FitzHugh-Nagumo neurons as a plugin, installs it, checks it, and then makes it faster. To begin, let kpframe write a
# plugin that installs and passes its tests; your equations go into it.

# %%
# !kpframe new-plugin fitzhugh_nagumo --kind model
# %cd kpframe-fitzhugh-nagumo

# %% [markdown]
# ## The equations
#
# Neuron i has a fast variable v and a slow recovery w; a trainable matrix couples the neurons, another one feeds the
# input in. All of it is dimensionless, with time in units of the fast variable's:
#
#     dv/dt = v - v^3/3 - w + I        dw/dt = (v + a - b w) / tau        I = coupling v + drive x
#
# kpframe wants a map from one state to the next. Euler's step, `h + dt * dh/dt`, would be one, but the cubic term makes it
# explode when the current is strong; `v' = v - v^3/3` alone has a solution in closed form, so the step takes that and makes
# Euler's step of the rest. The author of a model writes the constructor and one pure method, `step`. (`%%writefile` puts a cell into the
# file that it names.)

# %%
# %%writefile src/kpframe_fitzhugh_nagumo/model.py
"""FitzHugh-Nagumo neurons by their equations; P, K, Phi and the rest follow from ``step``."""

import math

import torch

import kpframe
from kpframe.plugin import takes_settings
from kpframe_fitzhugh_nagumo import Settings


class FitzHughNagumo(kpframe.Model):
    """Excitable neurons with a fast variable v and a recovery w, coupled and driven by trainable weights::

        dv/dt = v - v^3/3 - w + I        dw/dt = (v + a - b w) / tau        I = coupling v + drive x

    (FitzHugh 1961, Biophysical Journal 1:445). A step solves v' = v - v^3/3 exactly and makes Euler's step
    of the rest: so the cubic term does not explode, however strong the current.
    """

    @takes_settings(Settings)
    def __init__(self, settings: Settings) -> None:
        n = settings.hidden_size
        super().__init__(input_size=settings.input_size, state={"v": n, "w": n})
        self.dt, self.a, self.b, self.tau = settings.dt, settings.a, settings.b, settings.tau
        self.coupling, self.drive = initial_weights(settings)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state: x ``[N, I]``, h ``[N, 2 n]`` -> ``[N, 2 n]``."""
        v, w = h.chunk(2, dim=-1)
        current = v @ self.coupling.mT + x @ self.drive.mT
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return torch.cat([kicked + self.dt * (current - w), w + self.dt * dw], dim=-1)


def initial_weights(settings: Settings) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """Return the coupling ``[n, n]`` and the drive ``[n, I]``, normal numbers of the settings' seed."""
    n, inputs, seed = settings.hidden_size, settings.input_size, settings.seed
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    coupling = torch.randn(n, n, generator=generator) / n**0.5
    drive = torch.randn(n, inputs, generator=generator) / inputs**0.5
    return torch.nn.Parameter(0.5 * coupling), torch.nn.Parameter(drive)


# %% [markdown]
# That is all there is to a model. `step` sees N rows at once, which are independent: trials and, when kpframe
# linearizes, all steps of all trials. The state's components lie side by side on one axis, in the order in which `state`
# names them. What requires a gradient is theta.
#
# ## The same with its structure
#
# Without more knowledge kpframe differentiates `step` automatically: exact, and correct for any model. But nothing tells
# it that `v_i` and `w_i` of one neuron meet pointwise, and that neurons talk through two matrices only. Declare the matrices
# as sites and write the pointwise rest; the structured A, J, P and K are derived from that, again without a derivative by
# hand. This second form can wait until a study becomes slow.

# %%
# %%writefile src/kpframe_fitzhugh_nagumo/structured.py
"""The same neurons with their weights declared as sites, from which kpframe derives fast operators."""

import math
from collections.abc import Mapping

import torch

import kpframe
from kpframe.plugin import takes_settings
from kpframe_fitzhugh_nagumo import Settings
from kpframe_fitzhugh_nagumo.model import initial_weights


class FitzHughNagumoSites(kpframe.SiteModel):
    """The network of :class:`~kpframe_fitzhugh_nagumo.model.FitzHughNagumo`, parameter by parameter."""

    @takes_settings(Settings)
    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.input_size,
            settings.hidden_size,
            components=("v", "w"),
            sites=(
                kpframe.Site("coupling", source="v", targets=("current",)),
                kpframe.Site("drive", source="input", targets=("current",)),
            ),
        )
        self.dt, self.a, self.b, self.tau = settings.dt, settings.a, settings.b, settings.tau
        self.coupling, self.drive = initial_weights(settings)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next v and w ``[N, n]``, neuron by neuron, from the current that the sites add up."""
        v, w = h["v"], h["w"]
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return {"v": kicked + self.dt * (u["current"] - w), "w": w + self.dt * dw}


# %% [markdown]
# ## The plugin
#
# The module with the hook says what the plugin offers and which settings it takes. Names, defaults and bounds are declared once, so that
# `FitzHughNagumo(3, 100, dt=0.05)` works as does `create_model`. It names the classes by strings and imports no torch, so that
# `kpframe plugins` stays fast however much is installed:

# %%
# %%writefile src/kpframe_fitzhugh_nagumo/__init__.py
"""Networks of FitzHugh-Nagumo neurons for kpframe: settings and hook. No torch here: listing stays fast."""

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class Settings:
    """Settings of both models. The equations are dimensionless; time is in units of the fast variable's."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of neurons n; the state is v and w, 2 n wide")
    dt: float = setting(0.1, gt=0, help="time step [fast time units]")
    a: float = setting(0.7, help="offset of the recovery [1]")
    b: float = setting(0.8, ge=0, help="decay of the recovery [1]")
    tau: float = setting(12.5, gt=0, help="time constant of the recovery [fast time units]")
    seed: int | None = setting(None, ge=0, help="seed of the initial weights; unset: torch's own generator")


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the network twice: by its equations alone, and with its weights declared as sites."""
    yield ModelSpec(
        name="fitzhugh_nagumo",
        factory="kpframe_fitzhugh_nagumo.model:FitzHughNagumo",
        settings=Settings,
        api=1,
        summary="excitable neurons with trainable coupling, by their equations alone",
    )
    yield ModelSpec(
        name="fitzhugh_nagumo_sites",
        factory="kpframe_fitzhugh_nagumo.structured:FitzHughNagumoSites",
        settings=Settings,
        api=1,
        summary="excitable neurons with trainable coupling, with declared weight sites",
    )


# %% [markdown]
# The `pyproject.toml` that `new-plugin` wrote announces this module in the entry-point group `kpframe`:

# %%
from pathlib import Path

announced = Path("pyproject.toml").read_text().split("[project.entry-points.kpframe]")[1]
print("[project.entry-points.kpframe]" + announced.split("[")[0].rstrip())

# %% [markdown]
# Install it, `pip install -e '.[test]'`, and it is a model like any other. (This page installs into a folder of its own, to leave the
# environment that builds it as it is.)

# %%
import os
import sys

# !{sys.executable} -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check --target ../installed .
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path("../installed").resolve()), os.environ.get("PYTHONPATH", "")]
)
sys.path.insert(0, str(Path("../installed").resolve()))

# %%
# !kpframe show fitzhugh_nagumo

# %%
import torch
import kpframe

torch.manual_seed(0)
model = kpframe.create_model("fitzhugh_nagumo", input_size=2, hidden_size=50, seed=0)
flow = kpframe.linearize(model, torch.randn(10, 100, 2))
kpframe.effective_rank(flow.Phi, budget=60)

# %% [markdown]
# Components have names, and a learning rule of another plugin works with it as it does with any:

# %%
voltage = flow.Phi.select(hidden="v").mean("batch")  # of the fast variable alone
rule = kpframe.create_rule("truncated_bptt", window=10)  # from kpframe-rules
print(voltage)
print(kpframe.alignment(rule.flow_operator(flow), flow.Phi, budget=60))

# %% [markdown]
# ## Is it right?
#
# Whether the operators belong to the model is checked by the conformance kit, whether the model is the one you meant is
# for your own tests. The first takes three lines, which run every check as a test of its own:

# %%
# %%writefile tests/test_conformance.py
from kpframe.testing import parametrize_with_checks


@parametrize_with_checks(["fitzhugh_nagumo", "fitzhugh_nagumo_sites"])
def test_conformance(check):
    check()


# %% [markdown]
# `pytest` runs them, on 20 drawn cases each, and `kpframe verify fitzhugh_nagumo` prints a table with the largest errors found. From Python,
# with two cases each:

# %%
from kpframe.testing import check_model

report = check_model("fitzhugh_nagumo", examples=2)
verdicts = [result.verdict for result in report.results]
print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)))
assert report.passed

# %% [markdown]
# The second is up to you. Here: halving `dt` must halve the distance to SciPy's solution of the differential equation, as Euler's step is of
# first order.

# %%
import numpy as np
from scipy.integrate import solve_ivp

push = torch.tensor([0.6, -0.2], dtype=torch.float64)


def distance(dt):
    """How far a roll-out of 40 time units at constant input ends from SciPy's solution."""
    model = kpframe.create_model("fitzhugh_nagumo", input_size=2, hidden_size=3, seed=0, dt=dt).double()
    coupling, drive = model.coupling.detach().numpy(), model.drive.detach().numpy()

    def slopes(_, y):
        v, w = y[:3], y[3:]
        dv = v - v**3 / 3 - w + coupling @ v + drive @ push.numpy()
        return np.concatenate([dv, (v + 0.7 - 0.8 * w) / 12.5])

    exact = solve_ivp(slopes, (0, 40), np.zeros(6), rtol=1e-10, atol=1e-12).y[:, -1]
    with torch.no_grad():
        states = model.rollout(push.expand(1, round(40 / dt), 2)).states
    return float(np.abs(states[0, -1].numpy() - exact).max())


far, near = distance(0.02), distance(0.01)
print(f"{far:.4f} -> {near:.4f}, a ratio of {far / near:.2f}")
assert 1.8 < far / near < 2.2

# %% [markdown]
# ## What structure buys
#
# The parameters of the second form, their names and their shapes are those of the first, and so is every number:

# %%
x = torch.randn(20, 50, 4, dtype=torch.float64)
forms = [
    kpframe.create_model(name, input_size=4, hidden_size=100, seed=0).double()
    for name in ("fitzhugh_nagumo", "fitzhugh_nagumo_sites")
]
plain, structured = (kpframe.linearize(form, x) for form in forms)
q = torch.randn(20, 50, 200, dtype=torch.float64)
off = float((plain.Phi(q) - structured.Phi(q)).norm() / plain.Phi(q).norm())
print(f"Phi q: apart by {off:.0e}")
assert off < 1e-11
print(plain)
print(structured)

# %% [markdown]
# What changes is the cost, here in milliseconds, by medians of seven pairs:

# %%
import statistics
import time


def median_of_pairs(first, second, pairs=7):
    def taken(call):
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    first(), second()  # the plain form records its graphs at the first product
    return map(statistics.median, zip(*((taken(first), taken(second)) for _ in range(pairs)), strict=True))


for name in ("P", "K", "Phi"):
    by_equations, by_sites = getattr(plain, name), getattr(structured, name)
    slow, fast = median_of_pairs(lambda op=by_equations: op(q), lambda op=by_sites: op(q))
    print(f"{name + ' q':6} {slow:6.1f} by the equations {fast:6.1f} with sites")

# %% [markdown]
# The gains are computed when the model is linearized, which costs a little then and pays from the second product on: a spectrum or a trace
# takes dozens. Structure also opens what needs to know the weights apart from the gains:

# %%
other = structured.A.replace(
    {"coupling": torch.randn(100, 100, dtype=torch.float64)}
)  # as feedback alignment has them
direct = structured.A.direct()  # only the path through each neuron's own state, as e-prop keeps it
print(structured.K.restrict(["coupling"]))  # K of one matrix, at the cost of one matrix

# %% [markdown]
# Start with `step`, see the conformance run pass, and add structure when a study becomes slow. [Writing a plugin](../plugins.md) has the
# contract in full; the finished plugin, with more tests of its dynamics, is in `docs/examples/kpframe-fitzhugh-nagumo`.
