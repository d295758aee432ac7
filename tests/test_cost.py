"What work costs: counts against closed forms and torch's own, times against those of recorded runs."
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from uncpaper import work
from uncpaper.papers.shared import cost as shared
from uncpaper.papers.shared.denoising import BACKBONES
from uncpaper.reproduce import cost
from uncpaper.reproduce.experiments import experiments, find
from uncpaper.work import Work, asking, blank, made, training


def squared(model: nn.Module, x: torch.Tensor) -> torch.Tensor: return model(x).square().mean()


@pytest.mark.parametrize("rows,inputs,outputs", [(1, 1, 1), (7, 30, 20), (256, 19, 100)])
def test_a_linear_layer_is_counted_as_by_hand(rows, inputs, outputs):
    layer = made(lambda: nn.Linear(inputs, outputs))
    asked, step = asking(layer, blank(rows, inputs)), training(layer, squared, blank(rows, inputs))
    assert asked.flops == 2 * rows * inputs * outputs
    assert step.flops == 2 * asked.flops, "of inputs that are data no gradient is needed"
    assert asked.parameters == inputs * outputs + outputs
    assert asked.peak == 4 * (asked.parameters + rows * inputs + rows * outputs)


def test_arithmetic_is_what_torch_s_own_counter_finds():
    for name, size in (("small_unet", 28), ("ddpm_unet", 32)):
        network, batch = made(lambda: BACKBONES[name].build(1, size, None)), (blank(3, 1, size, size), blank(3))
        with FlopCounterMode(display=False) as theirs, torch.no_grad(): network.eval()(*batch)
        assert asking(network, *batch).flops == theirs.get_total_flops() > 1e8


def test_memory_and_changes_of_weights_are_those_of_a_real_step():
    "The optimiser's part is counted on one tensor; here it is counted on all, with real numbers."
    def network() -> nn.Module: return nn.Sequential(*[nn.Linear(50, 50) for _ in range(6)])
    model, x = network(), torch.randn(64, 50)
    adam = torch.optim.Adam(model.parameters())
    for _ in range(2):
        adam.zero_grad()
        with work.Counting() as real:
            real.hold(*model.parameters(), x, *(t for s in adam.state.values() for t in s.values()))
            squared(model, x).backward(), adam.step()
    counted = training(made(network), squared, blank(64, 50))
    assert counted.flops == real.work.flops
    for name in ("calls", "moved", "peak"):
        assert getattr(counted, name) == pytest.approx(getattr(real.work, name), rel=0.15), name


def test_work_adds_up_and_memory_does_not():
    a, b = Work(1, 2, 3, 4, 5, 6, 7, 8), Work(10, 20, 30, 40, 50, 60, 5, 9)
    assert a + b == Work(11, 22, 33, 44, 55, 60, 7, 9) and 3 * a == Work(3, 6, 9, 12, 15, 6, 7, 8)


@pytest.fixture(scope="module")
def all_stages() -> dict[str, list]:
    return {e.name: cost.stages_of(e) for e in experiments()}


def test_a_page_says_of_every_stage_of_every_paper_what_it_costs(all_stages):
    for e in experiments(): cost.informed(e.paper)
    kinds = {type(s) for stages in all_stages.values() for s in stages}
    unsaid = [k.__name__ for k in kinds if work.work_of.dispatch(k) is work.work_of.dispatch(object)]
    assert len(kinds) >= 20 and not unsaid


def test_a_stage_costs_the_same_with_any_seed_and_its_steps_add_up():
    first, *_ = [s for s in cost.stages_of(find("eiv/generation")[0]) if isinstance(s, shared.TrainDenoiser)]
    other, longer = replace(first, seed=first.seed + 1), replace(first, steps=2 * first.steps)
    assert work.work_of(other) == work.work_of(first)
    assert work.work_of(longer).flops == 2 * work.work_of(first).flops and first.steps == 800_000


RECORDED = ["biv/epsilon", "biv/disturbed", "biv/wine", "ddu/two-moons", "dgm/scores", "dgm/circle", "eiv/checkerboard"]


def test_times_on_a_core_are_near_those_of_recorded_runs():
    "Within 1.5 in the middle; single runs were recorded while the machine had other work."
    costs = cost.costs_of([find(name)[0] for name in RECORDED], "laptop")
    ratios = sorted(r["ratio"] for r in cost.beside_recorded(costs))
    assert len(ratios) == len(RECORDED)
    assert 1 / 1.5 < ratios[len(ratios) // 2] < 1.5, ratios
    assert 1 / 3 < ratios[0] and ratios[-1] < 3, ratios
