"""All guarantees that can be had, in one table: the number, what it is about, what it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankjax.certificates._guarantee import Guarantee, check_confidence, shown, sure
from rankjax.certificates._near import certify_near
from rankjax.certificates._one_example import Apply
from rankjax.certificates.any_network import Picked, certify_by, hold_out
from rankjax.certificates.file import CompressedNetwork
from rankjax.certificates.theorem import certify
from rankjax.network import Structure
from rankjax.network.internal import check_structure, number_of_examples


@dataclass(frozen=True)
class Route:
    """A row of the table.

    Attributes:
        name: of the function that gives the guarantee.
        about: the network that it is about.
        needs: beside the network and its training sample.
        guarantee: or ``None`` where there is none.
        reason: why there is none.
    """

    name: str
    about: str
    needs: str
    guarantee: Guarantee | None
    reason: str = ""


@dataclass(frozen=True)
class Guarantees(Sequence[Route]):
    """What ``certify_all`` returns: rows, the smallest bound first.

    Attributes:
        routes: the rows.
        delta: of each.
        joint: whether all hold at once with probability ``1 - delta``.
    """

    routes: tuple[Route, ...]
    delta: float
    joint: bool

    def __len__(self) -> int:
        return len(self.routes)

    def __getitem__(self, index: Any) -> Any:
        return self.routes[index]

    def to_json(self) -> str:
        """The rows as text, each guarantee as its own ``to_json`` writes it."""
        rows = []
        for route in self.routes:
            found = route.guarantee
            guarantee = None if found is None else json.loads(found.to_json())
            row = {"name": route.name, "about": route.about, "needs": route.needs}
            rows.append({**row, "guarantee": guarantee, "reason": route.reason})
        return json.dumps({"delta": self.delta, "joint": self.joint, "routes": rows}, indent=1)

    def __str__(self) -> str:
        rows = [("true error <=", "examples", "route", "about", "needs")]
        for route in self.routes:
            found = route.guarantee
            value, n = ("none", "") if found is None else (shown(found.value), str(found.n))
            rows.append((value, n, route.name, route.about, route.needs))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += [f"no {r.name}: {r.reason}" for r in self.routes if r.reason]
        confidence = f"with probability >= {sure(self.delta)}"
        lines.append(
            f"all of them hold at once {confidence}; each is printed with its assumptions"
            if self.joint
            else f"each holds {confidence} by itself: choose the row before you look, or pass "
            "joint=True; each is printed with its assumptions"
        )
        return "\n".join(lines)


def certify_all(
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Apply,
    held_out: tuple[Any, Any] | None = None,
    unlabeled: Any = None,
    stored: CompressedNetwork | None = None,
    picked: Picked | None = None,
    picked_apply: Apply | None = None,
    delta: float = 0.01,
    tried: int = 1,
    joint: bool = False,
    reference: Any = None,
    activations: Mapping[str, float] | None = None,
    batch_size: int = 1024,
) -> Guarantees:
    r"""Every guarantee that these data allow, at the same ``delta``, in one table.

    Always ``certify``; ``hold_out`` with ``held_out``; ``certify_near`` and the certificate of the
    file with ``stored``; the certificate of Pick-to-Learn with ``picked``; with ``unlabeled``,
    ``certify_by`` through each of the latter two, whose certificates then get one half of delta.

    Args:
        structure: from ``describe`` with the forward function.
        params: the trained parameters.
        x: the training inputs.
        y: integer labels.
        apply: ``apply(params, x) -> logits``, in inference mode.
        held_out: labeled examples ``(x, y)`` that nothing has seen.
        unlabeled: inputs that nothing has seen. The inputs of ``held_out`` will do.
        stored: from ``compress``, a file made with this sample.
        picked: from ``pick_to_learn``, with its own sample and ``tried``.
        picked_apply: the forward function of ``picked``; ``None``: ``apply``.
        delta: probability that a row fails; in (0, 1/2].
        tried: how many networks, architectures or codes were tried on these data, for every row but
            that of ``picked``.
        joint: divide delta by the number of rows (through ``tried``), so that all rows hold at once
            and the smallest may be quoted.
        reference: see ``certify``.
        activations: see ``certify``.
        batch_size: examples per call.

    Returns:
        ``Guarantees``: printable, a sequence of ``Route`` with the smallest bound first. A network
        that ``certify`` refuses has a row that says why.

    Raises:
        ValueError: as the functions of the rows, apart from what ``certify`` and ``certify_near``
            refuse.

    Not differentiable. Cost: that of the rows.

    Source: the theorems of the rows (documentation, theory).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import certify_all
        >>> from rankjax.network import describe
        >>> x = jax.random.normal(jax.random.key(0), (6000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
        >>> table = certify_all(
        ...     describe(params), params, x[:4000], y[:4000],
        ...     apply=lambda params, x: x @ params["kernel"], held_out=(x[4000:], y[4000:]),
        ... )
        >>> sorted(route.name for route in table)
        ['certify', 'hold_out']
    """
    check_structure(structure, params)
    check_confidence(delta, tried)
    number_of_examples(x, np.asarray(y), batch_size)
    for name, value, kind in (("stored", stored, CompressedNetwork), ("picked", picked, Picked)):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name}: got {type(value).__name__}, must be a {kind.__name__}")
    if held_out is not None and not (isinstance(held_out, tuple | list) and len(held_out) == 2):
        raise ValueError(f"held_out: got {type(held_out).__name__}, must be a pair (x, y)")
    if not isinstance(joint, bool):
        raise ValueError(f"joint: got {joint!r}, must be True or False")
    if unlabeled is not None and stored is None and picked is None:
        raise ValueError("unlabeled: needs stored or picked, by which the network is certified")
    surrogates = (stored is not None) + (picked is not None)
    count = 1 + (held_out is not None) + (stored is not None)
    count += surrogates * (1 + (unlabeled is not None))
    paid = tried * count if joint else tried
    given: dict[str, Any] = {"delta": delta, "tried": paid, "batch_size": batch_size}
    traced: dict[str, Any] = {"apply": apply, "activations": activations, **given}
    network = "the network itself, in exact arithmetic"
    routes = [
        _or_reason(
            "certify", network, "",
            lambda: certify(structure, params, x, y, reference=reference, **traced),
        )
    ]  # fmt: skip
    if held_out is not None:
        found = hold_out(params, *held_out, apply=apply, **given)
        routes.append(Route("hold_out", "the network", "fresh labeled examples", found))
    certified = []
    if stored is not None:
        routes.append(
            _or_reason(
                "certify_near", network, "a file close to it",
                lambda: certify_near(structure, params, x, y, neighbor=stored, **traced),
            )
        )  # fmt: skip
        file, half = (
            stored.certificate(apply, x, y, delta=d, tried=paid, batch_size=batch_size)
            for d in (delta, delta / 2)
        )
        routes.append(Route("compress", "the network in the file", "", file))
        certified.append(("the file", stored.params, apply, half))
    if picked is not None:
        own = replace(picked.certificate, tried=picked.certificate.tried * (paid // tried))
        found, half = (replace(own, delta=d).settled() for d in (delta, delta / 2))
        routes.append(Route("pick_to_learn", "the network of picked examples", "", found))
        certified.append(("the picked network", picked.params, picked_apply or apply, half))
    if unlabeled is not None:
        for name, surrogate, its_apply, half in certified:
            found = certify_by(
                params, unlabeled, apply=apply, surrogate=surrogate, surrogate_apply=its_apply,
                certificate=half, **given,
            )  # fmt: skip
            needs = "fresh examples without labels"
            routes.append(Route(f"certify_by {name}", "the network", needs, found))
    routes.sort(key=lambda route: route.guarantee.value if route.guarantee else 2.0)
    return Guarantees(tuple(routes), delta, joint)


def _or_reason(name: str, about: str, needs: str, route: Any) -> Route:
    """The row, with the refusal in place of the guarantee where there is one."""
    try:
        return Route(name, about, needs, route())
    except ValueError as refusal:
        return Route(name, about, needs, None, str(refusal))
