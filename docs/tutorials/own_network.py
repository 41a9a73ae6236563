# %% [markdown]
# # Analyse your own trained network
#
# You have a recurrent network in PyTorch and want to know what learning can do to it. Ten minutes, from an empty folder to an
# effective rank with its error.
#
# ## Install
#
# From a clone of this repository, with Python 3.11 or newer:
#
# ```sh
# python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
# ```
#
# ## A layer of torch.nn
#
# Here a `torch.nn.GRU` learns to tell the sign of the sum of what it was shown; take your own network in its place. All that
# kpframe needs is the module and some inputs `[batch, time, input]`.

# %%
import torch
import kpframe

torch.manual_seed(0)
gru = torch.nn.GRU(input_size=1, hidden_size=48, batch_first=True)
readout = torch.nn.Linear(48, 1)
optimizer = torch.optim.Adam([*gru.parameters(), *readout.parameters()], lr=3e-3)


def trials(count):
    x = torch.randn(count, 30, 1)
    return x, (x.sum(dim=1) > 0).float()


def train(updates):
    for _ in range(updates):
        x, wanted = trials(64)
        h, _ = gru(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(readout(h[:, -1]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


model = kpframe.wrap(gru)  # the same weights: what trains the layer changes the model
x, wanted = trials(16)
before = kpframe.linearize(model, x)  # a value: it keeps the weights of this moment
loss = train(150)
after = kpframe.linearize(model, x)

# %% [markdown]
# `linearize` returns the operators along these 16 trials. Ask for their effective ranks:

# %%
from kpframe.spectra import EstimateTable

table = EstimateTable(
    {
        f"{name}, {when}": kpframe.effective_rank(op, budget=60)
        for when, flow in (("before", before), ("after", after))
        for name, op in (("P P*", flow.P @ flow.P.T), ("K", flow.K), ("Phi", flow.Phi))
    }
)
table

# %% [markdown]
# Each row has the value, its standard error and 95% interval, and what it cost: 60 products, no matrix. The full matrix of Phi would have
# `(16 · 30 · 48)²` entries, half a billion. In a notebook, write `after` or `after.Phi` alone in a cell:
# operators and flows show themselves, too.
#
# **What to look at.** A rank of K far below that of P says that what limits learning is what the parameters can reach
# in a step, not how changes travel. If the ranks fall while the loss does, learning concentrates on few directions.
#
# ## Which directions, and when

# %%
pairs = kpframe.eigsh(after.Phi, k=3, budget=200, tol=1e-2)
pairs.eigenvalues  # [3], with residual_norms
over_time = pairs.eigenvectors.square().sum(dim=(1, 3))  # [3, time]: when each direction is large
for value, sure, step in zip(pairs.eigenvalues, pairs.converged, over_time.argmax(dim=1), strict=True):
    print(f"eigenvalue {value:.0f}, converged: {bool(sure)}, largest at step {int(step) + 1} of 30")

# %% [markdown]
# Reductions give small operators that are exact: averaged over trials and traced over units, Phi is a kernel between time steps.

# %%
kernel = after.Phi.mean("batch").partial_trace("hidden")
print(f"{kernel} is a matrix {list(kernel.to_dense().shape)}")
print(f"Phi stayed where it was to {float(kpframe.alignment(before.Phi, after.Phi, budget=40)):.2f}")

# %% [markdown]
# ## A cell of your own
#
# Any `torch.nn.Module` whose `forward(x, h)` returns the next state is a model. Nothing has to be declared; what is declared as a
# [weight site](../mathematics.md#weight-sites) is faster.


# %%
class Leaky(torch.nn.Module):
    def __init__(self, inputs, units, leak=0.2):
        super().__init__()
        self.read = torch.nn.Linear(inputs, units)
        self.recur = torch.nn.Linear(units, units, bias=False)
        self.leak = leak

    def forward(self, x, h):
        return (1 - self.leak) * h + self.leak * torch.tanh(self.read(x) + self.recur(h))


model = kpframe.wrap(Leaky(1, 48), input_size=1, state=48)
flow = kpframe.linearize(model, x)
kpframe.trace(flow.K, budget=30)

# %% [markdown]
# If a step cannot be linearized rightly (it mixes trials, it detaches, it learns what it did not register), `wrap` or `linearize`
# says so and what to do. [What can be trusted](../trust.md) lists what was tried.
#
# ## A file of weights
#
# `kpframe analyze` reads a checkpoint, or a folder of them with steps in their names, and writes a page and the numbers. Weights
# alone are read; nothing in the file is executed.

# %%
import numpy

torch.save({f"rnn.{name}": weights for name, weights in gru.state_dict().items()}, "trained.pt")
numpy.save("inputs.npy", trials(40)[0].numpy())

# %%
# !kpframe analyze trained.pt --model gru --set input_size=1 --set hidden_size=48 --map 'rnn.=' --inputs inputs.npy 2>&1 | cat

# %% [markdown]
# ## Next
#
# - Follow the training itself, three lines in your loop: [Studies](../studies.md#your-own-training-loop).
# - What each estimate means, and when to trust it: [Estimates](../estimates.md).
# - What would a cheaper learning rule have done? [Learning rules](../rules.md).
