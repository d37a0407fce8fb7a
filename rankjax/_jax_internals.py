"""All that is used of JAX beyond its public interface, with the reason.

``jax.extend.core`` is meant for libraries like this one, but promises no stability. Nothing is used
of ``jax.interpreters`` and ``jax._src``.

* ``ClosedJaxpr``, ``Jaxpr``, ``JaxprEqn``, ``Literal``: ``network`` follows the weights through the
  traced program of ``apply``, equation by equation, and ``certificates`` has a rule for each
  primitive. Only types and their documented fields are used; no primitive is defined.
"""

from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import JaxprEqn as JaxprEqn
from jax.extend.core import Literal as Literal
