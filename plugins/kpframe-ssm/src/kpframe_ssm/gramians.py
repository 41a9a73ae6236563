"""The optimal-control view of linear models: Gramians as compositions of the flow's operators.

With ``B`` and ``C`` acting at each step on its own, the controllability Gramian at step t is the block
``[t, t]`` of ``P B B* P*``, ``Sum_{s<=t} A^{t-s} B B* (A*)^{t-s}``, and the observability Gramian the block
of ``P* C* C P``. Over infinitely many steps they solve the discrete Lyapunov equations
``W = A W A* + B B*`` and ``M = A* M A + C* C``; what T steps leave out falls as ``|lambda|^(2 T)``.
"""

from __future__ import annotations

import torch

from kpframe import Flow, Operator
from kpframe.errors import UnsupportedError, mismatch
from kpframe.operators import HIDDEN, Axis, FunctionOperator, Space
from kpframe_ssm.base import DiagonalModel
from kpframe_ssm.lti import LTI


def input_operator(flow: Flow) -> Operator:
    """Return ``B``: ``(batch, time, input)`` -> state space, each step on its own; zero at padded steps.

    Raises:
        UnsupportedError: for a model that is not linear in its inputs and state.
    """
    B = _linear(flow).input_weight().detach()
    space = flow.P.domain
    inputs = space.replace(HIDDEN, Axis("input", B.shape[1]))
    return _stepwise(flow, B, inputs, space, "B")


def output_operator(flow: Flow) -> Operator:
    """Return ``C``: state space -> ``(batch, time, output)``, each step on its own; zero at padded steps.

    It is the real form ``[Re C, -Im C]`` for models of complex modes. Raises as ``input_operator``.
    """
    C = _linear(flow).output_weight().detach()
    space = flow.P.domain
    return _stepwise(flow, C, space, space.replace(HIDDEN, Axis("output", len(C))), "C")


def controllability_gramian(flow: Flow, time: int = -1) -> Operator:
    """Return ``Sum_{s<=t} A^{t-s} B B* (A*)^{t-s}`` on ``(batch, hidden)``, at step ``time``.

    How far each direction of the state can be moved by inputs of unit energy: ``.to_dense()`` writes it out,
    ``kpframe.eigsh`` finds its leading directions without that. Raises as ``input_operator``.
    """
    drive = input_operator(flow)
    return (flow.P @ drive @ drive.T @ flow.P.T).select(time=time)


def observability_gramian(flow: Flow, time: int = 0) -> Operator:
    """Return ``Sum_{s>=t} (A*)^{s-t} C* C A^{s-t}`` on ``(batch, hidden)``, for the state at step ``time``.

    How much energy the outputs carry of each direction of that state. Raises as ``input_operator``.
    """
    readout = output_operator(flow)
    return (flow.P.T @ readout.T @ readout @ flow.P).select(time=time)


def _linear(flow: Flow) -> DiagonalModel | LTI:
    if not isinstance(flow.model, DiagonalModel | LTI):
        expected = "a flow of a linear state-space model (lti, s4d, s5, lru)"
        raise UnsupportedError(mismatch("flow", expected, type(flow.model).__name__))
    return flow.model


def _stepwise(flow: Flow, matrix: torch.Tensor, domain: Space, codomain: Space, name: str) -> Operator:
    mask = flow.trajectory.mask
    keep = None if mask is None else mask.unsqueeze(-1).to(matrix)

    def masked(q: torch.Tensor) -> torch.Tensor:
        return q if keep is None else keep * q

    return FunctionOperator(
        domain,
        codomain,
        lambda q: masked(q @ matrix.mT),
        lambda r: masked(r) @ matrix,
        dtype=flow.P.dtype,
        device=flow.P.device,
        name=name,
    )
