# %% [markdown]
# # Test your identities
#
# You claim that an operator of yours equals another one, or that yours is the adjoint it says it is. Test it as the project tests itself:
# against something independent, in float64, with a partner that must differ.

# %%
import torch
import kpframe

torch.manual_seed(0)
model = kpframe.wrap(torch.nn.GRUCell(2, 5)).double()
x = torch.randn(3, 6, 2, dtype=torch.float64)
flow = kpframe.linearize(model, x)

# %% [markdown]
# **An independent reference.** Autograd through the whole roll-out gives `G = dh/dθ` as a matrix, without any of our operators:

# %%


def states(*values):
    h, out = torch.zeros(3, 5, dtype=torch.float64), []
    for t in range(6):
        h = step(values, x[:, t], h)
        out.append(h)
    return torch.stack(out, dim=1)


def step(values, x, h):
    W, U, b, c = values  # a GRU cell, written out
    i_r, i_z, i_n = (x @ W.T + b).chunk(3, dim=-1)
    h_r, h_z, h_n = (h @ U.T + c).chunk(3, dim=-1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    return (1 - z) * torch.tanh(i_n + r * h_n) + z * h


theta = tuple(p.detach() for p in model.trainable().values())
blocks = torch.autograd.functional.jacobian(states, theta)
G = torch.cat([block.reshape(3 * 6 * 5, -1) for block in blocks], dim=1)
Phi = flow.Phi.to_dense()
print(f"|Phi - G G^T| / |Phi| = {float((Phi - G @ G.T).norm() / Phi.norm()):.1e}")

# %% [markdown]
# **A partner that must differ.** The same number for what it should not equal; a test without it could pass for matrices of zeros.

# %%
K = flow.K.to_dense()
print(f"|K - G G^T| / |Phi| = {float((K - G @ G.T).norm() / Phi.norm()):.2f}")

# %% [markdown]
# **An adjoint** needs no matrix: two random vectors tell.

# %%
q, r = torch.randn(2, *flow.P.domain.shape, dtype=torch.float64)
left, right = (flow.P(q) * r).sum(), (q * flow.P.T(r)).sum()
print(f"<P q, r> - <q, P* r> = {float(left - right):.1e} of {float(left):.3f}")

# %% [markdown]
# **All of it, for a model of yours**, on drawn cases: shapes, masks, starts, large and tiny inputs, float32 and float64, copies,
# contexts of torch. In a test file, `parametrize_with_checks` makes a pytest test of each.

# %%
from kpframe.testing import check_model


class Cell(kpframe.Model):
    def __init__(self, input_size=2, hidden_size=4, seed=0):
        super().__init__(input_size=input_size, state={"h": hidden_size})
        source = torch.Generator().manual_seed(seed)
        self.W = torch.nn.Parameter(torch.randn(hidden_size, hidden_size, generator=source) / 2)
        self.V = torch.nn.Parameter(torch.randn(hidden_size, input_size, generator=source))

    def step(self, x, h, t=None):
        return torch.tanh(h @ self.W.T + x @ self.V.T)


report = check_model(Cell, examples=1)
print("\n".join(str(report).splitlines()[:12]))
print(f"passed: {report.passed}")

# %% [markdown]
# Beside each check stands the worst relative error over its cases. `kpframe verify NAME` prints the same table for
# what is installed.
