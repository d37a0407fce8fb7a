"""What a forward function holds besides its parameters; none of it is coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax._jax_internals import is_closed, is_literal, is_open
from rankjax.certificates._primitives import check_primitive

if TYPE_CHECKING:
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr

_NUMBERS_OF = {"integer_pow": ("y",), "gather": ("fill_value",)}  # numbers among the parameters


@dataclass(frozen=True)
class Held:
    """What a forward function holds.

    Attributes:
        arrays: how many arrays.
        numbers: how many numbers in all of them.
        scalars: how many numbers are written into its equations.
    """

    arrays: int
    numbers: int
    scalars: int

    def assumptions(self) -> tuple[str, ...]:
        """In words; empty where it holds nothing."""
        found = []
        if self.arrays:
            found.append(
                f"apply holds {counted(self.arrays, 'array')} of {counted(self.numbers, 'number')} "
                "that are not coded: fixed before the data were seen"
            )
        if self.scalars:
            found.append(
                f"{counted(self.scalars, 'further number')} written into apply: fixed before the "
                "data were seen"
            )
        return tuple(found)


def counted(number: int, what: str) -> str:
    """A number and its noun."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def held_by(closed: ClosedJaxpr, constants: Sequence[Any] = (), *, exact: bool = False) -> Held:
    """Count what a traced function holds besides its arguments.

    Every number in an equation but 0 counts, wherever it stands; shapes and axes are the
    architecture.

    Args:
        closed: the traced function.
        constants: arrays that were handed in, but are no weights (random keys).
        exact: whether the numbers are to be read as they are, subnormal ones, too.

    Raises:
        ValueError: if the function calls out of JAX or runs Python code of its own, where nothing
            can be counted, or changes arrays in place; with ``exact``, if it holds subnormal
            numbers, which XLA takes for 0.
    """
    arrays: dict[int, Any] = {id(a): a for a in constants}
    scalars = 0

    def note(atoms: Sequence[Any]) -> None:
        nonlocal scalars
        for atom in atoms:
            if is_literal(atom) and np.size(atom.val) > 1:
                arrays[id(atom.val)] = atom.val
            elif is_literal(atom):
                scalars += _is_number(atom.val)
                check_subnormal("apply: holds", atom.val if exact else 0.0)

    def look(jaxpr: Jaxpr, consts: Sequence[Any]) -> None:
        nonlocal scalars
        arrays.update({id(c): c for c in consts})
        note(jaxpr.outvars)
        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            check_primitive(eqn)
            note(eqn.invars)
            scalars += sum(eqn.params.get(p) is not None for p in _NUMBERS_OF.get(name, ()))
            for value in eqn.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    if isinstance(inner, np.ndarray | jax.Array):
                        arrays[id(inner)] = inner
                    elif is_closed(inner):
                        look(inner.jaxpr, inner.consts)
                    elif is_open(inner):
                        look(inner, ())

    look(closed.jaxpr, closed.consts)
    for array in arrays.values() if exact else ():
        check_subnormal("apply: holds", array)
    return Held(len(arrays), sum(_numbers(a) for a in arrays.values()), scalars)


def check_subnormal(where: str, array: Any) -> None:
    """Refuse numbers that XLA takes for 0 and exact arithmetic does not.

    Raises:
        ValueError: for a number that is neither 0 nor normal.
    """
    dtype = getattr(array, "dtype", np.dtype(float))
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float64):  # those of shorter types are kept
        return
    smallest = jnp.finfo(dtype).tiny
    sizes = np.abs(np.asarray(array))
    if np.any((sizes < smallest) & (sizes > 0)):
        raise ValueError(
            f"{where} a subnormal number of {dtype}, must be 0 or at least {float(smallest):.3g} "
            "in size"
        )


def _is_number(value: Any) -> bool:
    """Whether a literal is another number than 0."""
    parts = np.stack([np.real(value), np.imag(value)]) if np.iscomplexobj(value) else value
    return bool(np.any(parts != 0) or np.any(np.signbit(parts)))


def _numbers(array: Any) -> int:
    if jnp.issubdtype(getattr(array, "dtype", np.dtype(float)), jax.dtypes.prng_key):
        return int(np.size(jax.random.key_data(array)))
    return int(np.size(array))


def is_weight(path: str, leaf: Any) -> bool:
    """Whether a leaf is an array.

    Raises:
        ValueError: for a leaf that is neither an array nor a part of the architecture (a function,
            a type): a number or a text could have been learned and is not coded.
    """
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return True
    if callable(leaf) or isinstance(leaf, np.dtype):
        return False
    kind = "number" if isinstance(leaf, int | float | complex) else type(leaf).__name__
    raise ValueError(
        f"params[{path!r}]: got the Python {kind} {leaf!r}; must be an array, so that it is coded, "
        "or a function; settings of a module can be closed over (equinox.partition separates them)"
    )
