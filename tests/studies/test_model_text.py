"""The graph of a model as text: improper sites are drawn, and many sites that are alike take one line."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import constraints

from evidentia.studies.harness.cli import main
from evidentia.studies.harness.figures.model_graph import Graph, Node, dot_text, graph_text, model_graph


def flat_model(x, y=None):
    scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("groups", 2):
        mean = pyro.sample("mean", dist.ImproperUniform(constraints.real, (), (3,)).expand([2]))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(mean.sum() + x, scale), obs=y)


def test_a_site_with_an_improper_prior_is_in_the_graph_with_its_plate_and_its_children():
    graph = model_graph(flat_model, torch.zeros(4), torch.zeros(4))
    assert graph_text(graph).splitlines() == [
        "latent    scale ~ flat",
        "latent    mean ~ flat  [plate groups]",
        "observed  obs ~ Normal  given scale, mean  [plate data]",
    ]
    assert '"mean\\nflat"' in dot_text(graph)


def test_the_model_itself_still_refuses_to_draw_a_flat_site():
    from evidentia.models.regression import GPrior, SubsetRegression

    x = torch.eye(4, dtype=torch.float64)[:, :2]
    model = SubsetRegression(["a", "b"], GPrior())
    assert "log_variance ~ flat" in graph_text(model_graph(model, x, x[:, 0]))
    with pytest.raises(ValueError, match="cannot be drawn"):
        model(x, x[:, 0])


def test_a_stem_is_shortened_only_where_all_of_its_sites_are_alike():
    nodes = (Node("w/a", "Normal"), Node("w/b", "Normal"), Node("w/c", "Gamma"), Node("y", "Normal"))
    edges = tuple((name, "y", "") for name in ("w/a", "w/b", "w/c"))
    text = graph_text(Graph(nodes, edges))
    assert "*" not in text
    assert "latent  w/a ~ Normal" in text
    same = (*nodes[:2], Node("w/c", "Normal"), nodes[3])
    assert graph_text(Graph(same, edges)).splitlines()[0] == "latent  w/{a, b, c} ~ Normal"
    assert graph_text(Graph(same, edges[:2])).splitlines()[1].endswith("given w/a, w/b")  # not all of them


def test_show_diabetes_prints_the_graph_of_the_model(capsys):
    assert main(["show", "diabetes"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "latent         intercept ~ flat" in out
    assert "observed       obs ~ Normal  given gamma/x->f/*" in out
    assert "[plate data]" in out
