# ruff: noqa: E501
"""Mutants of the certificates: one line is changed, and some test of the default run must fail.

``python tests/certificates/mutants.py [part of a name] [-j processes]`` prints a table and the
survivors; the exit code is 1 if there are any. Each mutant lives in a temporary copy of the
package, and only the tests that are meant to notice it are run.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RULES, LATTICE = "test_rules.py", "test_lattice.py"
ROUNDING, VALIDITY = "test_rounding.py", "test_validity.py"


def rule(*names: str) -> str:
    """The cases of some primitives."""
    return RULES + "::" + ",".join(f"test_a_rule_is_sound_and_tight[{name}]" for name in names)


class Mutant(NamedTuple):
    """A change of one place.

    Attributes:
        file: below ``rankjax``.
        old: a text that is there exactly once.
        new: what replaces it.
        tests: files, or ``file::test,test``.
    """

    file: str
    old: str
    new: str
    tests: str


NODES, VALUES, TABLE, WALK, NETWORK, DISTANCES, CODE, COUNTING, CERT = (
    f"certificates/theorem/_{name}.py"
    for name in (
        "nodes", "values", "rules", "walk", "network", "distances", "lattice",
        "counting", "certificate",
    )
)  # fmt: skip
GUARANTEE, LENGTHS, KL, CONVOLUTION, ACTS = (
    "certificates/_guarantee.py", "certificates/_lengths.py", "bounds/_binary_kl.py",
    "network/_convolution.py", "network/_activations.py",
)  # fmt: skip

VERIFY, NEIGHBOR, GUARD = (
    f"certificates/theorem/_{name}.py" for name in ("verify", "neighbor", "guard")
)
NEAR, PRIMITIVES = "certificates/_near.py", "certificates/_primitives.py"
CHECKS, BESIDE = "test_verify.py", "../test_near.py"
SEEN = "test_certify.py"
BREAKS = "test_breaks.py"

LOST = RULES + "::test_no_bound_underflows,test_numbers_that_products_could_lose_are_refused"
OWN = "test_breaks.py::test_primitives_that_run_code_of_their_user_are_refused"
ONE = "test_breaks.py::test_a_function_of_one_example_only_is_refused"
LONG_LOOPS = "test_breaks.py::test_long_loops_are_refused"
HEADS = "test_grammar.py::test_heads_are_sound_and_tight"
LOOPS = "test_grammar.py::test_loops_and_results_of_several"
MUTANTS = [
    # Constants of the rules.
    Mutant(TABLE, '"logistic": 0.25', '"logistic": 0.2', rule("logistic")),
    Mutant(TABLE, '"logistic": 0.25', '"logistic": 0.05', rule("logistic")),
    Mutant(TABLE, '"erf": 1.1283791670955129', '"erf": 0.5', rule("erf")),
    Mutant(TABLE, '"erfc": 1.1283791670955129', '"erfc": 1.0', rule("erfc")),
    Mutant(TABLE, '"cos": 1.0', '"cos": 0.9', rule("cos")),
    Mutant(
        TABLE,
        "factor = math.sqrt(columns * rows)",
        "factor = math.sqrt(columns)",
        rule("reduce_window_sum"),
    ),
    Mutant(TABLE, "factor = math.sqrt(columns * rows)", "factor = 1.0", rule("reduce_window_sum")),
    Mutant(
        TABLE,
        "return rec.scale(rec.moved(tags[0]), math.sqrt(columns))",
        "return rec.moved(tags[0])",
        rule("reduce_window_max"),
    ),
    Mutant(
        VALUES,
        "factor = math.sqrt(int(repeats.max(initial=1)))",
        "factor = 1.0",
        rule("broadcast_in_dim"),
    ),
    Mutant(
        TABLE,
        "rec.scale(rec.moved(tags[0]), math.sqrt(terms), rounded)",
        "rec.scale(rec.moved(tags[0]), 1.0, rounded)",
        rule("reduce_sum"),
    ),
    Mutant(
        TABLE,
        "rec.scale(moved, math.sqrt(np.size(out) / np.size(values[0])))",
        "moved",
        rule("broadcast_in_dim"),
    ),
    Mutant(
        TABLE,
        "return rec.scale(rec.moved(tag), math.sqrt(ratio))",
        "return rec.moved(tag)",
        rule("mul", "div", "max"),
    ),
    Mutant(
        TABLE,
        "(1.0,) * len(parts))\n    return rec.add(node, parts, 0.0)",
        "(1.0,) + (0.0,) * (len(parts) - 1))\n    return rec.add(node, parts, 0.0)",
        rule("concatenate"),
    ),
    Mutant(TABLE, "1 / smallest, rounded)", "min(1.0, 1 / smallest), rounded)", rule("div")),
    Mutant(
        TABLE,
        "inverse = 1 / jnp.min(jnp.abs(wide(values[1])))",
        "inverse = 1 / jnp.max(jnp.abs(wide(values[1])))",
        rule("div"),
    ),
    Mutant(
        TABLE,
        "float(np.max(np.abs(np.asarray(other, float)), initial=0))",
        "float(np.min(np.abs(np.asarray(other, float))))",
        rule("mul"),
    ),
    Mutant(
        TABLE,
        "return _measured(rec, moved, jnp.max(jnp.abs(wide(other)), initial=0.0), rounded)",
        "return rec.scale(moved, 1.0, rounded)",
        rule("mul"),
    ),
    Mutant(
        TABLE,
        "_scaled_entries(tags[0], 1 / divisor",
        "_scaled_entries(tags[0], divisor",
        rule("div"),
    ),
    Mutant(
        TABLE,
        "np.broadcast_to(product, shape)",
        "np.broadcast_to(entries.factor, shape)",
        rule("mul"),
    ),
    Mutant(TABLE, "math.sqrt(repeats)), rows=None)", "1.0), rows=None)", rule("gather")),
    Mutant(TABLE, "math.sqrt(windows)), rows=None)", "1.0), rows=None)", rule("gather")),
    Mutant(
        TABLE, "(math.sqrt(windows),), distance=number)", "(1.0,), distance=number)", rule("gather")
    ),
    Mutant(TABLE, " and inside.size == index.size:", ":", rule("gather")),
    Mutant(
        TABLE,
        "return join(rec, [rec.moved(tag) for tag in tags[:2]])",
        "return rec.moved(tags[0])",
        rule("dynamic_update_slice"),
    ),
    Mutant(
        TABLE,
        "return _extreme(rec, eqn, values[1:], tags[1:], out)",
        "return _extreme(rec, eqn, values[1:2], tags[1:2], out)",
        rule("select_n"),
    ),
    Mutant(TABLE, "(1.0,) * len(parts))\n        found", "(1.0, 0.0))\n        found", rule("add")),
    Mutant(
        TABLE,
        "rec.scale(moved, largest_spectral_norm(constant), rounded)",
        "rec.scale(moved, 1.0, rounded)",
        rule("dot_general"),
    ),
    Mutant(
        TABLE,
        "return _measured(rec, moved, sizes[1 - side], rounded)",
        "return rec.scale(moved, 1.0, rounded)",
        rule("dot_general"),
    ),
    Mutant(
        TABLE,
        "rec.scale(rec.moved(tags[0]), gather * norm, rounded)",
        "rec.scale(rec.moved(tags[0]), norm, rounded)",
        rule("conv_general_dilated"),
    ),
    Mutant(
        TABLE,
        "_measured(rec, rec.moved(tags[0]), kernel, rounded, gather)",
        "rec.scale(rec.moved(tags[0]), gather, rounded)",
        rule("conv_general_dilated"),
    ),
    Mutant(
        TABLE,
        "        (gain.gather,),\n",
        "        (0.0,),\n",
        rule("dot_general", "conv_general_dilated") + ";" + HEADS,
    ),
    Mutant(
        TABLE,
        "jnp.sum(geometry.squared_patch_norms(wide(values[0]) / unit))",
        "jnp.sum(jnp.square(wide(values[0]) / unit))",
        ROUNDING + "::test_patch_norms_are_never_below",
    ),
    Mutant(
        TABLE,
        "slots = rec.slot(low - moved.rounding), rec.slot(high + moved.rounding)",
        "slots = rec.slot(low), rec.slot(high)",
        ROUNDING + "::test_sizes_of_products_and_quotients",
    ),
    # Formulas of the nodes.
    Mutant(NODES, "return times(f[0], distance)\n", "return distance\n", rule("broadcast_in_dim")),
    Mutant(NODES, "return times(f[0], args[0])\n", "return args[0]\n", rule("mul")),
    Mutant(NODES, "return times(f[0], s[0], args[0])", "return f[0] * args[0]", rule("mul")),
    Mutant(
        NODES,
        "return times(gain + times(f[0], distance), args[0]) + times(distance, s[0])",
        "return gain * args[0] + distance * s[0]",
        HEADS,
    ),
    Mutant(
        NODES,
        "return times(gain + times(f[0], distance), args[0]) + times(distance, s[0])",
        "return f[0] * distance * args[0] + distance * s[0]",
        rule("dot_general"),
    ),
    Mutant(
        NODES,
        "return times(gain + times(f[0], distance), args[0]) + times(distance, s[0])",
        "return (gain + f[0] * distance) * args[0]",
        rule("dot_general"),
    ),
    Mutant(
        NODES,
        "return times(f[0], a, s[1] + b) + times(s[0], b)",
        "return f[0] * a * s[1] + s[0] * b",
        rule("dot_general"),
    ),
    Mutant(
        NODES,
        "return times(f[0], a, s[1] + b) + times(s[0], b)",
        "return f[0] * a * (s[1] + b)",
        rule("dot_general"),
    ),
    Mutant(
        NODES,
        "return times(f[0], a, s[1] + b) + times(s[0], b)",
        "return s[0] * b",
        rule("dot_general"),
    ),
    Mutant(
        NODES,
        "jnp.minimum(times(fa, b_inf + b), times(fb, b_two + b))",
        "jnp.minimum(fa * b_inf, fb * b_two)",
        rule("mul"),
    ),
    Mutant(
        NODES,
        "return first + times(jnp.minimum(times(fb, a_inf), times(fa, a_two)), b)",
        "return first",
        rule("mul"),
    ),
    Mutant(
        NODES,
        "jnp.minimum(times(fb, a_inf), times(fa, a_two))",
        "jnp.minimum(a_inf, a_two) * b",
        rule("mul"),
    ),
    Mutant(NODES, "room = smallest - b * ROOM\n", "room = smallest\n", rule("div")),
    Mutant(
        NODES,
        "room = smallest - b * ROOM\n",
        "room = smallest - b\n",
        RULES + "::test_what_is_subtracted_has_room",
    ),
    Mutant(
        NODES,
        "moved = args[0] * ROOM",
        "moved = args[0]",
        RULES + "::test_what_is_subtracted_has_room",
    ),
    Mutant(
        COUNTING,
        "jnp.where(jnp.isnan(limits), jnp.inf, limits)",
        "jnp.where(jnp.isnan(limits), 0.0, limits)",
        RULES + "::test_a_divisor_that_may_vanish_leaves_no_example_certain",
    ),
    Mutant(
        NODES,
        "zero = squares == 0\n",
        "zero = ~(squares > 0)\n",
        RULES + "::test_what_is_not_finite_never_becomes_a_bound",
    ),
    Mutant(
        NODES,
        "jnp.where(args[0] == 0, 0.0, times(slope + TINY, args[0]))",
        "jnp.where(args[0] > 0, slope * args[0], 0.0)",
        RULES + "::test_what_is_not_finite_never_becomes_a_bound",
    ),
    Mutant(
        NODES, "moved = times(fa, a) + times(fb, b, quotient)", "moved = times(fa, a)", rule("div")
    ),
    Mutant(
        NODES,
        "jnp.where(room > 0, bound, jnp.inf)",
        "bound",
        RULES + "::test_a_quotient_without_room_is_infinite",
    ),
    Mutant(
        NODES,
        "low - jnp.abs(low) * 2.0**-52",
        "low",
        RULES + "::test_the_ends_of_an_interval_are_rounded_outward",
    ),
    Mutant(
        NODES,
        "low, high = s[0] - moved, s[1] + moved",
        "low, high = s[0], s[1]",
        rule("exp", "log", "square"),
    ),
    Mutant(
        NODES,
        '"square": lambda low, high: 2 * _size(low, high)',
        '"square": lambda low, high: 2 * jnp.abs(high)',
        rule("square"),
    ),
    Mutant(NODES, "0.5 / (t * jnp.sqrt(t))", "0.5 / jnp.sqrt(t)", rule("rsqrt")),
    Mutant(
        NODES,
        "jnp.where(low > 0, low, 1)), jnp.inf)",
        "jnp.where(low > 0, low, 1)), 0.0)",
        RULES + "::test_slopes_are_the_largest_on_the_interval",
    ),
    Mutant(NODES, "jnp.exp2(high) * 0.6931471805599454", "jnp.exp2(high) * 0.5", rule("exp2")),
    # Loops, calls and equations with several results.
    Mutant(
        WALK,
        "stacked_tags.append(self._stacked([collected[i][1][number] for i in steps]))",
        "stacked_tags.append(collected[steps[-1]][1][number])",
        LOOPS,
    ),
    Mutant(
        WALK,
        "return [Entries(index, factor, tag.products) for index, factor in pairs]",
        "return [next(iter([Entries(i, f, tag.products) for i, f in pairs]))] * len(outs)",
        LOOPS,
    ),
    Mutant(
        WALK,
        "if name in _SEVERAL:  # each result has the provenance of its own operand\n            return list(tags)",
        "if name in _SEVERAL:\n            return [tags[0]] * len(tags)",
        rule("optimization_barrier"),
    ),
    Mutant(
        WALK,
        'if name == "reduce_precision":\n            return [values[0]]\n',
        "if False:\n            return [values[0]]\n",
        "test_grammar.py::test_casts_are_the_identity",
    ),
    Mutant(
        WALK,
        "return self.recorder.scale(self.recorder.moved(tag), constant, rounded)",
        "return self.recorder.scale(self.recorder.moved(tag), 0.9 * constant, rounded)",
        RULES + "::test_activations_are_recognized",
    ),
    Mutant(
        WALK,
        "rounded = rounded + rounding(value, FUNCTION)",
        "pass",
        ROUNDING + "::test_activations_that_cancel_at_negative_inputs",
    ),
    Mutant(
        WALK,
        "rounded = rounded + found[0].rounding",
        "pass",
        ROUNDING + "::test_a_told_activation_that_rounds",
    ),
    Mutant(ACTS, "_always(1.0999)", "_always(1.09)", RULES + "::test_constants_of_activations"),
    Mutant(ACTS, "_always(0.5)", "_always(0.45)", RULES + "::test_constant_of_softmax"),
    Mutant(
        ACTS,
        "jax.nn.leaky_relu, _at_least_one,",
        "jax.nn.leaky_relu, lambda slope: 1.0,",
        RULES + "::test_constants_of_activations",
    ),
    Mutant(
        ACTS,
        "if not is_literal(b) or not np.array_equal(a.val, b.val):",
        "if not is_literal(b):",
        RULES + "::test_a_name_proves_nothing",
    ),
    # Rounding.
    Mutant(
        NETWORK,
        "gaps = (logits[y] - logits) - 1.5 * off\n",
        "gaps = logits[y] - logits\n",
        ROUNDING + "::test_gaps_are_never_above_the_exact_ones[constant_before_relu]",
    ),
    Mutant(
        NETWORK,
        "gaps = gaps - 1e-15 * (jnp.abs(logits[y]) + jnp.abs(logits) + 1.5 * off)\n",
        "pass\n",
        ROUNDING + "::test_plain_logits_whose_difference_is_rounded",
    ),
    Mutant(
        TABLE,
        "rounded = rounding(out, ARITHMETIC)\n    if len(parts) == 1:",
        "rounded = 0.0\n    if len(parts) == 1:",
        ROUNDING + "::test_gaps_are_never_above_the_exact_ones[constant_before_relu]",
    ),
    Mutant(
        TABLE,
        "rounded = rounded * frobenius * size + UNDERFLOW",
        "rounded = 0.0",
        ROUNDING + "::test_gaps_are_never_above_the_exact_ones[inner_product_cancels]",
    ),
    Mutant(
        TABLE,
        "upper = size * ROOM + gain.gather * moved.rounding + UNDERFLOW",
        "upper = size",
        ROUNDING + "::test_norms_of_data_are_never_below",
    ),
    Mutant(
        TABLE,
        "return unit * (float(np.linalg.norm(matrix, 2)) + room)",
        "return unit * float(np.linalg.norm(matrix, 2))",
        ROUNDING + "::test_spectral_norms_cover_the_error_of_lapack",
    ),
    Mutant(
        VALUES,
        "2.0**-50, 2.0**-42",
        "2.0**-50, 2.0**-50",
        ROUNDING + "::test_functions_are_as_exact_as_assumed[log1p]",
    ),
    Mutant(
        VALUES,
        "rounded = rounded_weights(entries) * factor * size + UNDERFLOW",
        "rounded = 0.0",
        ROUNDING + "::test_gaps_are_never_above_the_exact_ones[scaled_weights_cancel]",
    ),
    Mutant(
        VALUES,
        "return found, found * ROOM + arg.rounding + UNDERFLOW",
        "return found, found",
        ROUNDING + "::test_sizes_of_products_and_quotients",
    ),
    Mutant(
        VALUES,
        "return found, found + arg.rounding",
        "return found, found",
        ROUNDING + "::test_sizes_of_products_and_quotients",
    ),
    Mutant(
        TABLE,
        "rec.slot(quotient + draft.rounding), rec.slot(smallest - args[1].rounding)",
        "rec.slot(quotient), rec.slot(smallest)",
        ROUNDING + "::test_sizes_of_products_and_quotients",
    ),
    # Distances and norms.
    Mutant(
        DISTANCES,
        "size = largest_spectral_norm(found)",
        "size = largest_spectral_norm(found[:1])",
        rule("dot_general") + ";" + HEADS,
    ),
    Mutant(
        DISTANCES,
        "size = float(length(found.ravel()))",
        "size = float(np.max(np.abs(found)))",
        ROUNDING + "::test_distances_are_never_below",
    ),
    Mutant(
        DISTANCES,
        "size = float(np.max(length(found)))",
        "size = float(np.min(length(found)))",
        ROUNDING + "::test_distances_are_never_below",
    ),
    Mutant(
        DISTANCES,
        "size = float(np.max(row_differences(found)))",
        "size = float(np.max(np.linalg.norm(found, axis=1)))",
        ROUNDING + "::test_distances_are_never_below",
    ),
    Mutant(
        DISTANCES,
        "size = float(np.max(found) - np.min(found))",
        "size = float(np.max(np.abs(found)))",
        ROUNDING + "::test_distances_are_never_below",
    ),
    Mutant(
        DISTANCES,
        "size += ARITHMETIC * float(np.max(np.abs(found)))",
        "pass",
        ROUNDING + "::test_differences_that_vanish_in_rounding",
    ),
    Mutant(
        DISTANCES,
        "return size * ROOM + 1e-300",
        "return size",
        ROUNDING + "::test_distances_are_never_below",
    ),
    Mutant(
        DISTANCES,
        "(found + ARITHMETIC * (sizes + sizes[:, None]))",
        "found",
        ROUNDING + "::test_differences_that_vanish_in_rounding",
    ),
    Mutant(
        DISTANCES,
        "coded_distance(exponent, unit) >= distance * ROOM",
        "coded_distance(exponent, unit) >= distance",
        LATTICE,
    ),
    Mutant(DISTANCES, "/ math.sqrt(12)", "/ math.sqrt(6)", LATTICE),
    Mutant(DISTANCES, "math.sqrt(shape[1] / 6)", "math.sqrt(shape[1] / 12)", LATTICE),
    Mutant(DISTANCES, "parts.append(one_of(2))", "pass", LATTICE),
    Mutant(
        DISTANCES,
        "gain.gather * largest_spectral_norm(matrices)",
        "largest_spectral_norm(matrices)",
        RULES + "::test_operator_norms_of_convolutions",
    ),
    Mutant(
        CONVOLUTION,
        "w.extent + (w.size - 1) * w.dilation for w in",
        "w.extent for w in",
        RULES + "::test_operator_norms_of_convolutions",
    ),
    Mutant(
        DISTANCES,
        "largest = max(largest, float(np.max(found)) + float(room))",
        "largest = max(largest, float(np.mean(found)))",
        RULES + "::test_the_torus_is_the_better_of_two_norms",
    ),
    # Counting.
    Mutant(COUNTING, "(math.sqrt(2) * room * moved)", "moved", HEADS),
    Mutant(
        COUNTING,
        "first = (pairs[y] + rows) * moved[:, None]",
        "first = pairs[y] * moved[:, None]",
        HEADS,
    ),
    Mutant(
        COUNTING,
        "first = (pairs[y] + rows) * moved[:, None]",
        "first = rows * moved[:, None]",
        HEADS,
    ),
    Mutant(COUNTING, "(rows * slots[head.slot])[:, None]", "0.0", HEADS),
    Mutant(COUNTING, " + ranges) * room", ") * room", HEADS),
    Mutant(TABLE, "return replace(rows, biases=(*rows.biases, bias))", "return rows", HEADS),
    # Lengths.
    Mutant(
        CODE, "parts.append(coin(int(beyond.size), int(np.sum(beyond - levels))))", "pass", LATTICE
    ),
    Mutant(CODE, "parts.append(Length(((nonzero, 2, 1),)))", "pass", LATTICE),
    Mutant(
        CODE,
        "parts.append(coin(asked - yes, yes))",
        "parts.append(coin(asked - yes, yes)) if level else None",
        LATTICE,
    ),
    Mutant(CODE, "one_of(min(self.matrices[1:])),", "", LATTICE),
    Mutant(CODE, "symbols_length(self.symbols[left:], self.levels),", "", LATTICE),
    Mutant(CODE, "integer(self.step - before)", "integer(0)", LATTICE),
    Mutant(CODE, "positive_integer(self.levels)]", "one_of(1)]", LATTICE),
    Mutant(CODE, "return one_of(3)\n", "return one_of(2)\n", LATTICE),
    Mutant(CERT, "one_of(self.tried)", "one_of(1)", LATTICE),
    Mutant(
        LENGTHS, "3 * (abs(j) + 1) * (abs(j) + 2), 2", "(abs(j) + 1) * (abs(j) + 2), 1", LATTICE
    ),
    Mutant(
        LENGTHS,
        "ratios = ((no + yes, 4, 1),) if no + yes else ()",
        "ratios = ((no + yes, 2, 1),) if no + yes else ()",
        LATTICE,
    ),
    Mutant(LENGTHS, "(1, no + yes), ", "", LATTICE),
    Mutant(
        LENGTHS,
        "return total + (size + 1)",
        "return total - (size + 1)",
        ROUNDING + "::test_lengths_are_rounded_up",
    ),
    Mutant(
        GUARANTEE,
        "high * room)",
        "low)",
        ROUNDING + "::test_upper_bound_is_the_upper_end_of_its_bracket",
    ),
    Mutant(
        GUARANTEE,
        "(1 / Decimal(delta)).ln()",
        "Decimal(0)",
        ROUNDING + "::test_upper_bound_against_150_digits",
    ),
    Mutant(
        GUARANTEE,
        "return found if Decimal(found) >= value else math.nextafter(found, math.inf)",
        "return found",
        ROUNDING + "::test_floats_are_rounded_up",
    ),
    Mutant(
        KL,
        "(jnp.zeros_like(q), 1 - q))[1]",
        "(jnp.zeros_like(q), 1 - q))[0]",
        ROUNDING + "::test_kl_inverse_is_the_upper_end_of_its_bracket",
    ),
    # What underflows.
    Mutant(NODES, "first = first * other + TINY", "first = first * other", LOST),
    Mutant(NODES, "unit = jnp.where(unit > 0, unit, 1)", "unit = 1.0", LOST),
    Mutant(NODES, "times(slope + TINY, args[0])", "times(slope, args[0])", LOST),
    Mutant(NETWORK, '        check_sizes("params", vector)\n', "", LOST),
    Mutant(NETWORK, 'check_sizes("x", array)', "pass", LOST),
    Mutant(
        PRIMITIVES,
        "if eqn.effects:",
        "if False:",
        "test_breaks.py::test_functions_that_change_arrays_in_place_are_refused",
    ),
    Mutant(PRIMITIVES, "value is primitive for m", "value is not None for m", OWN),
    Mutant(PRIMITIVES, '"exported", ', "", OWN),
    Mutant(PRIMITIVES, '"pallas", ', "", OWN),
    Mutant(PRIMITIVES, ', "composite"', "", OWN),
    Mutant(PRIMITIVES, "if code or any(", "if any(", OWN),
    Mutant(NETWORK, "if np.shape(found) != (n, self.classes):", "if False:", ONE),
    Mutant(WALK, "if len(steps) > _MOST_STEPS:", "if False:", LONG_LOOPS),
    Mutant(
        WALK,
        "if product and any(tag is None and beyond(value) for value, tag in pairs):",
        "if False:",
        LOST,
    ),
    Mutant(
        WALK,
        "values = [ordinary(value, product) if tag is DATA else value for value, tag in pairs]",
        "pass",
        "test_breaks.py::test_subnormal_numbers_in_products_are_refused",
    ),
    Mutant(
        WALK,
        "return _one_by_one(found)",
        "return list(found) if eqn.primitive.multiple_results else [found]",
        "test_breaks.py::test_the_compiler_does_not_put_equations_together",
    ),
    Mutant(
        WALK,
        "return _one_by_one(outs), [DATA] * len(outs)",
        "return outs, [DATA] * len(outs)",
        "test_breaks.py::test_the_compiler_does_not_undo_the_rounding_of_data",
    ),
    Mutant(
        WALK,
        "if drawn_at_each_reading or (not constant and draws_by_batch(eqn)):",
        "if False:",
        "test_breaks.py::test_random_numbers_that_depend_on_the_batch_are_refused",
    ),
    Mutant(
        NETWORK,
        "        with afresh():\n            try:\n                closed, shape",
        "        with afresh(), jax.enable_x64(True):\n            try:\n                closed, shape",
        "test_breaks.py::test_the_function_is_read_in_the_types_in_which_it_runs",
    ),
    Mutant(ACTS, "abs(number) if not abs(number) <= 1 else 1.0", "max(1.0, abs(number))", LOST),
    # What verify and the guard look at.
    Mutant(VERIFY, "if counted > certificate.errors:", "if False:", CHECKS),
    Mutant(VERIFY, "if certificate.assumptions != told:", "if False:", CHECKS),
    Mutant(VERIFY, "if leaf.matrices != shape:", "if False:", CHECKS),
    Mutant(VERIFY, "certificate.leaves] != wanted:", "certificate.leaves] == []:", CHECKS),
    Mutant(VERIFY, "!= certificate.n:", "< 0:", CHECKS),
    Mutant(VERIFY, "exact = certificate.verify()", "exact = certificate.value", CHECKS),
    Mutant(NEIGHBOR, "if not covers(exponent, measured, size):", "if False:", CHECKS),
    Mutant(NEIGHBOR, "if len(exponents) != len(self.network.distances):", "if False:", CHECKS),
    Mutant(NEIGHBOR, "if not any(one_row):", "if False:", SEEN),
    Mutant(CERT, "> 8000:", "> 1e300:", CHECKS),
    Mutant(CERT, "rel_tol=1e-9", "rel_tol=1e9", CHECKS),
    Mutant(NEAR, "if certificate.bits != neighbor.bits:", "if False:", BESIDE),
    Mutant(NEAR, "if counted > certificate.errors:", "if False:", BESIDE),
    Mutant(NEAR, "if certificate.assumptions != told:", "if False:", BESIDE),
    Mutant(NEAR, "if certificate.n != len(labels):", "if False:", BESIDE),
    Mutant(NEAR, "return replace(neighbor)", "return neighbor", BESIDE),
    Mutant(NEAR, "file = Length(((self.bits, 2, 1),))", "file = Length(())", BESIDE),
    Mutant(NEAR, "bool(np.any(a) or np.any(np.signbit(a)))", "False", BESIDE),
    Mutant(NEAR, "    run_guard(problem,", "    (lambda *args: None)(problem,", BESIDE),
    Mutant(GUARD, "if not largest <= 1:", "if False:", SEEN),
    Mutant(GUARD, "jnp.maximum(changes - noise, 0)", "jnp.maximum(changes - noise, 0) * 0", SEEN),
    Mutant(GUARD, "change[place] *= min(", "change[place] *= 0 * min(", SEEN),
    Mutant(
        "_jax_internals.py",
        "jax.threefry_partitionable(setting)",
        "nullcontext()",
        BREAKS + "::test_random_bits_are_drawn_as_where_they_were_traced",
    ),
    Mutant(
        WALK,
        "if name in PRINTS:",
        "if False:",
        BREAKS + "::test_what_apply_prints_is_not_run_while_it_is_read",
    ),
    Mutant(
        WALK,
        'check_subnormal("apply: computes", value)',
        "pass",
        BREAKS + "::test_subnormal_numbers_are_not_taken_for_zero",
    ),
    Mutant(
        NETWORK,
        'check_subnormal("x: got", array.astype(_declared_dtype(leaf)))',
        "pass",
        BREAKS + "::test_subnormal_numbers_are_not_taken_for_zero",
    ),
    Mutant(
        "certificates/_held.py",
        "sizes < smallest",
        "sizes < 0",
        BREAKS + "::test_subnormal_numbers_are_not_taken_for_zero",
    ),
    Mutant(
        GUARD,
        "64 * differ > len(exact)",
        "4 * differ > len(exact)",
        BREAKS + "::test_a_function_that_decides_few_examples_of_a_batch_otherwise_is_refused",
    ),
    Mutant(
        "certificates/_inputs.py",
        "isinstance(leaf, np.ma.MaskedArray)",
        "False",
        BREAKS + "::test_arrays_that_are_not_what_they_hold_are_named",
    ),
    Mutant(
        "certificates/_inputs.py",
        "not dtype.isnative",
        "False",
        BREAKS + "::test_arrays_that_are_not_what_they_hold_are_named",
    ),
]


def arguments(tests: str) -> list[str]:
    """What pytest is told."""
    here, found = "tests/certificates/theorem/", []
    for part in tests.split(";"):
        file, _, names = part.partition("::")
        found += [f"{here}{file}::{name}" for name in names.split(",")] if names else [here + file]
    return found


def survives(mutant: Mutant) -> bool:
    """Run in a process of its own, where nothing of the package is imported yet."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("rankjax", "tests"):
            shutil.copytree(
                ROOT / name, f"{folder}/{name}", ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = Path(folder) / "rankjax" / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(
                f"{mutant.file}: {mutant.old!r} is there {text.count(mutant.old)} times"
            )
        path.write_text(text.replace(mutant.old, mutant.new))
        os.chdir(folder)
        sys.path[:] = [folder, *(p for p in sys.path if p and Path(p).resolve() != ROOT)]
        os.environ["PYTHONPATH"] = folder
        sys.dont_write_bytecode = True
        import pytest

        sys.stdout.flush()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments(mutant.tests)])
        if code not in (0, 1):  # nothing but a failed test counts
            raise SystemExit(f"pytest: {code}")
        return code == 0


def main(part: str, processes: int) -> int:
    """Run them all, a few at a time; how many survive."""
    # Imported once, before the processes are forked; no computation is done here.
    import jax.numpy  # noqa: F401
    import pytest  # noqa: F401

    chosen = [m for m in MUTANTS if part in m.file + m.old + m.new + m.tests]
    running: dict[int, tuple[Mutant, float]] = {}
    waiting, survivors, broken = list(chosen), [], []
    while waiting or running:
        while waiting and len(running) < processes:
            mutant = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                try:
                    code = 3 if survives(mutant) else 4
                except BaseException as error:
                    print(repr(error), flush=True)
                    code = 5
                os._exit(code)
            running[pid] = mutant, time.time()
        pid, status = os.wait()
        mutant, start = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        word = {3: "SURVIVED", 4: "killed"}.get(code, "BROKEN")
        (survivors if code == 3 else broken if code != 4 else []).append(mutant)
        where = Path(mutant.file).stem
        print(
            f"{word:8} {time.time() - start:5.0f} s  {where:13} {mutant.old[:60]!r} -> {mutant.new[:50]!r}",
            flush=True,
        )
    print(f"{len(chosen)} mutants, {len(survivors)} survivors, {len(broken)} that could not be run")
    return len(survivors) + len(broken)


if __name__ == "__main__":
    words = sys.argv[1:]
    count = int(words.pop(words.index("-j") + 1)) if "-j" in words else 1
    words = [w for w in words if w != "-j"]
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rankjax-mutants-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    sys.exit(main(words[0] if words else "", count) > 0)
