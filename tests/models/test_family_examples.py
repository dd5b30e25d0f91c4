"""The examples of the documentation, as a user would write them."""

import pyro
import torch
from torch import Size, nn

from evidentia.models.likelihood import Categorical as Classes
from evidentia.models.likelihood import Gaussian, Hyper
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense, Linear, Op, op
from evidentia.models.structure.priors import GumbelSoftmax
from evidentia.models.structure.weights import ARD


def test_worked_example_in_ten_lines() -> None:
    family = Family(inputs=12)
    family.edge("x", "f", domain="simplex", prior=GumbelSoftmax(temperature=0.2), ops={
        "const": Constant(),
        "one": GLM(columns=[0, 11], activation="tanh"),
        "full": GLM(activation="tanh"),
    })  # fmt: skip
    model = family.model(likelihood=Gaussian(scale=Hyper(0.5)), weight_prior=ARD(shape=0, rate=0))
    y = model(torch.randn(50, 12))

    assert y.shape == (50,)
    assert family.num_structures == 3
    assert [family.label(g) for g in family.vertices()] == ["const", "one", "full"]
    assert family.num_parameters(family.vertices()).tolist() == [1, 2, 12]
    assert sum(s.numel() for s in family.weight_shapes.values()) == 15
    assert list(model.hyper) == ["noise"]


def test_network_with_two_identical_operations() -> None:
    family = Family(inputs=4)
    family.edge("x", "h", ops={"left": Dense(5, "sigmoid"), "right": Dense(5, "sigmoid")})
    family.edge("h", "f", ops={"linear": Linear(3)})
    model = family.model(likelihood=Classes())

    x = torch.randn(20, 4)
    y = model(x)
    assert set(y.tolist()) <= {0, 1, 2}
    # the exact exchange symmetry: swapping gates and weights changes nothing
    w = {k: torch.randn(s) for k, s in family.weight_shapes.items()}
    swapped = dict(w)
    for name in ("weight", "bias"):
        swapped[f"x->h/left/{name}"] = w[f"x->h/right/{name}"]
        swapped[f"x->h/right/{name}"] = w[f"x->h/left/{name}"]
    a = family.apply(x, torch.tensor([0.3, 0.7, 1.0]), w)
    b = family.apply(x, torch.tensor([0.7, 0.3, 1.0]), swapped)
    torch.testing.assert_close(a, b)
    assert family.structure(0).label == "x->h: left; h->f: linear"


def test_choice_of_width() -> None:
    family = Family(inputs=3)
    family.edge("x", "h", ops={f"width {k}": Dense(8, "tanh", active=k) for k in (2, 4, 8)})
    family.edge("h", "f", ops={"out": Linear(1)})

    assert family.num_parameters(family.vertices()).tolist() == [8 + 9, 16 + 9, 32 + 9]
    x = torch.randn(6, 3)
    weights = {k: torch.randn(s) for k, s in family.weight_shapes.items()}
    hidden = Dense(8, "tanh", active=2)(
        x, weight=weights["x->h/width 2/weight"], bias=weights["x->h/width 2/bias"]
    )
    assert (hidden[:, 2:] == 0).all()
    assert family.apply(x, family.structure(0).gates, weights).shape == (6, 1)


def test_a_function_of_the_user() -> None:
    def wave(x, amplitude, frequency):
        return amplitude * torch.sin(x @ frequency)

    family = Family(inputs=2)
    family.edge("x", "f", ops={"line": GLM(), "wave": op(wave, amplitude=(), frequency=("inputs", 1))})

    x = torch.randn(5, 2)
    model = family.model(likelihood=Gaussian(0.1))
    assert model(x).shape == (5,)
    assert family.weight_shapes["x->f/wave/frequency"] == Size([2, 1])
    # batches of weights and gates are mapped over the function
    weights = {k: torch.randn(7, *s) for k, s in family.weight_shapes.items()}
    batch = family.apply(x, family.structure("wave").gates.expand(7, 2), weights)
    single = wave(x, weights["x->f/wave/amplitude"][3], weights["x->f/wave/frequency"][3])
    torch.testing.assert_close(batch[3], single)


def test_a_torch_module() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    family = Family(inputs=2).edge("x", "f", ops={"line": GLM(bias=True), "net": net})

    x = torch.randn(5, 2)
    model = family.model(likelihood=Gaussian(0.1))
    trace = pyro.poutine.trace(model).get_trace(x)
    assert trace.nodes["w/x->f/net/0.weight"]["value"].shape == (4, 2)
    own = {f"x->f/net/{k}": p for k, p in net.named_parameters()}
    own |= {k: torch.zeros(s) for k, s in family.weight_shapes.items() if k not in own}
    torch.testing.assert_close(family.apply(x, family.structure("net").gates, own), net(x))
    assert not any(p.requires_grad is False for p in net.parameters())
    assert family.num_parameters(family.vertices()).tolist() == [3, 17]


def test_a_convolution_against_a_stack() -> None:
    image = nn.Unflatten(-1, (1, 4, 4))
    one = nn.Sequential(image, nn.Conv2d(1, 2, 3), nn.Flatten())
    two = nn.Sequential(image, nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten())
    family = Family(inputs=16).edge("x", "h", ops={"one": one, "two": two})
    family.edge("h", "f", ops={"out": Linear(1)})

    assert family.check().widths == {"x": 16, "h": 8, "f": 1}
    weights = {k: torch.randn(3, *s) for k, s in family.weight_shapes.items()}
    gates = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.5, 0.5, 1.0]])
    assert family.apply(torch.randn(6, 16), gates, weights).shape == (3, 6, 1)


def test_an_operation_written_as_a_class() -> None:
    class Scale(Op):
        def shapes(self, width):
            return {"weight": Size([width])}

        def width(self, inputs):
            return inputs

        def __call__(self, x, **weights):
            return x * weights["weight"][..., None, :]

    family = Family(inputs=3).edge("x", "f", ops={"scale": Scale()})
    assert family.width == 3
    assert family.model(likelihood=Gaussian(1.0))(torch.randn(5, 3)).shape == (5, 3)


def test_feature_subsets() -> None:
    names = ["age", "sex", "bmi"]
    family = Family(inputs=names)
    ops = {name: GLM(columns=[i]) for i, name in enumerate(names)}
    family.edge("x", "f", domain="cube_vertex", ops=ops)

    assert family.num_structures == 8
    assert family.label(torch.tensor([0.0, 1.0, 1.0])) == "{sex, bmi}"
    assert family.structure("{sex, bmi}").choices == {"x->f": ("sex", "bmi")}
    x = torch.randn(4, 3)
    matrix, gate = family.design(x)
    torch.testing.assert_close(matrix, x)
    assert gate.tolist() == [0, 1, 2]
