# %% [markdown]
# # Compare learning rules
#
# A learning rule puts something simpler in the place of the exact way back through time. What does it lose? Here four rules face the
# exact gradient on one network, before and after training.

# %%
# %matplotlib inline
import kpframe
from kpframe.study import compare_rules
from kpframe.training import Trainer, TrainingSettings

task = kpframe.create_task("delayed_addition", seed=0)
model = kpframe.create_model("rnn", input_size=task.input_size, hidden_size=32, seed=0)
readout = kpframe.Readout(model.width, task.output_size, generator=0)
probe = task.sample(16, split="test")

rules = {
    "exact": kpframe.create_rule("bptt"),
    "4 steps back": kpframe.create_rule("truncated_bptt", window=4),
    "RFLO": kpframe.create_rule("rflo"),
    "random feedback": kpframe.create_rule("feedback_alignment", seed=0),
}
rules["4 steps back"]

# %% [markdown]
# Each rule is a composition of operators, `g = M J* P_rule* E Err`. So it has a flow of its own, `Phi_rule`, which can be compared with
# Phi as a whole, whatever the error:

# %%
flow = kpframe.linearize(model, probe.inputs)
for name, rule in rules.items():
    if rule.needs_readout:
        continue  # this flow is one of a flow and a readout: see below
    print(
        f"{name:>14}: {rule.flow_operator(flow)}, alignment with Phi "
        f"{float(kpframe.alignment(rule.flow_operator(flow), flow.Phi, budget=60)):.3f}"
    )

# %% [markdown]
# ... or in what it does with the error of this task. The cosine of its gradient with the exact one says whether it points the same
# way; a rule whose cosine is positive is a descent direction.

# %%
before = compare_rules(model, readout, probe, task.loss, rules)
for _ in Trainer(model, readout, task, TrainingSettings(steps=300)).run():
    pass
after = compare_rules(model, readout, probe, task.loss, rules)
for when, found in (("before", before), ("after", after)):
    print(
        when, {str(rule): round(float(found.update_cosine.sel(rule=rule)), 2) for rule in found.rule.values}
    )

# %% [markdown]
# Where do they part? Shares of the loss's descent by how many steps errors travel:

# %%
kpframe.plot.lags(after).figure

# %% [markdown]
# The same from the command line, for checkpoints and runs, with a page: `kpframe compare RUN --rules "rflo; truncated_bptt(window=4)"`.
# `kpframe train` trains the same network under each rule. The [catalogue](../rules.md) has 28 rules with what is exact about each.
