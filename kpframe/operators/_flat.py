"""An operator as SciPy's solvers take it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from kpframe.operators._base import Operator


class Flat(LinearOperator):
    """An operator on flattened numpy vectors, taken to its device and back; columns of a matrix are probes.

    The operator is real: of complex vectors, the real and the imaginary parts are multiplied apart.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        dtype = np.dtype("float32" if operator.dtype == torch.float32 else "float64")
        super().__init__(dtype, (operator.codomain.size, operator.domain.size))  # type: ignore[call-arg]

    def _product(self, operator: Operator, columns: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(columns):
            parts = self._product(operator, np.concatenate([columns.real, columns.imag], axis=1))
            real, imaginary = np.split(parts, 2, axis=1)
            whole = np.empty(real.shape, dtype=np.result_type(parts.dtype, np.complex64))
            whole.real, whole.imag = real, imaginary
            return whole
        rows = np.array(columns.T, dtype=self.dtype, order="C")  # a copy: SciPy's vectors may be read-only
        tensor = torch.as_tensor(rows, device=operator.device)
        out = operator(tensor.reshape(-1, *operator.domain.shape))
        flat: np.ndarray = out.reshape(out.shape[0], -1).cpu().numpy().T
        return flat

    def _matmat(self, columns: np.ndarray) -> np.ndarray:
        return self._product(self._operator, columns)

    def _rmatmat(self, columns: np.ndarray) -> np.ndarray:
        return self._product(self._operator.T, columns)

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, vector: np.ndarray) -> np.ndarray:
        return self._rmatmat(vector.reshape(-1, 1)).reshape(-1)
