"""Hypothesis strategies: sizes, tensors, operators, settings, models, flows, rules, forms, quantities ...

Hypothesis draws the structure; values follow from a drawn seed and kind. Except for sizes, seeds, spaces
and settings, what is drawn is a case: a frozen record that prints as code and whose ``build()`` makes the
thing. A failing case shrinks towards one trial, one step, one unit and normal values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from kpframe.operators._spaces import Space
from kpframe.plugin import get_manager
from kpframe.plugin._core import core
from kpframe.testing._cases import FlowCase, MaskCase, ReducerCase, RuleCase, TensorCase
from kpframe.testing._choices import LARGEST, smallest_settings
from kpframe.testing._drawing import settings_strategy
from kpframe.testing._forms import JACOBIANS, METRICS, STEPS, ParameterOperatorCase, PropagatorCase
from kpframe.testing._moments import QuantityCase
from kpframe.testing._ranks.cases import RanksCase
from kpframe.testing._residual import CheckFailure, NotApplicable
from kpframe.testing._sources import FORMS, Source, class_of, show, source_of
from kpframe.testing._trees import BINARY, LEAVES, ROOTS, UNARY, Node, OperatorCase
from kpframe.testing._values import DEVICE, KINDS

#: Models that rules and quantities are checked on.
TOYS = tuple(source_of(f"kpframe.testing._toys:{name}") for name in ("Elman", "Plain"))

#: Models whose A and J forms are made of: weight sites, one matrix at two, no structure, wrapped.
FORM_MODELS = tuple(
    source_of(f"kpframe.testing._toys:{name}")
    for name in ("Elman", "Gated", "Plain", "Tied", "Started", "wrapped")
)

_AXES = ("time", "batch", "hidden")


def sizes(low: int = 1, high: int = LARGEST) -> st.SearchStrategy[int]:
    """Return small sizes, from ``low`` to ``high``."""
    return st.integers(low, high)


def seeds() -> st.SearchStrategy[int]:
    """Return seeds; 0 is the simplest."""
    return st.integers(0, 2**16)


def kinds() -> st.SearchStrategy[str]:
    """Return kinds of values, half of them normal."""
    return st.one_of(st.just(KINDS[0]), st.sampled_from(KINDS))


def spaces() -> st.SearchStrategy[Space]:
    """Return small state spaces ``(batch, time, hidden)``."""
    return st.builds(Space.of, batch=sizes(1, 2), time=sizes(1, 4), hidden=sizes())


def tensors(space: Space) -> st.SearchStrategy[TensorCase]:
    """Return tensors of ``space``, as cases; ``build(dtype)`` makes one."""
    return st.builds(TensorCase, shape=st.just(space.shape), seed=seeds(), kind=kinds())


def _nodes() -> st.SearchStrategy[Node]:
    leaves = st.builds(Node, kind=st.sampled_from(LEAVES), children=st.just(()), number=st.integers(0, 2))

    def grow(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        one = st.builds(Node, kind=st.sampled_from(UNARY), children=st.tuples(children))
        two = st.builds(Node, kind=st.sampled_from(BINARY), children=st.tuples(children, children))
        return st.one_of(one, two)

    square = st.recursive(leaves, grow, max_leaves=4)
    rooted = st.builds(Node, kind=st.sampled_from(ROOTS), children=st.tuples(square))
    return st.one_of(square, rooted)


def operators() -> st.SearchStrategy[OperatorCase]:
    """Return operators: small trees of the algebra, with leaves of every kind and reductions at the root."""
    kind = st.sampled_from(("normal", "ones", "one-hot", "zeros", "tiny"))
    return st.builds(
        OperatorCase,
        tree=_nodes(),
        batch=sizes(1, 2),
        time=sizes(),
        hidden=sizes(1, 2),
        seed=seeds(),
        kind=kind,
    )


def settings_for(spec: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return settings that ``spec`` can be built with, from its bounds and choices, sizes small."""
    source = source_of(spec)
    return settings_strategy(source)


def models(spec: Any, **fixed: Any) -> st.SearchStrategy[FlowCase]:
    """Return the cases of a model with one trial and one step; ``build_model()`` makes the model alone.

    ``spec`` is what ``kpframe.testing.check_model`` takes; ``fixed`` fields of the flow are not drawn.
    """
    return flows(spec, **{"batch": 1, "time": 1, **fixed})


def flows(spec: Any, **fixed: Any) -> st.SearchStrategy[FlowCase]:
    """Return flows of a model: settings, trials, steps, initial state and mask.

    Args:
        spec: see ``kpframe.testing.check_model``.
        fixed: field of ``FlowCase`` -> a value, or a strategy of its own.
    """
    source = source_of(spec)
    drawn: dict[str, st.SearchStrategy[Any]] = {
        "settings": settings_strategy(source),
        "batch": sizes(1, 2),
        "time": sizes(1, 4),
        "seed": seeds(),
        "kind": kinds(),
        "h0": st.sampled_from(("own", "given")),
        "mask": st.booleans(),
    }
    for name, value in fixed.items():
        drawn[name] = value if isinstance(value, st.SearchStrategy) else st.just(value)
    return st.builds(FlowCase, model=st.just(source.reference), **drawn)


def rules(spec: Any, **fixed: Any) -> st.SearchStrategy[RuleCase]:
    """Return the rule ``spec``, with settings, on flows of small models; ``fixed`` fields are not drawn."""
    source = source_of(spec, "rule")
    return st.builds(
        RuleCase,
        rule=st.just(source.reference),
        settings=settings_strategy(source),
        flow=st.one_of(*(flows(toy, **fixed) for toy in TOYS)),
    )


def quantities(spec: Any, **fixed: Any) -> st.SearchStrategy[QuantityCase]:
    """Return the quantity ``spec``, with settings, on small networks; ``fixed`` fields are not drawn."""
    source = source_of(spec, "quantity")
    flow = {"batch": sizes(2, 3), "time": sizes(2, 4), "kind": "normal", "h0": "own", **fixed}
    return st.builds(
        QuantityCase,
        quantity=st.just(source.reference),
        settings=settings_strategy(source),
        flow=st.one_of(*(flows(toy, **flow) for toy in TOYS)),
        loss=st.sampled_from(("mse", "cross_entropy")),
        step=sizes(0, 2),
        budget=st.sampled_from((6, 60)),
    )


def propagators(spec: Any, **fixed: Any) -> st.SearchStrategy[PropagatorCase]:
    """Return the form of propagator ``spec``, with settings, on step Jacobians that it fits.

    They belong to small models of the kit, and to those that the plugin of the form offers. ``fixed``
    fields are not drawn; with a fixed ``step`` (``"own"``, ``"autograd"``, ``"dense"`` ..., or a strategy of
    them) it need not fit.

    Raises:
        NotApplicable: for a form that needs another device than the CPU, which cases are on, unless it need
            not fit.
    """
    return _forms(source_of(spec, "propagator"), PropagatorCase, STEPS, "step", fixed)


def parameter_operators(spec: Any, **fixed: Any) -> st.SearchStrategy[ParameterOperatorCase]:
    """Return the form of parameter operator ``spec``, with settings, on parameter Jacobians that it fits.

    See ``propagators``, also for what it raises; what is ``fixed`` without regard to fit is ``jacobian``.
    """
    source = source_of(spec, "parameter_operator")
    metric = fixed.pop("metric", st.sampled_from(METRICS))
    return _forms(source, ParameterOperatorCase, JACOBIANS, "jacobian", fixed, metric=metric)


def _forms(
    source: Source, case: Any, names: Sequence[str], what: str, fixed: dict[str, Any], **drawn: Any
) -> st.SearchStrategy[Any]:
    models = [*FORM_MODELS, *_models_beside(source)]
    sizes_of = {
        "batch": sizes(1, 2),
        "time": sizes(1, 4),
        "seed": seeds(),
        "kind": kinds(),
        "mask": st.booleans(),
    }
    flow = {name: fixed.pop(name) for name in list(fixed) if name in sizes_of}
    drawn_flows = {model.label: flows(model, **{**sizes_of, **flow}) for model in models}
    if what in fixed:
        value = fixed.pop(what)
        pairs = st.tuples(
            st.sampled_from(list(drawn_flows)),
            value if isinstance(value, st.SearchStrategy) else st.just(value),
        )
    else:
        _check_device(source)
        pairs = st.sampled_from(_fitting(source, case, models, names, what))
    return pairs.flatmap(
        lambda pair: st.builds(
            case,
            **{source.kind: st.just(source.reference), what: st.just(pair[1])},
            settings=settings_strategy(source),
            flow=drawn_flows[pair[0]],
            **drawn,
            **{name: st.just(value) for name, value in fixed.items()},
        )
    )


def _check_device(source: Source) -> None:
    """Raise ``NotApplicable`` for a form that needs a device of another type than that of cases."""
    try:
        needed = getattr(class_of(source.kind, source.reference), "device_type", None)
    except Exception:  # a check says it better
        return
    if needed not in (None, DEVICE):
        raise NotApplicable(f"not here: it needs a {needed} device, and cases are on {DEVICE}")


def _models_beside(source: Source) -> list[Source]:
    """Return the models that the plugin of a form offers, whose A and J it may be written for."""
    spec = source.spec
    if spec is None or spec in core().specs:
        return []
    plugin = next((info for info in get_manager().plugins if any(one is spec for one in info.specs)), None)
    specs = plugin.specs if plugin else ()
    return [source_of(one) for one in specs if one.kind == "model"]


def _fitting(
    source: Source, case: Any, models: Sequence[Source], names: Sequence[str], what: str
) -> list[tuple[str, str]]:
    """Return the models, and what is made of them, that a form fits; looked at once.

    Raises:
        CheckFailure: where it fits nothing.
    """
    if source.fitting:
        return source.fitting
    settings = smallest_settings(source.kind, source.reference)
    refused = ""
    for model in models:
        flow = FlowCase(model.reference, smallest_settings("model", model.reference), time=2)
        for name in names:
            try:
                case(source.reference, settings, name, flow).build()
            except NotApplicable as reason:
                refused = str(reason)
            except Exception:  # a check says it better
                source.fitting.append((model.label, name))
            else:
                source.fitting.append((model.label, name))
    if not source.fitting:
        raise CheckFailure(
            f"{show(source.reference)} fits nothing that it was tried on: {refused}\n  look at: fits(); a "
            "form for what only models of your own have is tried on those that its plugin offers beside it"
        )
    return source.fitting


def on_ranks(spec: Any, ranks: int, **fixed: Any) -> st.SearchStrategy[RanksCase]:
    """Return a model's, rule's or form's cases whose trials ranks share, unevenly for the most part.

    Args:
        spec: see ``kpframe.testing.check_model``.
        ranks: how many.
        fixed: see ``flows``, ``rules``, ``propagators`` and ``parameter_operators``.

    Raises:
        NotApplicable: for a form that needs another device than the CPU.
    """
    source = source_of(spec)
    if source.kind in FORMS:
        _check_device(source)
    drawn: dict[str, Callable[..., st.SearchStrategy[Any]]] = {
        "model": flows,
        "rule": rules,
        "propagator": propagators,
        "parameter_operator": parameter_operators,
    }
    if source.kind == "parameter_operator":
        fixed = {"jacobian": st.sampled_from(("own", "autograd")), **fixed}  # a matrix has no shares
    draw = drawn[source.kind]
    uneven = (2,) + (1,) * (ranks - 1)  # the simplest
    shares = st.one_of(st.just(uneven), st.tuples(*[sizes(1, 2)] * ranks))
    return shares.flatmap(
        lambda found: st.builds(
            RanksCase, case=draw(source, **{**fixed, "batch": sum(found)}), shares=st.just(found)
        )
    )


def reducers(spec: Any, **fixed: Any) -> st.SearchStrategy[ReducerCase]:
    """Return the reducer ``spec``, with settings, and operators to reduce; ``fixed`` fields are not drawn."""
    return _reducers(source_of(spec, "reducer"), fixed)


@st.composite
def _reducers(draw: st.DrawFn, source: Source, fixed: dict[str, Any]) -> ReducerCase:
    batch, time, hidden = draw(sizes(1, 2)), draw(sizes()), draw(sizes(1, 2))
    name = source.reference
    spec = source.spec
    if spec is not None and spec in core().specs:
        settings = _core_settings(draw, spec.name, batch, time, hidden)
    else:
        settings = draw(settings_strategy(source))
    values = {"seed": draw(seeds()), "kind": draw(st.sampled_from(("normal", "ones", "one-hot"))), **fixed}
    return ReducerCase(name, settings, batch, time, hidden, **values)


def _core_settings(draw: st.DrawFn, name: str, batch: int, time: int, hidden: int) -> dict[str, Any]:
    if name == "bin":
        return {"time": draw(sizes(1, time))}
    if name == "select":
        return {"time": draw(st.one_of(st.integers(0, time - 1), st.just([0]), st.just(-1)))}
    if name == "project":
        return {"directions": TensorCase((draw(sizes(1, 2)), hidden), draw(seeds()))}
    if name == "last_valid":
        return {"mask": MaskCase(draw(st.lists(sizes(1, time), min_size=batch, max_size=batch)), time)}
    return {"axes": draw(st.lists(st.sampled_from(_AXES), min_size=1, max_size=3, unique=True))}
