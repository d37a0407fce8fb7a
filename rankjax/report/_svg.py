"""Small pictures as SVG text: nothing to import, sharp at any size, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

MOST_POINTS = 80  # of a curve: more cannot be told apart at this size


@dataclass(frozen=True)
class Scale:
    """From values to pixels.

    Attributes:
        low: value at ``start``.
        high: value at ``stop``.
        start: pixel.
        stop: pixel.
        log: by the logarithm.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = True

    def __call__(self, value: float) -> float:
        """The pixel of a value; of one that is outside, the nearest edge."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers: powers of ten; what lies between them where there would be few."""
        if not self.log:
            return linear_ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        inside = []
        for steps in ((1,), (1, 3), (1, 2, 5)):
            inside = [s * 10.0**e for e in range(first, last + 1) for s in steps]
            inside = [t for t in inside if self.low * 0.999 <= t <= self.high * 1.001]
            if len(inside) >= 3:
                break
        else:
            return linear_ticks(self.low, self.high)
        return inside[:: max(1, len(inside) // 6)]


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A label of a tick."""
    if value != 0 and not 1e-3 < abs(value) < 1e5:
        lead, exponent = f"{value:.0e}".split("e")
        return f"{lead}e{int(exponent)}"
    return f"{value:g}"


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        points: ``(x, y)``; those that are not finite are left out.
        color: as ``#rrggbb``.
        title: shown on hovering.
        width: in pixels.
        dashed: or drawn through.
    """

    points: Sequence[tuple[float, float]]
    color: str
    title: str = ""
    width: float = 1.5
    dashed: bool = False


@dataclass
class Plot:
    """A plot with two axes: ``text()`` is its SVG, ``draw`` puts it on axes of matplotlib.

    Attributes:
        title: said by the picture (for readers that do not see it).
        x: horizontal scale, in pixels of the picture.
        y: vertical scale; its ``start`` is the bottom.
        width: of the picture.
        height: of the picture.
        x_label: under the axis.
        y_label: above the axis.
        lines: what it shows.
    """

    title: str
    x: Scale
    y: Scale
    width: int
    height: int
    x_label: str = ""
    y_label: str = ""
    lines: list[Line] = field(default_factory=list)

    def vertical(self, value: float, color: str, title: str) -> None:
        """A thin line across the plot."""
        ends = [(value, self.y.low), (value, self.y.high)]
        self.lines.append(Line(ends, color, title, 1.0, dashed=True))

    def draw(self, ax: Any) -> None:
        """Draw the lines on axes of matplotlib, with scales and labels."""
        for line in self.lines:
            style = "--" if line.dashed else "-"
            at = list(zip(*line.points, strict=True))
            if at:
                ax.plot(*at, style, color=line.color, linewidth=line.width, label=line.title)
        for name, scale, label in (("x", self.x, self.x_label), ("y", self.y, self.y_label)):
            ax.set(**{
                f"{name}scale": "log" if scale.log else "linear",
                f"{name}lim": (scale.low, scale.high),
                f"{name}label": label,
            })  # fmt: skip

    def text(self) -> str:
        """The picture."""
        parts = [
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{escape(self.title)}">'
        ]
        for tick in self.y.ticks():
            at = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{self.x.start}" x2="{self.x.stop}" y1="{at:.1f}" '
                f'y2="{at:.1f}"/>'
                f'<text x="{self.x.start - 5}" y="{at + 3.5:.1f}" text-anchor="end">'
                f"{escape(short(tick))}</text>"
            )
        for tick in self.x.ticks():
            at = self.x(tick)
            parts.append(
                f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{self.y.start}" '
                f'y2="{self.y.stop}"/>'
                f'<text x="{at:.1f}" y="{self.y.start + 14}" text-anchor="middle">'
                f"{escape(short(tick))}</text>"
            )
        parts += map(self._mark, self.lines)
        if self.x_label:
            middle = (self.x.start + self.x.stop) / 2
            parts.append(
                f'<text class="label" x="{middle}" y="{self.height - 4}" text-anchor="middle">'
                f"{escape(self.x_label)}</text>"
            )
        if self.y_label:
            parts.append(
                f'<text class="label" x="{self.x.start}" y="{self.y.stop - 8}">'
                f"{escape(self.y_label)}</text>"
            )
        return "".join(parts) + "</svg>"

    def _mark(self, line: Line) -> str:
        at = [(self.x(a), self.y(b)) for a, b in line.points if math.isfinite(a + b)]
        hover = f"<title>{escape(line.title)}</title>" if line.title else ""
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        if len(at) == 1:
            ((a, b),) = at
            return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2" fill="{line.color}">{hover}</circle>'
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        return (
            f'<polyline points="{places}" fill="none" stroke="{line.color}" '
            f'stroke-width="{line.width}"{dash}>{hover}</polyline>'
        )


def thinned(values: Sequence[float]) -> list[tuple[int, float]]:
    """``(index from 1, value)`` at indices evenly spread on a log axis, the ends included."""
    n = len(values)
    if n <= MOST_POINTS:
        chosen = list(range(1, n + 1))
    else:
        step = math.log(n) / (MOST_POINTS - 1)
        chosen = sorted({round(math.exp(i * step)) for i in range(MOST_POINTS)})
    return [(i, float(values[i - 1])) for i in chosen]
