"""Drawings of model graphs and of families, in layers from causes to observations; `dot` is not needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, final

from evidentia.studies.harness.figures.base import COLOURS, FAINT, INK, MUTED, PAPER, new_figure, style
from evidentia.studies.harness.figures.model_graph import Graph, Node, family_graph, model_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_graph", "layout", "plot_family", "plot_model_graph"]

HEIGHT, GAP, LAYER = 0.6, 0.5, 1.15
FRAME, NEST = 0.2, 0.22
INCHES = 0.72
"""Inches per unit of the layout."""


def plot_model_graph(model: Callable[..., Any], *args: Any, title: str = "", **kwargs: Any) -> Figure:
    """The graph of a Pyro model: observed sites are shaded, parameters square, plates framed.

    Raises:
        ValueError: the model fails on these arguments.
    """
    return draw_graph(model_graph(model, *args, **kwargs), title=title)


def plot_family(family: Any, *, title: str = "") -> Figure:
    """The graph of a family of models; each edge shows its alternative operations and its domain."""
    graph = family_graph(family)
    told = [f"from {a} to {b}: {label.replace(chr(10), ', ')}" for a, b, label in graph.edges]
    return draw_graph(graph, title=title, caption=f"The family of models. Choices {'; '.join(told)}.")


@final
class Layout(NamedTuple):
    """Where everything goes: centres of the nodes, and the corners that each edge runs through."""

    width: float
    nodes: dict[str, tuple[float, float]]
    routes: dict[tuple[str, str], list[tuple[float, float]]]


def layout(graph: Graph) -> Layout:
    """Layers from the top; sites of one plate share lanes, so a frame never crosses a site outside it.

    An edge over several layers keeps a free place in each, so it crosses no node.
    """
    width = min(2.1, max(1.1, 0.35 + 0.095 * max(len(_shown(node.name)) for node in graph.nodes)))
    layers = [list(layer) for layer in graph.layers()]
    depth = {name: level for level, layer in enumerate(layers) for name in layer}
    lane = {node.name: node.plates for node in graph.nodes}
    near: dict[str, list[str]] = {name: [] for name in depth}
    chains: dict[tuple[str, str], list[str]] = {}
    for parent, child, _ in graph.edges:
        stops = [f"{parent}\0{child}\0{level}" for level in range(depth[parent] + 1, depth[child])]
        for level, stop in enumerate(stops, depth[parent] + 1):
            layers[level].append(stop)
            lane[stop], near[stop] = (), []
        chain = [parent, *stops, child]
        chains[parent, child] = stops
        for a, b in pairwise(chain):
            near[a].append(b)
            near[b].append(a)
    order = {name: float(i) for layer in layers for i, name in enumerate(layer)}
    # A few sweeps of the barycentre rule take out most crossings; lanes stay apart.
    for sweep in range(6):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wish = {n: sum(order[m] for m in near[n]) / len(near[n]) if near[n] else order[n] for n in layer}
            layer.sort(key=lambda n: (lane[n], wish[n]))
            for i, name in enumerate(layer):
                order[name] = i - (len(layer) - 1) / 2
    labelled = any(label for *_, label in graph.edges)
    step_x, step_y = width + GAP + (0.7 if labelled else 0.0), LAYER * (1.6 if labelled else 1.0)
    places: dict[str, tuple[float, float]] = {}
    left = 0.0
    for path in sorted(set(lane.values())):
        most = max(sum(lane[n] == path for n in layer) for layer in layers)
        for level, layer in enumerate(layers):
            here = [n for n in layer if lane[n] == path]
            for i, name in enumerate(here):
                x = left + step_x * (i + (most - len(here)) / 2)
                places[name] = (x, -step_y * level - NEST * len(path))
        left += step_x * most + 2 * NEST * len(path)
    nodes = {node.name: places[node.name] for node in graph.nodes}
    routes = {
        (parent, child): []
        if _clear(nodes, parent, child, width)
        else [places[stop] for stop in chains[parent, child]]
        for parent, child in chains
    }
    return Layout(width, nodes, routes)


def _clear(nodes: dict[str, tuple[float, float]], parent: str, child: str, width: float) -> bool:
    """Whether a straight line from parent to child meets no other node."""
    (x0, y0), (x1, y1) = nodes[parent], nodes[child]
    for name, (x, y) in nodes.items():
        if name in (parent, child) or not min(y0, y1) < y < max(y0, y1):
            continue
        at = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
        # A flat line passes more of the node's height on its way.
        slack = width / 2 + 0.1 + abs((x1 - x0) / (y1 - y0)) * HEIGHT / 2
        if abs(at - x) < slack:
            return False
    return True


def draw_graph(graph: Graph, *, title: str = "", caption: str = "") -> Figure:
    """Draw a graph; layers run downwards. The caption lists the nodes if none is given.

    Raises:
        ValueError: the graph has no node.
    """
    if not graph.nodes:
        raise ValueError("draw_graph: the graph has no node")
    plan = layout(graph)
    corners = [*plan.nodes.values(), *(corner for route in plan.routes.values() for corner in route)]
    pad = FRAME + NEST * max(len(node.plates) for node in graph.nodes) + 0.12
    side = plan.width / 2 + pad + (0.5 if any(label for *_, label in graph.edges) else 0.0)
    left, right = min(x for x, _ in corners) - side, max(x for x, _ in corners) + side
    bottom = min(y for _, y in corners) - HEIGHT / 2 - pad
    top = max(y for _, y in corners) + HEIGHT / 2 + pad
    shrink = min(1.0, 10.0 / (INCHES * (right - left)))
    if not caption:
        caption = f"Graph of {', '.join(f'{node.name} ({node.kind})' for node in graph.nodes[:30])}."
    with style():
        figure = new_figure(
            # Wide enough for the title, in bold of ten points.
            max(shrink * INCHES * (right - left), 0.09 * len(title) + 0.2 if title else 0.0),
            shrink * INCHES * (top - bottom) + (0.3 if title else 0.0),
            caption,
        )
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        _plates(axes, graph, plan)
        for parent, child, label in graph.edges:
            route = [plan.nodes[parent], *plan.routes[parent, child], plan.nodes[child]]
            fans_out = sum(a == parent for a, *_ in graph.edges) > 1
            fans_in = sum(b == child for _, b, _ in graph.edges) > 1
            # The label sits where its neighbours are furthest away.
            _arrow(axes, route, label, 0.62 if fans_out else (0.38 if fans_in else 0.5), shrink)
        for node in graph.nodes:
            _node(axes, node, plan, shrink)
        if title:
            figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
    return figure


def _shown(name: str, limit: int = 20) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _node(axes: Axes, node: Node, plan: Layout, shrink: float) -> None:
    from matplotlib.patches import Ellipse, Patch, Rectangle

    (x, y), width = plan.nodes[node.name], plan.width
    shape: Patch = Ellipse((x, y), width, HEIGHT)
    if node.kind == "param":
        shape = Rectangle((x - width / 2, y - HEIGHT / 2), width, HEIGHT)
    shape.set(facecolor=FAINT if node.kind == "observed" else PAPER, edgecolor=INK, linewidth=1.0, zorder=3)
    if node.kind == "deterministic":
        shape.set_linestyle((0, (3, 2)))
    axes.add_patch(shape)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 4}
    axes.text(x, y + (0.09 if node.law else 0.0), _shown(node.name), fontsize=8 * shrink, **middle)
    if node.law:
        axes.text(x, y - 0.14, node.law, fontsize=6.5 * shrink, color=MUTED, **middle)


def _arrow(axes: Axes, route: Sequence[tuple[float, float]], label: str, along: float, shrink: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    (x0, y0), (x1, y1) = route[0], route[-1]
    points = [(x0, y0 - HEIGHT / 2), *route[1:-1], (x1, y1 + HEIGHT / 2)]
    codes = [int(Curve.MOVETO)] + [int(Curve.LINETO)] * (len(points) - 1)
    arrow = FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=9, color=MUTED, linewidth=0.9, zorder=2
    )
    axes.add_patch(arrow)
    if label:
        lines = "\n".join(line for part in label.split("\n") for line in wrap(part, 18))
        x, y = x0 + along * (x1 - x0), y0 + along * (y1 - y0)
        if len(points) > 2:
            x, y = points[len(points) // 2]
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
        middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 5, "bbox": paper}
        axes.text(x, y, lines, fontsize=7 * shrink, color=COLOURS[0], **middle)


def _plates(axes: Axes, graph: Graph, plan: Layout) -> None:
    from matplotlib.patches import FancyBboxPatch

    for plate, inside in graph.plates.items():
        paths = [node.plates for node in graph.nodes if plate in node.plates]
        deeper = max(len(path) for path in paths) - 1 - paths[0].index(plate)
        pad = FRAME / 2 + NEST * deeper
        xs = [plan.nodes[name][0] for name in inside]
        ys = [plan.nodes[name][1] for name in inside]
        x, y = min(xs) - plan.width / 2 - pad, min(ys) - HEIGHT / 2 - pad - 0.14
        width, height = max(xs) - min(xs) + plan.width + 2 * pad, max(ys) - min(ys) + HEIGHT + 2 * pad + 0.14
        frame = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.1")
        frame.set(facecolor="none", edgecolor=MUTED, linewidth=0.8, zorder=1)
        axes.add_patch(frame)
        place = (x + width - 0.06, y + 0.03)
        axes.text(*place, f"plate {plate}", ha="right", va="bottom", fontsize=6.5, color=MUTED)
