"The networks: exact parameter counts (oracle O10), shapes, and one step of training."

import pytest
import torch

from uncpaper.models.regressors import age_cnn, age_resnet18, angle_cnn, bike_mlp, mlp, wine_mlp

NETS = [(wine_mlp, (4, 11), 7_851), (bike_mlp, (4, 19), 8_291), (age_cnn, (2, 3, 200, 200), 398_737),
        (age_resnet18, (2, 3, 200, 200), 11_177_025), (lambda: angle_cnn(size=12), (4, 1, 12, 12), 23_457),
        (lambda: angle_cnn(size=28), (4, 1, 28, 28), 23_457)]
IDS = ["wine", "bike", "age cnn", "age resnet18", "angle 12", "angle 28"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("build, shape, count", NETS, ids=IDS)
def test_o10_counts_and_one_step(build, shape, count):
    torch.manual_seed(0)
    net = build()
    assert sum(p.numel() for p in net.parameters()) == count
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    out = net(torch.randn(shape))
    assert out.shape == (shape[0], 1)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    optimiser.step()
    assert net.eval()(torch.randn(shape)).isfinite().all()


def test_batch_norm_only_where_asked():
    kinds = [{type(m).__name__ for m in net.modules()} for net in (wine_mlp(), bike_mlp())]
    assert ["BatchNorm1d" in kind for kind in kinds] == [True, False]


@pytest.mark.parametrize("size", [12, 13, 23, 24, 28, 32, 64])
def test_angle_cnn_of_any_size(size):
    assert angle_cnn(size=size)(torch.randn(2, 1, size, size)).shape == (2, 1)


def test_widths_are_checked():
    with pytest.raises(ValueError, match="inputs and hidden must be >= 1, got 0"):
        mlp(0, (3,), batch_norm=False)
    with pytest.raises(ValueError, match="size must be >= 12, got 8"):
        angle_cnn(size=8)
    assert mlp(3, (), batch_norm=True)(torch.randn(2, 3)).shape == (2, 1)
