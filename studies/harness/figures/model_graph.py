"""The graph of a Pyro model as data, as DOT text and as plain text; no `dot` binary is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, final

__all__ = ["Graph", "Node", "dot_text", "family_graph", "graph_text", "model_graph"]


@final
class Node(NamedTuple):
    """One site: what it is called, its distribution, its kind, and the plates around it, outermost first.

    `kind` is latent, observed, param, deterministic or node (of a family).
    """

    name: str
    law: str = ""
    kind: str = "latent"
    plates: tuple[str, ...] = ()


@final
class Graph(NamedTuple):
    """A directed acyclic graph of sites: nodes in order of appearance, and labelled edges (parent, child)."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str, str], ...]

    @property
    def plates(self) -> dict[str, list[str]]:
        """Plate -> names of the sites inside."""
        inside: dict[str, list[str]] = {}
        for node in self.nodes:
            for plate in node.plates:
                inside.setdefault(plate, []).append(node.name)
        return inside

    def layers(self) -> list[list[str]]:
        """Names by their longest path from a root: every edge leads to a later layer."""
        depth = {node.name: 0 for node in self.nodes}
        for _ in self.nodes:
            moved = False
            for parent, child, _label in self.edges:
                if depth[child] < depth[parent] + 1:
                    depth[child], moved = depth[parent] + 1, True
            if not moved:
                break
        return [
            [node.name for node in self.nodes if depth[node.name] == level]
            for level in range(max(depth.values(), default=-1) + 1)
        ]


def model_graph(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Graph:
    """The graph of a Pyro model, found by running it once.

    Args:
        model: the generative program.
        args, kwargs: its arguments, observations included.

    Raises:
        ValueError: the model fails on these arguments; the message has the cause.

    References:
        Pyro: Deep universal probabilistic programming (Bingham et al., 2019).

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Normal
        >>> def model(y):
        ...     mean = pyro.sample("mean", Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", Normal(mean, 1.0), obs=y)
        >>> print(graph_text(model_graph(model, torch.zeros(3))))
        latent    mean ~ Normal
        observed  obs ~ Normal  given mean  [plate data]
    """
    import pyro
    from pyro.infer.inspect import get_model_relations

    flat: set[str] = set()
    try:
        with pyro.get_param_store().scope():
            found: Mapping[str, Any] = get_model_relations(_drawable(model, flat), args, kwargs)
    except Exception as error:
        raise ValueError(f"model graph: the model failed on these arguments: {error}") from error
    plates = {
        name: tuple(plate for plate, inside in found["plate_sample"].items() if name in inside)
        for name in found["sample_sample"]
    }
    nodes = []
    for name in found["sample_sample"]:
        law = "flat" if name in flat else found["sample_dist"].get(name) or ""
        if law in ("Deterministic", "Delta"):
            nodes.append(Node(name, "", "deterministic", plates[name]))
        else:
            kind = "observed" if name in found["observed"] else "latent"
            nodes.append(Node(name, law, kind, plates[name]))
    params = [parameter for parameters in found.get("sample_param", {}).values() for parameter in parameters]
    nodes = [Node(name, "", "param") for name in dict.fromkeys(params)] + nodes
    edges = [
        (parent, child, "")
        for child, parents in found["sample_sample"].items()
        for parent in parents
        if parent != child
    ]
    edges += [
        (parent, child, "") for child, parents in found.get("sample_param", {}).items() for parent in parents
    ]
    return Graph(tuple(nodes), tuple(dict.fromkeys(edges)))


def _drawable(model: Callable[..., Any], flat: set[str]) -> Callable[..., Any]:
    """The model with a fixed value at every site whose prior is improper; their names go into `flat`.

    Such a site cannot be drawn, but what depends on it does not depend on its value.
    """
    from pyro.distributions import ImproperUniform
    from pyro.poutine.messenger import Messenger
    from torch import zeros
    from torch.distributions import transform_to

    class Place(Messenger):
        def _pyro_sample(self, message: Any) -> None:
            law = message["fn"]
            while hasattr(law, "base_dist") and not isinstance(law, ImproperUniform):
                law = law.base_dist
            if isinstance(law, ImproperUniform) and message["value"] is None:
                shape = law.shape()
                message["value"] = transform_to(law.support)(zeros(shape)).expand(message["fn"].shape())
                flat.add(message["name"])

    def run(*args: Any, **kwargs: Any) -> Any:
        with Place():
            return model(*args, **kwargs)

    return run


def family_graph(family: Any) -> Graph:
    """The graph of a family: its nodes, and one edge for each edge, labelled with its operations.

    Args:
        family: has `inputs`, and `edges` with `name` "source->target" and `ops`.
    """
    nodes: dict[str, Node] = {}
    edges = []
    for edge in family.edges:
        source, target = str(edge.name).split("->", 1)
        for name in (source, target):
            nodes.setdefault(name, Node(name, "", "node"))
        domain = getattr(edge, "domain", "")
        domain = str(getattr(domain, "name", domain)).replace("_", " ")
        ops = list(edge.ops)
        listed = " | ".join(map(str, ops[:6])) + (f" | …\xa0{len(ops) - 6}\xa0more" if len(ops) > 6 else "")
        edges.append((source, target, f"{listed}\n{domain}".strip()))
    return Graph(tuple(nodes.values()), tuple(edges))


def graph_text(graph: Graph) -> str:
    """The graph as lines: kind, site, distribution, parents, plates.

    Sites in a row that are alike but for the last part of their names share a line, ``w/{a, b}``, and are
    ``w/*`` where all of them are parents.

    Example:
        >>> nodes = [Node(f"w/{name}", "Normal") for name in "ab"] + [Node("y", "Normal", "observed")]
        >>> print(graph_text(Graph(tuple(nodes), (("w/a", "y", ""), ("w/b", "y", "")))))
        latent    w/{a, b} ~ Normal
        observed  y ~ Normal  given w/*
    """
    width = max((len(node.kind) for node in graph.nodes), default=0)
    parents: dict[str, list[tuple[str, str]]] = {node.name: [] for node in graph.nodes}
    for parent, child, label in graph.edges:
        parents[child].append((parent, label))
    alike = [
        list(group)
        for _, group in groupby(
            graph.nodes,
            key=lambda node: (_stem(node.name), *node[1:], parents[node.name]),
        )
    ]
    stems = Counter(_stem(node.name) for node in graph.nodes)
    families = [
        group
        for group in alike
        if len(group) > 1 and _stem(group[0].name) and len(group) == stems[_stem(group[0].name)]
    ]
    lines = []
    for group in alike:
        for node in [group[0]] if group in families else group:
            name = _shared_name(group) if group in families else node.name
            line = f"{node.kind:<{width}}  {name}" + (f" ~ {node.law}" if node.law else "")
            given = _given(parents[node.name], families)
            line += "  given " + ", ".join(given) if given else ""
            lines.append(line + (f"  [plate {', '.join(node.plates)}]" if node.plates else ""))
    return "\n".join(lines)


def _stem(name: str) -> str:
    """The name up to its last slash, "" where it has none."""
    return name.rpartition("/")[0]


def _shared_name(group: Sequence[Node], limit: int = 12) -> str:
    last = [node.name.rpartition("/")[2] for node in group]
    more = f", … {len(last) - limit} more" if len(last) > limit else ""
    return f"{_stem(group[0].name)}/{{{', '.join(last[:limit])}{more}}}"


def _given(parents: Sequence[tuple[str, str]], families: Sequence[Sequence[Node]]) -> list[str]:
    """The parents in words; all members of a family that are plain parents are one word."""
    plain = {name for name, label in parents if not label}
    whole = {node.name: group[0] for group in families for node in group if {n.name for n in group} <= plain}
    return [
        f"{_stem(name)}/*"
        if name in whole
        else name + (f" ({label.replace(chr(10), ', ')})" if label else "")
        for name, label in parents
        if name not in whole or whole[name].name == name
    ]


DOT_STYLE = {
    "latent": "shape=ellipse",
    "observed": 'shape=ellipse, style=filled, fillcolor="gray85"',
    "param": "shape=box",
    "deterministic": "shape=ellipse, style=dashed",
    "node": "shape=ellipse",
}


def dot_text(graph: Graph) -> str:
    """The graph in the DOT language, for `model.dot`; plates are clusters, nested as in the model.

    Example:
        >>> print(dot_text(Graph((Node("a", "Normal"), Node("b", "Normal", "observed")), (("a", "b", ""),))))
        digraph model {
          "a" [label="a\\nNormal", shape=ellipse];
          "b" [label="b\\nNormal", shape=ellipse, style=filled, fillcolor="gray85"];
          "a" -> "b";
        }
    """
    lines = ["digraph model {", *_cluster(graph.nodes, (), "  ")]
    for parent, child, label in graph.edges:
        note = f" [label={_quote(label)}]" if label else ""
        lines.append(f"  {_quote(parent)} -> {_quote(child)}{note};")
    return "\n".join([*lines, "}"])


def _cluster(nodes: Sequence[Node], path: tuple[str, ...], indent: str) -> list[str]:
    """Lines of the nodes whose plates begin with `path`, inner plates as nested clusters."""
    lines = []
    for node in nodes:
        if node.plates == path:
            text = f"{node.name}\n{node.law}" if node.law else node.name
            lines.append(f"{indent}{_quote(node.name)} [label={_quote(text)}, {DOT_STYLE[node.kind]}];")
    depth = len(path)
    inner = dict.fromkeys(
        node.plates[depth] for node in nodes if len(node.plates) > depth and node.plates[:depth] == path
    )
    for plate in inner:
        deeper = (*path, plate)
        lines.append(f"{indent}subgraph {_quote('cluster_' + '/'.join(deeper))} {{")
        lines.append(f"{indent}  label={_quote(plate)};")
        lines += _cluster(nodes, deeper, indent + "  ")
        lines.append(indent + "}")
    return lines


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
