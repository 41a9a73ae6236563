# %% [markdown]
# # Follow a training of your own
#
# Your loop, your optimizer, your loss. Three lines record how the operators change while the network learns; the training itself
# goes on as if nobody looked, with the same weights bit for bit.

# %%
# %matplotlib inline
import torch
import kpframe

torch.manual_seed(1)
cell, readout = torch.nn.GRUCell(2, 24), torch.nn.Linear(24, 1)
optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=5e-3)


def trials(count, steps=20):
    """Adding: the sum of the two numbers that the second channel marks, to be told at the end."""
    x = torch.zeros(count, steps, 2)
    x[..., 0] = torch.rand(count, steps)
    marked = torch.rand(count, steps).argsort(dim=1)[:, :2]
    x[..., 1].scatter_(1, marked, 1.0)
    return x, (x[..., 0] * x[..., 1]).sum(dim=1, keepdim=True)


def output(x):
    h = torch.zeros(len(x), 24)
    for t in range(x.shape[1]):
        h = cell(x[:, t], h)
    return readout(h)


# %% [markdown]
# The operators are built along fixed inputs, here sixteen trials that the training does not see.

# %%
probe, wanted = trials(16)
with kpframe.study.Tracker(cell, probe, readout=readout, output="run", schedule=[0, 30, 100, 300]) as track:
    track(0)  # the untrained network
    for step in range(1, 301):
        x, y = trials(64)
        loss = (output(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        track(step, loss)

# %% [markdown]
# What was recorded is a dataset with named dims, units and standard errors:

# %%
run = kpframe.open_run("run")
print(run.effective_rank)

# %%
print(kpframe.study.summary(run, ["effective_rank"]).to_string())

# %% [markdown]
# Every recorded quantity has a figure. Bars are 95% intervals of the estimates.

# %%
figure = kpframe.plot.effective_ranks(run).flat[0].figure
figure

# %% [markdown]
# What did it cost to look?

# %%
print(track.overhead)

# %% [markdown]
# `report.html` in the folder of the run has all of it on one page. A run that is killed is resumed by the same lines with
# `resume=True`. [Studies](../studies.md) says what can be recorded, and describes a whole experiment in one file.
