"""Captions of figures of learning rules: beside the exact gradient, trained by, and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from kpframe.study._over_seeds import stderr_of_mean
from kpframe.study._plot.look import HALF_95, after, open_markers
from kpframe.study._plot.training import score_name, score_of
from kpframe.study._report.captions import MOST, Caption, one_step
from kpframe.study._report.words import counted, estimated, few, joined, named, plus_minus, unit_in_words

#: A rule whose update is the exact one up to this.
_EXACT = 1e-6


def rules(data: xr.Dataset) -> Caption:
    """Which rule is nearest to the exact gradient, and which is furthest from it, in each network."""
    last, said = data.isel(step=-1), []
    for network in data.network.values[:MOST]:
        one = last.sel(network=network)
        names = [str(rule) for rule in one.rule.values]
        cosines = dict(zip(names, one.gradient_cosine.values.tolist(), strict=True))
        flows = {
            name: (value, error)
            for name, value, error in zip(
                names, one.flow_alignment.values, one.flow_alignment_stderr.values, strict=True
            )
        }
        said.append(f"in {named(network)} {_nearest(cosines)}, {_best(flows)}")
    when = after(int(data.step[-1]))
    failures = failed_rules(data)
    return Caption(
        f"{when[0].upper()}{when[1:]}, {'; '.join(said)}.",
        "Top: the cosine between the summed update of a rule and the exact gradient on the probe trials. "
        "Bottom: the alignment of the whole flow that the rule induces with Phi, for any error, with 95% "
        "intervals of the estimates; of one seed, they say nothing of other networks. Alignment and cosine "
        "differ because the task's error is one direction among many."
        + "".join(f" Failed: {text}." for text in failures[:MOST])
        + (f" {len(failures) - MOST} more failed." if len(failures) > MOST else ""),
    ).and_about(one_step(data))


def _nearest(cosines: Mapping[str, float]) -> str:
    """Return which update is nearest to the exact gradient and which is furthest from it."""
    known = {name: value for name, value in cosines.items() if not math.isnan(value)}
    exact = [name for name, value in known.items() if value >= 1 - _EXACT]
    rest = {name: value for name, value in known.items() if name not in exact}
    lost = len(cosines) - len(known)
    parts = [f"{few([named(n) for n in exact], 3)} has the exact gradient's direction"] if exact else []
    if len(rest) == 1:
        ((name, value),) = rest.items()
        parts.append(f"the update of {named(name)} has the cosine {value:.4f} with the exact gradient")
    elif rest:
        near, far = max(rest, key=rest.__getitem__), min(rest, key=rest.__getitem__)
        parts.append(
            f"the update nearest to the exact gradient is that of {named(near)} (cosine {rest[near]:.4f}), "
            f"the furthest that of {named(far)} ({rest[far]:.4f})"
        )
    if lost:
        parts.append(f"{counted(lost, 'rule')} could not be measured")
    return ", ".join(parts)


def _best(flows: Mapping[str, tuple[float, float]]) -> str:
    """Return whose flow is most aligned with Phi, and whether the second is told apart from it."""
    known = sorted(
        ((value, error, name) for name, (value, error) in flows.items() if not math.isnan(value)),
        reverse=True,
    )
    if not known:
        return "no flow is known on the state space"
    value, error, name = known[0]
    text = f"the flow most aligned with Phi that of {named(name)} ({estimated(value, error)})"
    if len(known) > 1:
        second, its_error, other = known[1]
        if not value - second > HALF_95 * math.hypot(error, its_error):
            text += f", not told apart from {named(other)} ({estimated(second, its_error)}) by the estimates"
    return text


def failed_rules(data: xr.Dataset) -> list[str]:
    """Return which rules raised an error on which network, at which step and why."""
    if "failure" not in data:
        return []
    return [
        f"{rule} on {network} {after(int(step))} ({text})"
        for network in data.network.values
        for rule in data.rule.values
        for step in data.step.values
        if (text := str(data.failure.sel(network=network, rule=rule, step=step).item()))
    ]


def rule_losses(data: xr.Dataset) -> Caption:
    """Which rule reaches the lowest test loss, and whether that is beyond what other seeds would do."""
    score, name = score_of(data), score_name(data)
    before = f"{name} {_figure(data, f'{score}_before')}"
    about = (
        f"Training losses before each update. Before training the test loss is "
        f"{_figure(data, 'test_loss_before')} and {before}."
    )
    gone = [str(rule) for rule in data.rule.values if bool(data.diverged_at.sel(rule=rule) > 0)]
    if gone:
        about += f" Diverged, at the crosses: {few(gone)}."
    known = data.test_loss.dropna("rule")
    if not known.size:
        return Caption("No rule came to the end of its training.", about)
    order = known.sortby(known)
    best = str(order.rule[0].item())
    found = (
        f"The lowest test loss after {counted(data.sizes['update'], 'update')} is that of {named(best)}, "
        f"{_figure(data.sel(rule=best), 'test_loss')} ({name} {_figure(data.sel(rule=best), score)})"
    )
    if order.size == 1:
        return Caption(f"{found}; no other rule came to its end.", about)
    for other, what in ((str(order.rule[1].item()), "the next"), (str(order.rule[-1].item()), "the highest")):
        if what == "the highest" and order.size == 2:
            continue
        found += f"; {what}, {named(other)}, {_apart(data, other, best)}"
    found += "." if _several(data) else ". Of one seed: whether other seeds would agree is not known."
    return Caption(found, about)


def _several(data: xr.Dataset) -> bool:
    return data.sizes.get("seed", 1) > 1


def _apart(data: xr.Dataset, other: str, best: str) -> str:
    """Return how much higher a rule's test loss is than the lowest: over seeds, by their differences."""
    if not _several(data):
        gap = float(data.test_loss.sel(rule=other) - data.test_loss.sel(rule=best))
        return f"is higher by {gap:.4g}" if gap else "is equal to it"
    gaps = (data.test_loss_by_seed.sel(rule=other) - data.test_loss_by_seed.sel(rule=best)).dropna("seed")
    if gaps.size < 2:
        return "shares fewer than two seeds with it"
    mean, error = float(gaps.mean()), float(stderr_of_mean(gaps, "seed"))
    text = f"{plus_minus(mean, error)} over {gaps.size} seeds"
    if error == 0 and mean == 0:
        return "is equal to it in all seeds"
    return (
        f"is higher by {text}"
        if mean > HALF_95 * error
        else f"is not told apart from it by the seeds ({text})"
    )


def rule_geometry(data: xr.Dataset) -> Caption:
    """What ranks the rules end in, and which rule's Phi is least like that of the first."""
    said = []
    for operator in sorted((str(name) for name in data.operator.values), key=lambda name: name != "Phi"):
        one = data.sel(operator=operator)
        ranks = one.effective_rank.dropna("rule")
        if not ranks.size:
            continue
        low, high = (str(ranks.rule[int(find(ranks.values))].item()) for find in (np.argmin, np.argmax))
        start = plus_minus(one.effective_rank_before, one.effective_rank_before_stderr)
        texts = [f"{_rank(one.sel(rule=rule))} ({named(rule)})" for rule in (low, high)]
        between = f"goes from {texts[0]} to {texts[1]}" if ranks.size > 1 else f"is {texts[0]}"
        if ranks.size > 1 and not _ranks_differ(one, low, high):
            between = f"is not told apart between the rules, {texts[0]} to {texts[1]}"
        said.append(f"the effective rank of {operator} {between}, {start} before training")
    first = str(data.rule.values[0])
    likeness = data.alignment_with_first.where(data.rule != first).dropna("rule")
    if likeness.size:
        least = str(likeness.rule[int(np.argmin(likeness.values))].item())
        one = data.sel(rule=least)
        text = estimated(float(one.alignment_with_first), float(one.alignment_with_first_stderr))
        said.append(f"the Phi least aligned with that of {named(first)} is that of {named(least)} ({text})")
    found = "; ".join(said)
    what = "mean over seeds, by Student's t" if _several(data) else "estimates, for these networks"
    return Caption(
        f"{found[0].upper()}{found[1:]}." if found else "",
        "After training, on the same held-out trials, with 95% intervals. Dashed: before training. A rule "
        f"that diverged or failed has no bar. The intervals are those of the {what}. Two rules may reach one "
        "loss by networks whose Phi differ: they would learn the next task differently.",
    )


def _ranks_differ(one: xr.Dataset, low: str, high: str) -> bool:
    """Return whether two rules' ranks differ beyond 95%: by the differences of each seed, or estimates."""
    if _several(one):
        by_seed = one.effective_rank_by_seed
        gaps = (by_seed.sel(rule=high) - by_seed.sel(rule=low)).dropna("seed")
        return gaps.size > 1 and float(gaps.mean()) > HALF_95 * float(stderr_of_mean(gaps, "seed"))
    gap = float(one.effective_rank.sel(rule=high) - one.effective_rank.sel(rule=low))
    errors = [float(one.effective_rank_stderr.sel(rule=rule)) for rule in (low, high)]
    return gap > HALF_95 * math.hypot(*errors)


def _rank(one: xr.Dataset) -> str:
    return estimated(float(one.effective_rank), float(one.effective_rank_stderr))


def _figure(data: xr.Dataset, name: str) -> str:
    """Return a figure, with its standard error where seeds give one."""
    if bool(data[name].isnull()):
        return "-"
    if f"{name}_stderr" not in data:
        return f"{float(data[name]):.4f}"
    return plus_minus(data[name], data[f"{name}_stderr"])


def rule_cosines(one: xr.Dataset) -> Caption:
    """Which two rules agree most, and which least."""
    names = [str(rule) for rule in one.rule.values]
    cosines = one.rule_cosine.values
    pairs = [
        (row, column)
        for row in range(len(names))
        for column in range(row)
        if not np.isnan(cosines[row, column])
    ]
    about = (
        "Cosines between the updates of two rules, summed over trials and steps, exact along these trials; "
    )
    about += "columns are numbered like the rows."
    if not pairs:
        return Caption("", about)
    most, least = max(pairs, key=lambda at: cosines[at]), min(pairs, key=lambda at: cosines[at])

    def pair(at: tuple[int, int]) -> str:
        return f"{named(names[at[1]])} and {named(names[at[0]])} ({cosines[at]:.2f})"

    if len(pairs) == 1:
        return Caption(f"The updates of {pair(most)} are the only two compared.", about)
    opposed = ", which oppose each other" if cosines[least] < 0 else ""
    return Caption(
        f"The updates that agree most are those of {pair(most)}, the least those of {pair(least)}{opposed}.",
        about,
    )


def lags(one: xr.Dataset) -> Caption:
    """Which part of a rule's descent comes from errors that travel no step back."""
    said, growing = [], []
    for rule in one.rule.values:
        fall = -one.loss_rate_by_lag.sel(rule=rule).values
        total = float(np.nansum(fall))
        if not total > 0:
            growing.append(named(rule))
            continue
        far = int(one.lag.values[int(np.argmax(np.cumsum(np.nan_to_num(fall)) >= 0.9 * total))])
        reach = f" (90% within {counted(far, 'step')})" if far else ""
        said.append(f"{fall[0] / total:.0%} for {named(rule)}{reach}")
    found = f"Share of the fall of the loss by errors that travel no step back: {few(said)}." if said else ""
    if growing:
        found += f" The loss grows along {few(growing)}."
    return Caption(
        found.strip(),
        "The speed at which the loss falls, by the number of steps that the error travels back; below zero "
        "the loss grows. Exact along these trials.",
    )


def cosines_by_time(one: xr.Dataset) -> Caption:
    """At which step the contribution of an error is least like the exact one, and by which rule."""
    about = (
        "Past-facing: the contribution of the error at a step. Future-facing: of the parameters' use at a "
        "step. The mixed facings compare one with the other and are small even for the exact gradient, so "
        "they say little about a rule. Exact along these trials."
    )
    found = []
    for facing in ("past", "future"):
        past = one.cosine_by_time.sel(facing=facing)
        if not bool(past.notnull().any()):
            continue
        if float(past.min()) >= 1 - _EXACT:
            found.append(f"{facing}-facing, every rule has the exact contribution's direction")
            continue
        at = past.where(past == past.min(), drop=True)
        found.append(
            f"{facing}-facing, the lowest cosine with the exact contribution is {float(past.min()):.2f}, of "
            f"{named(at.rule[0].item())} at step {int(at.time[0])}"
        )
    text = "; ".join(found)
    return Caption(f"{text[0].upper()}{text[1:]}." if text else "", about)


def pairs(one: xr.Dataset) -> Caption:
    """Which pair of steps gives most of a rule's descent."""
    said = []
    for rule in one.rule.values[:MOST]:
        fall = -one.loss_rate_by_pair.sel(rule=rule)
        if not bool(fall.notnull().any()):
            continue
        row, column = np.unravel_index(int(np.nanargmax(fall.values)), fall.shape)
        said.append(
            f"for {named(rule)} {float(fall.values[row, column]):.3g}"
            f"{unit_in_words(one.loss_rate_by_pair)} from the error at step {int(fall.time[row])} to the use "
            f"at step {int(fall.time_used[column])}"
        )
    more = one.sizes["rule"] - MOST
    rest = f"; {more} more are drawn" if more > 0 else ""
    return Caption(
        f"The largest part of the fall of the loss is {joined(said)}{rest}." if said else "",
        "The speed at which the loss falls by an error at one step that reaches the parameters' use at an "
        "earlier one; below zero the loss grows. Steps count from 0. Exact along these trials.",
    )


def flow_spectra(one: xr.Dataset) -> Caption:
    """Whose flow has the largest singular value, and whose the smallest."""
    top = one.singular_value.isel(k=0).dropna("rule")
    about = (
        "Leading singular values of P K P_rule* E, the map by which the rule moves the states."
        + open_markers(one.singular_value_converged)
    )
    if not top.size:
        return Caption("No rule here has a flow on the state space.", about)
    high, low = (str(top.rule[int(place)].item()) for place in (np.argmax(top.values), np.argmin(top.values)))
    found = f"The largest leading singular value is {float(top.max()):.3g}, that of {named(high)}"
    if top.size > 1:
        found += f", the smallest {float(top.min()):.3g}, that of {named(low)}"
    lost = one.sizes["rule"] - top.size
    none = f"; {counted(lost, 'rule')} without one" if lost else ""
    return Caption(f"{found}{none}.", about)
