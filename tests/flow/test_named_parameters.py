"""Named parts of parameter vectors: of matrices, vectors and single numbers."""

from __future__ import annotations

import torch

from kpframe.flow import split_parameters
from kpframe.operators import parameter_space

SPACE = parameter_space({"weight": (2, 3), "gain": (), "bias": (2,)})


def test_a_parameter_of_one_number_is_split_off_one_vector_and_off_probes() -> None:
    q = torch.arange(9.0)
    parts = split_parameters(SPACE, q)
    assert {name: list(part.shape) for name, part in parts.items()} == {
        "weight": [2, 3],
        "gain": [],
        "bias": [2],
    }
    assert parts["gain"] == 6
    assert torch.equal(split_parameters(SPACE, torch.stack([q, 2 * q]))["gain"], torch.tensor([6.0, 12.0]))
    assert torch.equal(parts["bias"], torch.tensor([7.0, 8.0]))
