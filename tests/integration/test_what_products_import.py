"""Libraries that take long to import are left alone by what does not need them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

CODE = """
import sys, torch, kpframe
cell = kpframe.create_model("gru", input_size=8, hidden_size=4, seed=0)
trials = kpframe.create_task("digits").sample(3, generator=0, dtype=torch.float32)
flow = kpframe.linearize(cell, trials.inputs, mask=trials.mask)
kpframe.effective_rank(flow.Phi, budget=12)
flow.Phi.mean("batch").partial_trace("hidden").to_dense()
flow.Phi.to_scipy()
print(*sys.modules)
"""


def test_products_import_no_symbols_and_no_learning_machines() -> None:
    """torch imports sympy to compare the shapes of cotangents: most of a second before the first product."""
    loaded = subprocess.check_output([sys.executable, "-c", textwrap.dedent(CODE)], text=True).split()
    assert {"torch", "kpframe_gru.layers", "scipy.sparse.linalg"} <= {*loaded}
    assert not {"sympy", "sklearn", "matplotlib", "xarray"} & {*loaded}
