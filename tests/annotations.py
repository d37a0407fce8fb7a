"""The public functions of ``rankjax.matrix`` and ``rankjax.training``, held to their annotations.

jaxtyping knows the shapes and beartype checks them, in the tests alone. Not by jaxtyping's import
hook: it would refuse before the library does, and what a user sees is the library's ``ValueError``.
Here arguments that do not fit must be refused by the function itself.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

import beartype
import jaxtyping

import rankjax
from rankjax import matrix, training

FACES = (matrix, matrix.spectrum, matrix.warm, training, rankjax)


def held_to_its_annotations(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; what its annotations exclude must be a ``ValueError`` of its own."""
    strict = jaxtyping.jaxtyped(function, typechecker=beartype.beartype)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return strict(*args, **kwargs)
        except jaxtyping.TypeCheckError:
            function(*args, **kwargs)  # ends in its ValueError
            raise

    return run


def switch_on() -> None:
    """Replace the functions by which tests call the library; within it nothing changes."""
    done: dict[Any, Any] = {}
    for face in FACES:
        for name, found in vars(face).items():
            if _is_public(face, name, found):
                if found not in done:
                    done[found] = held_to_its_annotations(found)
                setattr(face, name, done[found])


def _is_public(face: ModuleType, name: str, found: Any) -> bool:
    own = getattr(found, "__module__", "").startswith(("rankjax.matrix", "rankjax.training"))
    return inspect.isfunction(found) and own and not name.startswith("_")
