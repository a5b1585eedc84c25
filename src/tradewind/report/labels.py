"""Labels of points in a plot, moved to where they cover least: each is placed once, in the order given."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

Place = tuple[float, float]
"""From the point, in points; a negative x: to the left of it."""
_WAYS = tuple((x, y) for near, far in ((1, 1), (1, 0.3), (0.3, 1)) for y in (-far, far) for x in (near, -near))
PLACES: tuple[Place, ...] = tuple((far * x, far * y) for far in (18, 26, 36, 48, 62, 78) for x, y in _WAYS)
"""Where a label may stand, nearest first."""
MARK = 5
"""Half of a marker's width, in points."""
STEPS = 24
"""So many places further down the list are as bad as a leader that crosses something."""


def point_label(axes: Axes, text: str, point: tuple[float, float], size: float) -> Annotation:
    """With a leader to its point, yet to be placed."""
    leader: dict[str, Any] = {"arrowstyle": "-", "color": "#555555", "lw": 0.6, "shrinkA": 0, "shrinkB": MARK}
    return axes.annotate(
        text, point, xytext=PLACES[0], fontsize=size, textcoords="offset points", arrowprops=leader, va="center"
    )


def marks(axes: Axes, points: Iterable[tuple[float, float, float, float]]) -> list[Bbox]:
    """Where markers and their bars are, in pixels. points: x, y, and the ends of the bar."""
    half = MARK * axes.figure.dpi / 72
    boxes = []
    for x, *heights in points:
        (left, y), low, high = (axes.transData.transform((x, at)) for at in heights)
        boxes += [Bbox([(left - half, y - half), (left + half, y + half)]), Bbox([(left, low[1]), (left + 1, high[1])])]
    return boxes


def place_labels(labels: Sequence[Annotation], line: Line2D, taken: Sequence[Bbox]) -> None:
    """Move each label to that of `PLACES` where it covers least of the line, of `taken` (boxes in pixels) and of the labels
    and leaders before it, inside the frame; the earlier place where several are as good."""
    boxes, paths = list(taken), [line.get_transform().transform_path(line.get_path())]
    half = line.get_linewidth() / 2 * cast(Axes, line.axes).figure.dpi / 72
    for label in labels:
        costs = [_cost(label, place, boxes, paths, half) + number / STEPS for number, place in enumerate(PLACES)]
        box = _at(label, best := PLACES[costs.index(min(costs))])
        boxes.append(box)
        if label.arrow_patch:
            paths.append(_leader(label, best, box))


def _cost(label: Annotation, place: Place, boxes: Sequence[Bbox], paths: Sequence[Path], half: float) -> int:
    """3 for each thing that the text covers, 1 for each that its leader crosses, if it has one."""
    axes, box = cast(Axes, label.axes), _at(label, place)
    covered = sum(box.overlaps(other) for other in boxes)
    covered += sum(path.intersects_bbox(box.padded(half), filled=False) for path in paths)
    outside = not all(axes.bbox.contains(*corner) for corner in box.corners())
    crossed = 0
    if label.arrow_patch:
        leader, point = _leader(label, place, box), axes.transData.transform(label.xy)
        crossed = sum(leader.intersects_bbox(other) for other in boxes if not other.contains(*point))
        crossed += sum(leader.intersects_path(other, filled=False) for other in paths[1:])
    return int(3 * (covered + 3 * outside) + crossed)


def _at(label: Annotation, place: Place) -> Bbox:
    """Put the label there; the box of its text, without its leader."""
    label.set(position=place, ha="left" if place[0] > 0 else "right")
    return Text.get_window_extent(label)


def _leader(label: Annotation, place: Place, box: Bbox) -> Path:
    x, y = cast(Axes, label.axes).transData.transform(label.xy)
    return Path([(x, y), (box.x0 if place[0] > 0 else box.x1, (box.y0 + box.y1) / 2)])
