# %% [markdown]
# # Write a propagator
#
# `P = (I - A Z)^{-1}` is a definition; how its products are computed is a *form*, and forms are plugins. Here is one for a diagonal A,
# which takes log2(T) passes in place of T steps, and the checks that say whether it is right.

# %%
import torch
import kpframe
from kpframe import Propagator
from kpframe.flow import DiagonalStepJacobian


class Doubling(Propagator):
    """P of a diagonal A in log2(T) passes: each takes every step twice as far back."""

    @property
    def method(self):
        return "doubling"

    @classmethod
    def fits(cls, A):  # why not, or None
        return (
            None if isinstance(A, DiagonalStepJacobian) else "it multiplies diagonals, and A is not diagonal"
        )

    def _apply(self, q):  # [..., B, T, H]
        out = q.clone()
        for step, reach in self._reaches():
            out[..., step:, :] = out[..., step:, :] + reach * out[..., :-step, :]
        return out

    def _apply_adjoint(self, r):
        out = r.clone()
        for step, reach in self._reaches():
            out[..., :-step, :] = out[..., :-step, :] + reach * out[..., step:, :]
        return out

    def _reaches(self):
        """Yield how the state of ``step`` steps before arrives, for 1, 2, 4 ... steps."""
        step, reach = 1, self.A.values[:, 1:]  # [B, T - step, H]
        while step < self.A.steps:
            yield step, reach
            reach = reach[:, step:] * reach[:, :-step]
            step *= 2


# %% [markdown]
# Beside the scan, which goes step by step, on a diagonal A that is drawn:

# %%
space = kpframe.operators.state_space(3, 100, {"h": 8})
A = DiagonalStepJacobian(2 * torch.rand(3, 100, 8, dtype=torch.float64) - 1, space)
P, scan = Doubling(A), kpframe.flow.ScanPropagator(A)
q = torch.randn(3, 100, 8, dtype=torch.float64)
print(f"{P(q).shape}, off the scan by {float((P(q) - scan(q)).norm() / scan(q).norm()):.1e}")

# %% [markdown]
# Everything else follows from the two products: the inverse, transitions between steps, truncations, Phi.

# %%
print(f"{P.truncated(5)!r}: window of 5 steps;  dh_9/dh_3 is {P.transition(9, 3).to_dense().shape}")

# %% [markdown]
# Is it right? The conformance kit draws cases (shapes, masks, probes, extreme values) and holds the form to every identity of a
# propagator, each with a partner that must differ.

# %%
from kpframe.testing import check_propagator

report = check_propagator(Doubling, examples=2)
print(str(report).splitlines()[-1])

# %% [markdown]
# And one with a mistake in the adjoint?


# %%
class Wrong(Doubling):
    def _apply_adjoint(self, r):
        return self._apply(r)


report = check_propagator(Wrong, examples=2)
print(f"passed: {report.passed}")
for failed in report.failures[:2]:
    print(failed.name, "-", failed.message.splitlines()[0])

# %% [markdown]
# `kpframe new-plugin doubling --kind propagator` writes the package around it; [Writing a plugin](../plugins.md#propagators) has the
# contract.
