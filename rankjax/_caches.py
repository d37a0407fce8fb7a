"""Tracing a function anew, whatever JAX remembers of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

# Made once, when rankjax is imported: each context that is made enters the keys of all compiled
# functions for good, so that JAX compiles everything again. Older releases have none.
_MAKE: Callable[..., Any] | None = getattr(jax, "make_user_context", None)
_GENERATION = None if _MAKE is None else _MAKE(default_value=None)


def afresh() -> AbstractContextManager[Any]:
    """A context in which JAX traces every function anew, jitted ones inside of others too.

    A jitted function that was traced before would keep the arrays it closed over at that time.
    """
    if _GENERATION is None:
        jax.clear_caches()
        return nullcontext()
    return _GENERATION(object())
