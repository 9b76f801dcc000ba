"""The picture of `bench containment`, as plain SVG: one line for each way, told apart by dashes as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 40, 700, 340
#: Colours that are told apart by who sees few (Okabe and Ito, 2008).
_STYLES: Mapping[str, tuple[str, str]] = {
    "none": ("#555555", ""),
    "vertical": ("#0072b2", "8 3"),
    "horizontal": ("#d55e00", "3 3"),
    "both": ("#009e73", ""),
}


def svg(curve: Mapping[str, Sequence[float]], *, title: str) -> str:
    """`curve`: the share at each second, by way; all of the same length."""
    seconds = max(len(shares) for shares in curve.values()) - 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        *_axes(seconds),
    ]
    for number, (name, shares) in enumerate(curve.items()):
        parts += _line(name, shares, seconds, number)
    return "\n".join([*parts, "</svg>\n"])


def _x(second: float, seconds: int) -> float:
    return _LEFT + (_RIGHT - _LEFT) * second / max(1, seconds)


def _y(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _axes(seconds: int) -> list[str]:
    found = []
    for percent in range(0, 101, 25):
        y = _y(percent / 100)
        found.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#dddddd"/>')
        found.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    for second in range(0, seconds + 1, max(1, seconds // 6)):
        x = _x(second, seconds)
        found.append(f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{second} s</text>')
    return found


def _line(name: str, shares: Sequence[float], seconds: int, number: int) -> list[str]:
    colour, dashes = _STYLES[name]
    points = " ".join(f"{_x(at, seconds):.1f},{_y(share):.1f}" for at, share in enumerate(shares))
    style = f'fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"'
    x, y = _LEFT + 160 * number, _HEIGHT - 20
    return [
        f'<polyline points="{points}" {style}/>',
        f'<path d="M{x} {y - 4}h28" {style}/>',
        f'<text x="{x + 34}" y="{y}">{name}: {shares[-1]:.0%}</text>',
    ]
