"""Write the traces of ``mambapy``'s Mamba block that ``test_ssm_mamba.py`` compares with.

Run once, where mambapy is installed (``pip install --no-deps mambapy``)::

    python make_mamba_reference.py

mambapy casts ``A_log`` and ``D`` to float32 (``.float()``) wherever they are used. For a reference in float64
that cast is made a no-op while this runs; nothing else of mambapy is changed.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mambapy.mamba import MambaBlock, MambaConfig

#: name -> settings of the block; the bare sizes are d_model, d_state, d_conv, expand_factor.
CASES = {
    "plain": {"d_model": 3, "d_state": 4, "d_conv": 4, "expand_factor": 2},
    "biases": {"d_model": 4, "d_state": 3, "d_conv": 2, "expand_factor": 1, "dt_rank": 2, "bias": True},
    "no_conv_bias": {"d_model": 2, "d_state": 2, "d_conv": 3, "expand_factor": 2, "conv_bias": False},
}
TRIALS, STEPS = 2, 12


def trace(settings: dict[str, object]) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    config = MambaConfig(n_layers=1, pscan=False, dt_min=0.05, dt_max=2.0, **settings)
    block = MambaBlock(config).double()
    with torch.no_grad():
        for parameter in block.parameters():  # away from the special values of the initialisation
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = torch.randn(TRIALS, STEPS, config.d_model, dtype=torch.float64)
    err = torch.randn(TRIALS, STEPS, config.d_model, dtype=torch.float64)
    y = block(x)
    gradients = torch.autograd.grad((y * err).sum(), list(block.parameters()))
    out = {"x": x, "err": err, "y": y}
    cache = (None, torch.zeros(TRIALS, config.d_inner, config.d_conv - 1, dtype=torch.float64))
    states = []
    for t in range(STEPS):  # the block's own recurrent form, for its states
        _, cache = block.step(x[:, t], cache)
        states.append(torch.cat([cache[1].flatten(1), cache[0].flatten(1)], dim=1))
    out["states"] = torch.stack(states, dim=1)
    out["err_states"] = torch.randn_like(out["states"])
    loss = (out["states"] * out["err_states"]).sum()
    through = torch.autograd.grad(loss, list(block.parameters()), allow_unused=True, materialize_grads=True)
    for (name, parameter), by_y, by_states in zip(block.named_parameters(), gradients, through, strict=True):
        out |= {f"parameter {name}": parameter, f"gradient {name}": by_y, f"state gradient {name}": by_states}
    return {name: value.detach().numpy() for name, value in out.items()}


def main() -> None:
    folder = Path(__file__).parent
    versions = f"mambapy {version('mambapy')}, torch {torch.__version__}"
    with mock.patch.object(torch.Tensor, "float", lambda self: self):
        for name, settings in CASES.items():
            path = folder / f"mamba_{name}.npz"
            np.savez_compressed(path, versions=versions, settings=repr(settings), **trace(settings))


if __name__ == "__main__":
    main()
