"""The space of codes as a picture: a dot a tool, tools of one first number in one colour."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from factory.codes.arrays import Code, Floats, as_NVD

WIDTH, HEIGHT, MARGIN = 900, 640, 40
MAX_DOTS = 5000
"""Tools drawn, evenly spread over the list; more would be a blot."""


def draw_space(embeddings: Floats, codes: Sequence[Code], labels: Sequence[str], title: str) -> str:
    """An SVG of tools in the two directions in which their documents differ most.

    Args:
        embeddings: (N, D) or (N, V, D) of the documents.
        codes: of the tools; the first number decides the colour.
        labels: shown where the pointer rests on a dot.
        title: the heading.
    """
    flat_ND = as_NVD(embeddings).reshape(len(codes), -1).astype(np.float64)
    place_N2 = _place(flat_ND)
    first = sorted({code[0] for code in codes})
    hue = {number: round(360 * rank / len(first)) for rank, number in enumerate(first)}
    shown = np.unique(np.linspace(0, len(codes) - 1, min(MAX_DOTS, len(codes))).astype(int))
    dots = [
        f'<circle cx="{place_N2[row, 0]:.1f}" cy="{place_N2[row, 1]:.1f}" r="3.5" '
        f'fill="hsl({hue[codes[row][0]]} 65% 45%)"><title>{_text(labels[row])}</title></circle>'
        for row in shown
    ]
    note = (
        f"{len(shown)} of {len(codes)} tools" if len(shown) < len(codes) else f"{len(codes)} tools"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" fill-opacity="0.7">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white" fill-opacity="1"/>',
            f'<text x="{MARGIN}" y="24" font-size="15" fill="#222">{_text(title)}</text>',
            f'<text x="{MARGIN}" y="{HEIGHT - 12}" font-size="12" fill="#666">{note}, by the two '
            f"main directions of their documents; {len(first)} colours, one a first number</text>",
            *dots,
            "</svg>\n",
        ]
    )


def _place(flat_ND: Floats) -> Floats:
    """(N, 2) places within the margins."""
    centred_ND = flat_ND - flat_ND.mean(axis=0)
    directions = np.linalg.svd(centred_ND, full_matrices=False)[2][:2]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    found_N2 = np.zeros((len(flat_ND), 2))
    found_N2[:, : len(directions)] = centred_ND @ (directions * signs[:, None]).T
    low, high = found_N2.min(axis=0), found_N2.max(axis=0)
    room = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    placed: Floats = MARGIN + (found_N2 - low) / np.maximum(high - low, 1e-12) * room
    return placed


def _text(value: str) -> str:
    return escape("".join(c if c.isprintable() else "?" for c in value))
