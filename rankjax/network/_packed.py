"""Weights that are stored as packed whole numbers, told by the names of what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

# The scheme, how the name of its numbers ends, what must be beside them, what may be. The ends
# replace each other: of layer.W_q, layer.zero is beside it; of layer.weight, layer.weight.absmax.
_SCHEMES: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("bitsandbytes, 4 bits", "", (".absmax",),
     (".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4",
      ".quant_state.bitsandbytes__fp4")),
    ("bitsandbytes, 8 bits", ".weight", (".SCB",), (".weight_format",)),
    ("GPTQ", ".qweight", (".qzeros", ".scales", ".g_idx"), ()),
    ("AWQ", ".qweight", (".qzeros", ".scales"), ()),
    ("HQQ", ".W_q", (".zero", ".scale"), ()),
    ("NVFP4", "", ("_scale", "_scale_2"), ()),
    ("NVFP4", "_packed", ("_scale", "_global_scale"), ("_shape",)),
    ("compressed-tensors", "_packed", ("_scale", "_shape"), ("_zero_point", "_g_idx")),
    ("MXFP4", "_blocks", ("_scales",), ()),
    ("AQLM", ".codes", (".codebooks", ".scales"), ()),
    ("MLX", ".weight", (".scales", ".biases"), ()),
    ("Qwix", ".qvalue", (".scale",), (".zero_point",)),
    ("quanto", "._data", ("._scale",), ("._shift",)),
)  # fmt: skip


def packed(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Why the leaves of a known scheme are no weights, by path: the numbers, and their parts.

    Args:
        leaves: arrays by path, keys joined by ``/`` or ``.``.
    """
    found: dict[str, str] = {}
    paths = {f".{path.replace('/', '.')}": path for path in leaves}
    for scheme, end, needed, possible in _SCHEMES:
        for dotted, path in paths.items():
            stem = dotted.removesuffix(end)
            if not dotted.endswith(end) or not all(stem + one in paths for one in needed):
                continue
            dtype = leaves[path].dtype
            # HQQ may view its numbers as floating; others beside which a scale stands are weights.
            weight = end != ".W_q" and jnp.issubdtype(dtype, jnp.floating)
            if path in found or weight:
                continue
            beside = " and ".join(one.lstrip("._") for one in needed)
            found[path] = (
                f"holds {dtype.name} of weights packed by {scheme} (with {beside}): unpack them"
            )
            for one in (*needed, *possible):
                if stem + one in paths:
                    found.setdefault(paths[stem + one], f"part of weights packed by {scheme}")
    return found
