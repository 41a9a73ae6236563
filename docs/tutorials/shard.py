# %% [markdown]
# # Shard trials over ranks
#
# When trials no longer fit into one machine, each rank of a `torch.distributed` job takes some. The operators on a rank are those of
# all trials together: same products, same estimates, same learning rules. The engine is torchrun; here two ranks of this machine.

# %%
program = """
import torch
from torch import distributed

import kpframe

distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)  # the same model and data on all ranks
model = kpframe.wrap(torch.nn.GRUCell(3, 16)).double()
x = torch.randn(7, 20, 3, dtype=torch.float64)
own = x.tensor_split(ranks)[rank]  # this rank's trials; shares may differ

flow = kpframe.linearize(model, own, group=distributed.group.WORLD)
moved = flow.Phi(torch.ones(flow.Phi.domain.shape, dtype=torch.float64))
found = {
    "where": str(flow.Phi.domain),
    "norm of Phi 1": float(flow.Phi.domain.norms(moved)),
    "effective rank": str(kpframe.effective_rank(flow.Phi, budget=40)),
    "trace of <Phi>": float(flow.Phi.mean("batch", "time").to_dense().trace()),
}
for turn in range(ranks):
    if turn == rank:
        print(f"rank {rank}:", found, flush=True)
    distributed.barrier()
distributed.destroy_process_group()
"""
with open("ranks.py", "w") as file:
    file.write(program)

# %%
# !OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 ranks.py 2>&1 | cat

# %% [markdown]
# The same on one process, without a group. The numbers agree to rounding, the estimate too: probes are drawn by the trial's
# index among all trials, so that any number of ranks draws the same.

# %%
import torch
import kpframe

torch.manual_seed(0)
model = kpframe.wrap(torch.nn.GRUCell(3, 16)).double()
flow = kpframe.linearize(model, torch.randn(7, 20, 3, dtype=torch.float64))
moved = flow.Phi(torch.ones(flow.Phi.domain.shape, dtype=torch.float64))
print("norm of Phi 1", float(moved.norm()))
print("effective rank", kpframe.effective_rank(flow.Phi, budget=40))
print("trace of <Phi>", float(flow.Phi.mean("batch", "time").to_dense().trace()))

# %% [markdown]
# A whole study goes the same way, `torchrun --nproc-per-node 4 -m kpframe run study.toml`. [Beyond one machine](../distributed.md) says
# what is sent and what is refused, [Scale](../scale.md) from how many ranks on more of them do not help.
