"""Figures: what they show, what they refuse, that nothing global moves, and that files repeat exactly."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

from evidentia.studies.harness.figures.base import plot_simplex, save_figure
from evidentia.studies.harness.figures.graphs import draw_graph, layout, plot_family, plot_model_graph
from evidentia.studies.harness.figures.model_graph import Graph, Node, dot_text, graph_text, model_graph
from evidentia.studies.harness.figures.structures import (
    members,
    plot_inclusion,
    plot_probabilities,
    plot_structures,
)

TABLE = pd.DataFrame(
    {
        "structure": ["{}", "{sex, bmi}", "{bmi}"],
        "probability": [0.001, 0.7, 0.299],
        "probability_se": [0.0, 0.01, np.nan],
    }
)
INCLUSION = pd.DataFrame({"op": ["sex", "bmi"], "probability": [0.7, 0.999], "standard_error": [0.01, 0.0]})


def words(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()}


@pytest.fixture(autouse=True)
def nothing_global():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def test_simplex_has_its_vertices_in_the_promised_corners():
    rng = np.random.default_rng(0)
    figure = plot_simplex(rng.dirichlet([1, 2, 3], 20), ("const", "one", "full"), title="prior")
    assert {"const", "one", "full", "prior"} <= words(figure)
    at = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert at["const"][0] < at["one"][0] < at["full"][0]
    assert at["one"][1] > 0.8 > 0.1 > at["const"][1]
    dots = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(
        plot_simplex([[0, 1, 0]]).axes[0].collections[0].get_offsets(), [[0.5, 0.75**0.5]]
    )
    assert len(dots) == 20


def test_simplex_density_stays_off_the_boundary():
    seen = []

    def log_density(gamma):
        seen.append(gamma)
        return -np.log(gamma).sum(1)  # infinite on the boundary

    figure = plot_simplex(np.full((600, 3), 1 / 3), log_density=log_density)
    assert seen[0].min() >= 1e-3 - 1e-12
    np.testing.assert_allclose(seen[0].sum(1), 1.0)
    assert isinstance(figure, Figure)


def test_simplex_draws_into_given_axes():
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plot_simplex([[1, 0, 0]], axes=axes[1]) is figure
    assert not axes[0].texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5, 0.5]],), r"shape \(1, 2\)"),
        (([[0.3, 0.3, 0.4], [0.9, 0.9, 0.9]],), "the first in row 1"),
        (([[-1.0, -2.0, -0.1]],), "not log γ"),
        (([[1, 0, 0]], ("a", "b")), "got 2 labels"),
    ],
)
def test_simplex_refuses_what_is_not_on_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_simplex(*arguments)


def test_inclusion_shows_every_prior_side_by_side():
    other = INCLUSION.iloc[::-1].assign(probability=[0.9, 0.2])
    figure = plot_inclusion({"uniform": INCLUSION, "beta-binomial": other})
    assert {"sex", "bmi", "uniform", "beta-binomial", "posterior inclusion probability"} <= words(figure)
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [list(line.get_xdata()) for line in lines if line.get_marker() in "os"] == [
        [0.7, 0.999],
        [0.2, 0.9],
    ]


def test_inclusion_refuses_what_it_cannot_line_up():
    with pytest.raises(ValueError, match="no table"):
        plot_inclusion({})
    with pytest.raises(ValueError, match=r"'p' lacks the column\(s\) op"):
        plot_inclusion({"p": INCLUSION.drop(columns="op")})
    with pytest.raises(ValueError, match="other operations"):
        plot_inclusion({"p": INCLUSION, "q": INCLUSION.assign(op=["sex", "age"])})


def test_structures_are_sorted_and_their_members_are_marked():
    figure = plot_structures(TABLE, features=["age", "sex", "bmi"])
    assert {"age", "sex", "bmi", "none", "0.7000", "0.0010"} <= words(figure)
    left, right = figure.axes
    marked = [c.get_offsets().tolist() for c in left.collections if c.get_zorder() == 3]
    assert marked == [[[1.0, 0.0], [2.0, 0.0]], [[2.0, 1.0]], []]
    assert [bar.get_width() for bar in right.patches] == [0.7, 0.299, 0.001]
    assert "0.7000" in words(plot_structures(TABLE, top=1))


def test_members_of_labels():
    assert members("{}") == ()
    assert members("{a,b}") == ("a", "b")
    assert members("x->h: tanh; h->f: id") == ("x->h: tanh", "h->f: id")


def test_probabilities_name_their_rows():
    figure = plot_probabilities(TABLE, title="which?")
    assert {"{sex, bmi}", "{bmi}", "{}", "which?", "posterior probability"} <= words(figure)
    with pytest.raises(ValueError, match="no row"):
        plot_probabilities(TABLE.iloc[:0])
    with pytest.raises(ValueError, match=r"lacks the column\(s\) probability"):
        plot_structures(TABLE.drop(columns="probability"))


def model(x, y=None):
    scale = pyro.param("scale", torch.tensor(1.0))
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    mean = pyro.deterministic("mean", (x * weight).sum(-1))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(mean, scale), obs=y)


def test_the_graph_of_a_model_without_dot(monkeypatch):
    monkeypatch.setenv("PATH", "")
    graph = model_graph(model, torch.randn(3, 2), torch.randn(3))
    kinds = {node.name: node.kind for node in graph.nodes}
    assert kinds == {"scale": "param", "weight": "latent", "mean": "deterministic", "obs": "observed"}
    assert ("weight", "obs", "") in graph.edges
    assert ("scale", "obs", "") in graph.edges
    assert "observed       obs ~ Normal  given weight, scale  [plate data]" in graph_text(graph)
    assert len(pyro.get_param_store()) == 0
    shown = words(plot_model_graph(model, torch.randn(3, 2), torch.randn(3), title="graph"))
    assert {"weight", "obs", "scale", "plate data", "Normal", "graph"} <= shown


def test_a_failing_model_is_named():
    with pytest.raises(ValueError, match="model failed on these arguments"):
        plot_model_graph(model, None)


def test_dot_text_nests_plates_and_escapes_names():
    graph = Graph(
        (Node('a"b', "Normal", "latent", ("out",)), Node("c", "", "observed", ("out", "in"))),
        (('a"b', "c", ""),),
    )
    text = dot_text(graph)
    assert '"a\\"b" [label="a\\"b\\nNormal"' in text
    assert (
        text.index('subgraph "cluster_out"') < text.index('subgraph "cluster_out/in"') < text.index('"c" [')
    )
    assert '"a\\"b" -> "c";' in text
    assert text.count("{") == text.count("}")


def test_no_node_lies_in_the_frame_of_a_plate_it_is_not_in():
    nodes = [
        Node("a"),
        Node("b", plates=("p",)),
        Node("c"),
        Node("d", plates=("p",)),
        Node("e", plates=("q",)),
    ]
    edges = tuple((f, t, "") for f, t in ("ab", "ac", "bd", "cd", "ce", "ad"))
    graph = Graph(tuple(nodes), edges)
    plan = layout(graph)
    for plate, inside in graph.plates.items():
        low = min(plan.nodes[name][0] for name in inside)
        high = max(plan.nodes[name][0] for name in inside)
        for node in nodes:
            if plate not in node.plates:
                assert not low - plan.width < plan.nodes[node.name][0] < high + plan.width
    for parent, child, _ in edges:
        assert plan.nodes[parent][1] > plan.nodes[child][1]


def test_family_shows_operations_and_domains():
    edge = SimpleNamespace(name="x->f", ops={"const": 1, "one": 2, "full": 3}, domain="simplex_vertex")
    assert {"x", "f", "const | one | full\nsimplex vertex"} <= words(
        plot_family(SimpleNamespace(edges=[edge]))
    )
    edge.domain = SimpleNamespace(name="cube")
    figure = plot_family(SimpleNamespace(edges=[edge]), title="a title that is longer than the graph is wide")
    assert "const | one | full\ncube" in words(figure)
    assert figure.get_label() == "The family of models. Choices from x to f: const | one | full, cube."
    with pytest.raises(ValueError, match="no node"):
        draw_graph(Graph((), ()))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_files_are_the_same_bytes_each_time(tmp_path, suffix):
    digests = set()
    for i in range(2):
        path = tmp_path / f"{i}{suffix}"
        with matplotlib.rc_context(
            {"font.size": 10 + 5 * i, "lines.linewidth": 3.0 * i}
        ):  # a user's own settings
            save_figure(plot_structures(TABLE), path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    data = path.read_bytes()
    assert b"most probable structures" in data  # the caption travels in the file
    assert b"matplotlib" not in data.lower() or suffix == ".svg"
    assert b"<dc:date>" not in data
    with pytest.raises(ValueError, match=r"expected \.png or \.svg"):
        save_figure(plot_structures(TABLE), tmp_path / "a.pdf")
