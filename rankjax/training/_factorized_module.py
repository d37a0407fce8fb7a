"""A Flax NNX module that runs another one on factors. Imported only where Flax is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flax import nnx

from rankjax.training._factorize import Factors
from rankjax.training._lowrank import lowrank

#: Keys of a variable in a state.
Keys = tuple[Any, ...]
SIDES = ("left", "right")


class FactorizedModule(nnx.Module):
    """See ``merge_nnx``."""

    def __init__(self, graph: Any, factorized: Any, *rest: Any) -> None:
        self._graph = graph
        weights, views = [], []
        for keys, variable in nnx.to_flat_state(factorized):
            factors = _value(variable)
            if not isinstance(factors, Factors):
                weights.append((keys, variable.copy()))
                continue
            # One variable per factor: what optimizers, filters and checkpoints know.
            weights += [((*keys, s), variable.replace(getattr(factors, s))) for s in SIDES]
            views.append((keys, factors.view, factors.groups))
        others = [(keys, v.copy()) for state in rest for keys, v in nnx.to_flat_state(state)]
        self._views = tuple(views)
        self._weights, self._others = (tuple(k for k, _ in x) for x in (weights, others))
        self.weights, self.others = _nested(weights), _nested(others)

    @property
    def factorized(self) -> Any:
        """The parameters with ``Factors``, as of now: for ``densify`` and ``save_factorized``."""
        flat = {keys: _at(self.weights, keys).copy() for keys in self._weights}
        for keys, view, groups in self._views:
            left, right = (flat.pop((*keys, side)) for side in SIDES)
            factors = Factors(_value(left), _value(right), view, groups)
            flat[keys] = left.replace(factors)
        return nnx.from_flat_state(flat)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns that was split."""
        others = nnx.from_flat_state({k: _at(self.others, k).copy() for k in self._others})
        result, changed = _runner(self._graph)(self.factorized, others, args, kwargs)
        for keys, value in zip(self._others, changed, strict=True):
            if value is not None:
                _set(_at(self.others, keys), value)
        return result


@cache
def _runner(graph: Any) -> Callable[..., Any]:
    """The compiled call; modules of one graph share it."""

    def run(params: Any, others: Any, args: Any, kwargs: Any) -> Any:
        model = nnx.merge(graph, params, others)
        before = _values(others)
        result = model(*args, **kwargs)
        after = _values(nnx.state(model))
        # What the call has not set stays as it is: also where a variable cannot be set.
        changed = [None if after[keys] is value else after[keys] for keys, value in before.items()]
        return result, changed

    return lowrank(run)


def _value(variable: Any) -> Any:
    # Flax 0.12.0 has the property alone, of which later releases warn.
    return variable.get_value() if hasattr(type(variable), "get_value") else variable.value


def _set(variable: Any, value: Any) -> None:
    if hasattr(type(variable), "set_value"):
        variable.set_value(value)
    else:
        variable.value = value


def _values(state: Any) -> dict[Keys, Any]:
    return {keys: _value(variable) for keys, variable in nnx.to_flat_state(state)}


def _nested(variables: list[tuple[Keys, Any]]) -> nnx.Dict:
    tree: dict[str, Any] = {}
    for keys, variable in variables:
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(str(key), {})
        node[str(keys[-1])] = variable
    return _as_modules(tree)


def _as_modules(tree: dict[str, Any]) -> nnx.Dict:
    return nnx.Dict({k: _as_modules(v) if isinstance(v, dict) else v for k, v in tree.items()})


def _at(tree: nnx.Dict, keys: Keys) -> Any:
    for key in keys:
        tree = tree[str(key)]
    return tree
