"""A picture of a plan as SVG: a layered layout, left to right, or downwards where the plan is deep and narrow.

Colours are plain declarations of classes, and of media queries for dark, rather than variables, which many viewers of
SVG files do not know. Arrow heads are paths, not markers: a page may hold several pictures without clashing ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dalang.layout import Layout, layered, spread
from dalang.picture import Box, Link, Picture, clip, printable
from dalang.svg_text import num, text_width, xml

HEIGHT = 46
TITLE_COLUMNS, SUBTITLE_COLUMNS, LABEL_COLUMNS = 30, 36, 30
_TITLE_SIZE, _SUBTITLE_SIZE, _LABEL_SIZE = 13 * 1.08, 11, 11  # in px; bold is wider
MARGIN = 24

ICONS = {
    "SUCCESS": "✓",
    "FAILED": "✗",
    "ERROR": "!",
    "RUNNING": "▶",
    "RETRYING": "↻",
    "PENDING": "○",
    "QUEUED": "…",
    "SKIPPED": "–",
    "CANCELLED": "×",
    "AWAITING_HITL": "?",
    "COMPENSATING": "↶",
    "COMPENSATED": "↶",
    "COMPENSATION_FAILED": "✗",
}
TONES = {
    "SUCCESS": "good",
    "FAILED": "bad",
    "COMPENSATION_FAILED": "bad",
    "ERROR": "warn",
    "RETRYING": "warn",
    "RUNNING": "busy",
    "QUEUED": "busy",
    "AWAITING_HITL": "ask",
    "COMPENSATING": "ask",
    "COMPENSATED": "ask",
    "PENDING": "idle",
    "SKIPPED": "idle",
    "CANCELLED": "idle",
}

_LIGHT = {
    "paper": "fill:#fff",
    "box": "fill:#f7f9fc;stroke:#9aa7b8",
    "title": "fill:#18212d",
    "sub": "fill:#566375",
    "link": "stroke:#7d8b9d",
    "head": "fill:#7d8b9d",
    "label": "fill:#3d4958;stroke:#fff",
    "err": "stroke:#c4402f",
    "errhead": "fill:#c4402f",
    "zone": "stroke:#9aa7b8",
    "good .dlg-box": "fill:#e3f6ea;stroke:#2e8b57",
    "bad .dlg-box": "fill:#fdeceb;stroke:#c4402f",
    "warn .dlg-box": "fill:#fdf1dd;stroke:#b7791f",
    "busy .dlg-box": "fill:#e3effd;stroke:#2f6fbf",
    "ask .dlg-box": "fill:#f1e8fd;stroke:#7a4fc0",
    "idle .dlg-box": "fill:#f7f9fc;stroke:#c3ccd8",
}
_DARK = {
    "paper": "fill:#12171f",
    "box": "fill:#1d2530;stroke:#56657a",
    "title": "fill:#eef2f7",
    "sub": "fill:#a5b2c3",
    "link": "stroke:#75859a",
    "head": "fill:#75859a",
    "label": "fill:#c9d3df;stroke:#12171f",
    "err": "stroke:#f0796a",
    "errhead": "fill:#f0796a",
    "zone": "stroke:#56657a",
    "good .dlg-box": "fill:#16301f;stroke:#4fbf7f",
    "bad .dlg-box": "fill:#3a1a18;stroke:#f0796a",
    "warn .dlg-box": "fill:#35270f;stroke:#d9a441",
    "busy .dlg-box": "fill:#14273f;stroke:#6aa5ee",
    "ask .dlg-box": "fill:#271a3d;stroke:#a98be0",
    "idle .dlg-box": "fill:#1d2530;stroke:#3d4958",
}
HUES = ("#4c78a8", "#b07a2a", "#3f8f7f", "#b04a5a", "#7a5ca8", "#5f8a3c", "#a8568f", "#5b7083")


def _rules(colours: dict[str, str], before: str = "") -> str:
    return "".join(f"{before}.dlg-{name}{{{style}}}" for name, style in colours.items())


STYLE = (
    ".dlg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
    ".dlg-box,.dlg-back{stroke-width:1.2}.dlg-title{font-size:13px;font-weight:600}.dlg-sub{font-size:11px}"
    ".dlg-link{fill:none;stroke-width:1.4}.dlg-label{font-size:11px;paint-order:stroke;stroke-width:4px;"
    "stroke-linejoin:round;text-anchor:middle}.dlg-dash{stroke-dasharray:5 4}"
    ".dlg-zone{fill:none;stroke-dasharray:6 5}"
    + _rules(_LIGHT)
    + f"@media (prefers-color-scheme:dark){{{_rules(_DARK, ':root:not([data-theme=light]) ')}}}"
    + _rules(_DARK, "[data-theme=dark] ")
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A box on the paper: its left upper corner and its width."""

    x: float
    y: float
    width: float


def draw(picture: Picture) -> str:
    """Return the SVG document."""
    return Drawing(picture).document()


class Drawing:
    """One picture laid out: boxes as frames, links as paths. Who draws otherwise overrides the methods that draw."""

    height = HEIGHT
    slot = 16.0
    """The gap between boxes of a layer, where layers are columns."""
    broad = 1_600
    """What is broader than this is drawn downwards, where that is narrower."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        ranks = {level: rank for rank, level in enumerate(sorted({box.level for box in picture.boxes}))}
        self.layers = [ranks[box.level] for box in picture.boxes]
        self.texts = [self._texts_of(box) for box in picture.boxes]
        self.labels = [clip(printable(link.label), LABEL_COLUMNS) for link in picture.links]
        self.depth = len(ranks)
        self.widths = self._widths()
        self.down = self._is_deep()
        self.starts, self.ends, self.main = self._main_axis()
        self.layout = self._layout()
        self.frames = self._frames()

    def _texts_of(self, box: Box) -> tuple[str, str]:
        return _texts(box)

    def _widths(self) -> list[float]:
        """Return the width of each box: what its texts take, and one for all boxes of a layer."""
        width = [120.0] * self.depth
        for layer, (title, subtitle) in zip(self.layers, self.texts, strict=True):
            needed = max(text_width(title) * _TITLE_SIZE, text_width(subtitle) * _SUBTITLE_SIZE) + 28
            width[layer] = max(width[layer], needed)
        return [width[layer] for layer in self.layers]

    def _is_deep(self) -> bool:
        rows = [0.0] * self.depth
        for layer, width in zip(self.layers, self.widths, strict=True):
            rows[layer] += width + 24
        columns: dict[int, float] = {}
        for layer, width in zip(self.layers, self.widths, strict=True):
            columns[layer] = max(columns.get(layer, 0), width + 70)
        across = sum(columns.values())
        return across > self.broad and max(rows, default=0) < across

    def _main_axis(self) -> tuple[list[float], list[float], float]:
        """Return where each layer starts and ends along the main axis, and the size of the whole along it."""
        gaps = [52.0] * self.depth
        for link, label in zip(self.picture.links, self.labels, strict=True):
            if label:
                room = 70 if self.down else text_width(label) * _LABEL_SIZE + 56
                layer = self.layers[link.source]
                gaps[layer] = max(gaps[layer], room)
        sizes = [float(self.height)] * self.depth
        if not self.down:
            for layer, width in zip(self.layers, self.widths, strict=True):
                sizes[layer] = width
        starts, ends, at = [], [], 0.0
        for size, gap in zip(sizes, gaps, strict=True):
            starts.append(at)
            ends.append(at + size)
            at += size + gap
        return starts, ends, ends[-1] if ends else 0.0

    def _layout(self) -> Layout:
        edges = list(dict.fromkeys((link.source, link.target) for link in self.picture.links))
        self.edge_index = {edge: at for at, edge in enumerate(edges)}
        sizes = self.widths if self.down else [float(self.height)] * len(self.widths)
        return layered(self.layers, sizes, edges, gap=24 if self.down else self.slot, lane=14)

    def _frames(self) -> list[Frame]:
        frames = []
        for at, layer in enumerate(self.layers):
            cross, main = self.layout.cross[at], self.starts[layer]
            if self.down:
                frames.append(Frame(MARGIN + cross - self.widths[at] / 2, MARGIN + main, self.widths[at]))
            else:
                frames.append(Frame(MARGIN + main, MARGIN + cross - self.height / 2, self.widths[at]))
        return frames

    def document(self) -> str:
        """Return it as an SVG document of its own."""
        extent = max(self.layout.extent, 20.0)
        width, height = (extent, self.main) if self.down else (self.main, extent)
        width, height = max(width, 120) + 2 * MARGIN, max(height, self.height) + 2 * MARGIN
        zone, deeper = self._zone()
        height += deeper
        title = xml(self.picture.title)
        nodes = sum(len(box.nodes) for box in self.picture.boxes)
        summary = f"{nodes} nodes in {self.depth} levels"
        summary += f", drawn as {len(self.picture.boxes)} boxes" if self.picture.collapsed else ""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dlg" role="img" '
            f'width="{num(width)}" height="{num(height)}" '
            f'viewBox="0 0 {num(width)} {num(height)}" aria-label="{title}: {summary}">'
        )
        paper = f'<rect class="dlg-paper" width="{num(width)}" height="{num(height)}"/>'
        parts = [head, f"<title>{title}</title><desc>{summary}</desc><style>{STYLE}</style>", paper, zone]
        parts.extend(self._links())
        parts.extend(self._box(at) for at in range(len(self.frames)))
        return "\n".join([*filter(None, parts), "</svg>"]) + "\n"

    def _zone(self) -> tuple[str, float]:
        """Return the frame around the ``finally`` nodes, and by how much it makes the picture higher."""
        inside = [frame for frame, box in zip(self.frames, self.picture.boxes, strict=True) if box.final]
        if not inside:
            return "", 0.0
        x, y = min(frame.x for frame in inside) - 12, min(frame.y for frame in inside) - 12
        right, low = (
            max(frame.x + frame.width for frame in inside) + 12,
            max(frame.y for frame in inside) + self.height + 24,
        )
        size = f'width="{num(right - x)}" height="{num(low - y)}"'
        rect = f'<rect class="dlg-zone" x="{num(x)}" y="{num(y)}" {size} rx="10"/>'
        return f'{rect}<text class="dlg-sub" x="{num(x + 12)}" y="{num(low - 8)}">finally</text>', 12.0

    def _links(self) -> list[str]:
        """Return the paths, then the labels, which no path may cover."""
        siblings: dict[tuple[int, int], int] = {}
        for link in self.picture.links:
            siblings[link.source, link.target] = siblings.get((link.source, link.target), 0) + 1
        drawn: dict[tuple[int, int], int] = {}
        paths: list[str] = []
        wishes: dict[int, list[tuple[float, Link, str]]] = {}
        for link, label in zip(self.picture.links, self.labels, strict=True):
            pair = link.source, link.target
            nth = drawn[pair] = drawn.get(pair, 0) + 1
            offset = (nth - (siblings[pair] + 1) / 2) * min(14, (self.height - 10) / siblings[pair])
            points = self._points(link, offset)
            paths.append(self._path(link, points))
            if label:
                middle = (points[0][1] + points[1][1]) / 2
                wishes.setdefault(self.layers[link.source], []).append((middle, link, label))
        return [*paths, *(text for layer, found in wishes.items() for text in self._label_texts(layer, found))]

    def _points(self, link: Link, offset: float) -> list[tuple[float, float]]:
        """Return (main, cross) of the start, of both sides of every layer that is passed, and of the end."""
        route = self.layout.routes[self.edge_index[link.source, link.target]]
        points = [(self.ends[self.layers[link.source]], self.layout.cross[link.source] + offset)]
        for layer, cross in route:
            points += [(self.starts[layer], cross + offset), (self.ends[layer], cross + offset)]
        points.append((self.starts[self.layers[link.target]], self.layout.cross[link.target] + offset))
        return points

    def _path(self, link: Link, points: list[tuple[float, float]]) -> str:
        end = points[-1]
        classes = (
            "dlg-link" + (" dlg-err" if link.error else "") + (" dlg-dash" if link.error or link.conditional else "")
        )
        return (
            f'<g><title>{xml(link.tooltip)}</title><path class="{classes}" d="{self._curve(points)}"/>'
            f'<path class="dlg-{"errhead" if link.error else "head"}" d="{self._head(end)}"/></g>'
        )

    def _curve(self, points: list[tuple[float, float]]) -> str:
        """Return the path through ``points``, which ends where the head of the arrow begins."""
        end = points[-1]
        points = [*points[:-1], (end[0] - 7, end[1])]
        commands = [f"M{self._at(*points[0])}"]
        for index, (before, after) in enumerate(pairwise(points)):
            if index % 2:
                commands.append(f"L{self._at(*after)}")
            else:
                middle = (before[0] + after[0]) / 2
                commands.append(f"C{self._at(middle, before[1])} {self._at(middle, after[1])} {self._at(*after)}")
        return "".join(commands)

    def _head(self, tip: tuple[float, float], length: float = 8) -> str:
        """Return an arrow head whose tip is there; a negative ``length`` lets it point backwards."""
        main, cross = tip
        corners = self._at(main, cross), self._at(main - length, cross - 4), self._at(main - length, cross + 4)
        return "M{}L{}L{}Z".format(*corners)

    def _at(self, main: float, cross: float) -> str:
        x, y = (cross, main) if self.down else (main, cross)
        return f"{num(x + MARGIN)},{num(y + MARGIN)}"

    def _label_texts(self, layer: int, found: list[tuple[float, Link, str]]) -> list[str]:
        found = sorted(found, key=lambda item: item[0])
        sizes = [text_width(label) * _LABEL_SIZE + 10 if self.down else 16.0 for _, _, label in found]
        offsets = [0.0]
        for before, after in pairwise(sizes):
            offsets.append(offsets[-1] + (before + after) / 2)
        places = spread([wish for wish, _, _ in found], offsets, [1.0] * len(found))
        following = self.starts[layer + 1] if layer + 1 < self.depth else self.ends[layer] + 52
        main = (self.ends[layer] + following) / 2 + (4 if self.down else 0)
        texts = []
        for place, (_, link, label) in zip(places, found, strict=True):
            x, y = (place, main) if self.down else (main, place + 4)
            texts.append(
                f'<text class="dlg-label" x="{num(x + MARGIN)}" y="{num(y + MARGIN)}">'
                f"<title>{xml(link.tooltip)}</title>{xml(label)}</text>"
            )
        return texts

    def _box(self, at: int) -> str:
        box, frame, (title, subtitle) = self.picture.boxes[at], self.frames[at], self.texts[at]
        tone = TONES.get(box.statuses[0][0], "idle") if len(box.statuses) == 1 else ""
        hue = HUES[sum(box.type.encode("utf-8", "replace")) % len(HUES)]
        data = f' data-node-id="{xml(box.nodes[0].node_id)}"' if len(box.nodes) == 1 else ""
        place = f'x="{num(frame.x)}" y="{num(frame.y)}" width="{num(frame.width)}" height="{self.height}"'
        behind = ""
        if len(box.nodes) > 1:
            shifted = f'x="{num(frame.x + 4)}" y="{num(frame.y + 4)}" width="{num(frame.width)}" height="{self.height}"'
            behind = f'<rect class="dlg-box dlg-back" {shifted} rx="7"/>'
        return (
            f'<g class="dlg-node{f" dlg-{tone}" if tone else ""}"{data}><title>{xml(box.tooltip)}</title>{behind}'
            f'<rect class="dlg-box" {place} rx="7"/>'
            f'<rect x="{num(frame.x)}" y="{num(frame.y + 7)}" width="4" height="{self.height - 14}" '
            f'rx="2" fill="{hue}"/>'
            f'<text class="dlg-title" x="{num(frame.x + 14)}" y="{num(frame.y + 20)}">{xml(title)}</text>'
            f'<text class="dlg-sub" x="{num(frame.x + 14)}" y="{num(frame.y + 36)}">{xml(subtitle)}</text></g>'
        )


def _texts(box: Box) -> tuple[str, str]:
    """Return a box's two lines; what its nodes' statuses are comes first in the second."""
    one = len(box.nodes) == 1
    states = [f"{ICONS.get(status, '')} {status if one else f'{count} {status}'}" for status, count in box.statuses]
    subtitle = " · ".join([*states, printable(box.subtitle)])
    return clip(printable(box.title), TITLE_COLUMNS), clip(printable(subtitle), SUBTITLE_COLUMNS)
