"""
How fast are many small networks stacked into one, beside a loop over them and beside torch's vmap?

    python benchmarks/small_ensembles.py

One thread, float32, without gradients, 20 and 50 members, batches of 1, 4 and 16. The loop is `uncpaper.ensembles`,
which asks member after member; vmap is torch.func.vmap over the stacked weights, as its documentation shows. All take
turns in this process; a ratio is time(peer) / time(stacked), in processor time, and no answer may differ by more than
1e-6. Wanted: 5 times the loop, and twice vmap.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from _rounds import note, turns
from uncpaper.ensembles import Ensemble
from uncpaper.models.classifiers import small_lenet
from uncpaper.models.regressors import bike_mlp
from uncpaper.models.stacked import Stacked


def perceptron() -> nn.Sequential: return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                                                        nn.Linear(32, 2))


def lenet() -> nn.Sequential:
    model = small_lenet(10)
    return nn.Sequential(*model.extractor, model.head)


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "perceptron of two moons": (perceptron, (2,)), "perceptron of BIV's bikes": (bike_mlp, (19,)),
    "small LeNet of DDU's digits": (lenet, (1, 8, 8)),
}


def by_vmap(members: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    state = tuple({name: value.detach() for name, value in part.items()} for part in stack_module_state(members))
    def one(weights: dict, buffers: dict, x: Tensor) -> Tensor:
        return functional_call(members[0], (weights, buffers), x)
    return lambda x: vmap(one, (0, 0, None))(*state, x)


def report(name: str, count: int, batch: int) -> None:
    build, shape = NETWORKS[name]
    members, x = [build().eval() for _ in range(count)], torch.randn(batch, *shape)
    candidates = {"stacked": Stacked(members), "loop": Ensemble(members).eval(), "vmap": by_vmap(members)}
    answers = {which: call(x) for which, call in candidates.items()}
    apart = max((answers["stacked"] - answers[peer]).abs().max().item() for peer in ("loop", "vmap"))
    assert apart <= 1e-6, apart
    found = turns({which: lambda call=call: call(x) for which, call in candidates.items()}, 9, 0.03)
    for peer, wanted in (("loop", 5.0), ("vmap", 2.0)):
        note("Small ensembles", f"{name}, {count} members, batch {batch}", peer, found[peer] / found["stacked"],
             f"largest difference {apart:.0e}", ["torch"], wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name in NETWORKS:
            for count in (20, 50):
                for batch in (1, 4, 16): report(name, count, batch)
