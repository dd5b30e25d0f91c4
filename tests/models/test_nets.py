"""Networks: shapes, layers, and errors that name the argument."""

import pytest
import torch
from torch import nn

from evidentia.models.nets import ACTIVATIONS, mlp


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_shapes_and_layers(activation):
    net = mlp(3, [5, 4], 2, activation=activation, dropout=0.5)
    assert net(torch.zeros(7, 6, 3)).shape == (7, 6, 2)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(3, 5), (5, 4), (4, 2)]
    assert sum(isinstance(layer, nn.Dropout) for layer in net) == 2
    assert isinstance(net[-1], nn.Linear)


def test_without_hidden_layers_it_is_affine():
    net = mlp(3, [], 2)
    assert len(net) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"hidden": [0]}, "widths of at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mlp(3, **({"hidden": [2]} | arguments), outputs=1)
