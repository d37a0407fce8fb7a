"""A factorized tree back in the form that Flax NNX deploys: a module."""

from __future__ import annotations

from typing import Any


def merge_nnx(graph: Any, factorized: Any, /, *rest: Any) -> Any:
    """``flax.nnx.merge`` for factorized parameters: a module that runs the other one on factors.

    The module is called as the one that was split, and runs its code through ``lowrank``. Each
    factor is an ``nnx.Param`` of its own, so ``nnx.jit``, ``nnx.grad``, ``nnx.Optimizer``,
    ``nnx.split`` and checkpoints treat it like any other module. Batch statistics, random number
    streams and caches that a call sets are set. Its method ``__call__`` is the only one.

    Modes such as ``model.eval()`` are part of ``graph``: set them before ``nnx.split``, or pass
    what the model takes as arguments (``deterministic=True``).

    Args:
        graph: the first that ``nnx.split(model, nnx.Param, ...)`` returns.
        factorized: from ``factorize`` of the parameters, the second.
        rest: the other states. Their arrays are copied into the module.

    Returns:
        An ``nnx.Module``; its property ``factorized`` is the tree of parameters as it is now, for
        ``densify`` and ``save_factorized``.

    Raises:
        ImportError: without Flax (``pip install 'rankjax[flax]'``).
        ValueError: ``graph`` or ``factorized`` that are not from ``nnx.split``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from rankjax import describe
        >>> from rankjax.training import factorize
        >>> graph, params = nnx.split(nnx.Linear(30, 20, rngs=nnx.Rngs(0)), nnx.Param)
        >>> model = merge_nnx(graph, factorize(describe(params), params, ranks=2))
        >>> model(jnp.ones((5, 30), jnp.float32)).shape
        (5, 20)
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))  # of 620
        120
    """
    try:
        from flax import nnx

        from rankjax.training._factorized_module import FactorizedModule
    except ImportError as error:
        raise ImportError("merge_nnx needs flax: pip install 'rankjax[flax]'") from error
    if not isinstance(graph, nnx.GraphDef) or not isinstance(factorized, nnx.State):
        got = f"{type(graph).__name__} and {type(factorized).__name__}"
        raise ValueError(
            f"graph, factorized: got {got}, must be the GraphDef of nnx.split(model, nnx.Param, "
            "...) and its State of parameters, factorized"
        )
    return FactorizedModule(graph, factorized, *rest)
