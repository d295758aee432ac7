"""
What is the published scale worth on one GPU, and does the GPU say what the CPU says?

    python benchmarks/gpu.py                     # at most 8 minutes on one H100 or H200; writes results/gpu.json
    python benchmarks/gpu.py --rehearse FILE     # the same with small networks, a CPU standing for the GPU: seconds

It needs torch, accelerate, this package and nothing else, not even that the package is installed.

First, agreement. The loss and the gradient of every method with its published network, the state of every sampler
after eight calls, densities, distances and metrics are worked out in float64 on the CPU, and in float32 on the CPU and
on the GPU; an error is the length of the difference over the length of the float64 answer, and has to stay below the
tolerance that is stated beside it.

Then, speed. Steps of training as `uncpaper.training.fit` takes them, answers without gradients, and chains of samples;
plain, and with what UNCPAPER_SPEED can ask for. A rate is the median of five rounds, with the least and the largest;
the start is what the first calls took beyond that pace, with it `uncpaper.reproduce.acceleration` finds what pays.
Floating-point operations are counted, not estimated, and an item is a sample (of a chain: a finished one).

Every line is written when it is known: a run that is cut off keeps what it has, and one that is started again with the
same file, device and versions goes on with what is missing. What no time was left for is listed under `left_out`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
import torchvision
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from uncpaper.density import GaussianDiscriminant
from uncpaper.diffusion import DDIM, Ancestral, DPMSolver2M, NetworkDenoiser, Sampler, last, sample
from uncpaper.ensembles import chernoff_distances, kl_distances, pairwise_information, wasserstein_distances
from uncpaper.files import replacing
from uncpaper.losses import biv_loss, diffusion_loss, eiv_loss
from uncpaper.metrics import auroc, expected_calibration_error, mutual_information, softmax_entropy
from uncpaper.metrics import structural_similarity
from uncpaper.models.classifiers import lenet, resnet9, resnet18, small_resnet, small_vgg, small_wide_resnet, vgg16
from uncpaper.models.classifiers import wide_resnet_28_10
from uncpaper.models.flow import SplineFlow
from uncpaper.models.regressors import age_resnet18, angle_cnn
from uncpaper.models.unet import Labelled, UNet
from uncpaper.models.vae import VAE
from uncpaper.numerics import generator
from uncpaper.reproduce.acceleration import accelerated, chosen
from uncpaper.schedules import linear_betas
from uncpaper.training import train_step

SCHEDULE = linear_betas()
ROUNDS = 5


def normal(*shape: int, of: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(0, of))


def labels(count: int, classes: int = 10) -> Tensor:
    return torch.randint(classes, (count,), generator=generator(0, "labels"))


# ---- the methods: a network, a batch, a loss


class Method(NamedTuple):
    paper: str
    network: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]  # samples -> what the loss takes, on the CPU, without a random state
    loss: Callable[..., Tensor]                  # (network, *inputs) -> scalar
    batch: int                                   # of the training
    modes: tuple[str, ...]                       # of the training, as words; most telling first
    drawn: int = 0                               # samples of a chain at a time; 0: it is no diffusion model


def by_classifier(shape: tuple[int, ...], n: int) -> tuple[Tensor, Tensor]:
    return normal(n, *shape), labels(n)


def by_regressor(shape: tuple[int, ...], n: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(n, *shape), normal(n, of="target"), normal(n, of="variance").exp()


def by_denoiser(shape: tuple[int, ...], told: bool, n: int) -> tuple[Tensor, ...]:
    t = torch.randint(SCHEDULE.steps, (n,), generator=generator(0, "t"))
    return normal(n, *shape), t, normal(n, *shape, of="noise"), *([labels(n)] if told else [])


def by_candidates(shape: tuple[int, ...], count: int, n: int) -> tuple[Tensor, Tensor]:
    return normal(n, count, *shape), labels(n)


def by_vectors(dimension: int, latent: int, n: int) -> tuple[Tensor, ...]:
    return normal(n, dimension).tanh(), *([normal(1, n, latent, of="latent")] if latent else [])


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor: return F.cross_entropy(model(x), y)


def ages(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> Tensor: return biv_loss(model(x)[:, 0], y, v, 0.5)


def denoising(model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, *label: Tensor) -> Tensor:
    return diffusion_loss(lambda x, t: model(x, t, *label), x, t, noise, SCHEDULE)


def candidates(model: nn.Module, x: Tensor, y: Tensor) -> Tensor: return eiv_loss(model(x), y)


def density(model: nn.Module, x: Tensor) -> Tensor: return model.loss(x)


def bound(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor: return -model.weigh(x, noise)[0].mean()


LARGE = "bf16", "bf16 channels_last", "tf32", "bf16 channels_last compiled", "tf32 compiled"
SMALL = "graphs", "compiled", "tf32", "bf16"
COLOUR, GREY = (3, 32, 32), (1, 28, 28)


def methods(small: bool) -> list[Method]:
    "The published networks, or siblings of theirs that a CPU answers with at once."
    def ddu(build: Callable[..., nn.Module], shape: tuple[int, ...]) -> Callable[[], nn.Module]:
        return partial(build, 10, shape[0], shape[1], 3.0, True)
    if small:
        vgg, unet = (1, 8, 8), dict(size=8, width=8, multipliers=(1, 2), blocks=1, attention=(4,))
        return [
            Method("eiv", "U-Net", partial(UNet, 3, **unet), partial(by_denoiser, (3, 8, 8), False), denoising, 4,
                   ("bf16 channels_last", "compiled"), 4),
            Method("ddu", "Wide ResNet", ddu(small_wide_resnet, vgg), partial(by_classifier, vgg), cross_entropy, 4,
                   ("channels_last",)),
            Method("ddu", "VGG", ddu(small_vgg, vgg), partial(by_classifier, vgg), cross_entropy, 4, ()),
            Method("ddu", "ResNet", ddu(small_resnet, vgg), partial(by_classifier, vgg), cross_entropy, 4, ()),
            Method("biv", "CNN", partial(angle_cnn, 12), partial(by_regressor, (1, 12, 12)), ages, 4, ()),
            Method("eiv", "ResNet-9", partial(resnet9, 10, 3, 0.5, 4, 8), partial(by_candidates, (3, 8, 8), 2),
                   candidates, 4, ()),
            Method("decu", "U-Net told a class", lambda: Labelled(UNet(3, **unet, context=4), 10, 4),
                   partial(by_denoiser, (3, 8, 8), True), denoising, 4, ()),
            Method("dgm", "flow", partial(SplineFlow, 8, 2, 8), partial(by_vectors, 8, 0), density, 4, ("graphs",)),
            Method("dgm", "VAE", partial(VAE, 8, 2, (8,)), partial(by_vectors, 8, 2), bound, 4, ()),
        ]
    return [
        Method("eiv", "U-Net 35.2M", UNet, partial(by_denoiser, COLOUR, False), denoising, 128, LARGE, 256),
        Method("ddu", "Wide ResNet-28-10", ddu(wide_resnet_28_10, COLOUR), partial(by_classifier, COLOUR),
               cross_entropy, 128, LARGE),
        Method("dgm", "flow 784", partial(SplineFlow, 784, 4, 128), partial(by_vectors, 784, 0), density, 128, SMALL),
        Method("dgm", "VAE 784", partial(VAE, 784, 20, (256,)), partial(by_vectors, 784, 20), bound, 128, SMALL),
        Method("ddu", "ResNet-18", ddu(resnet18, GREY), partial(by_classifier, GREY), cross_entropy, 128, LARGE),
        Method("ddu", "VGG-16", ddu(vgg16, GREY), partial(by_classifier, GREY), cross_entropy, 128, LARGE),
        Method("biv", "ResNet-18 at 200 pixels", age_resnet18, partial(by_regressor, (3, 200, 200)), ages, 256, LARGE),
        Method("eiv", "ResNet-9, 5 candidates", partial(resnet9, 10, 3, 0.5), partial(by_candidates, COLOUR, 5),
               candidates, 256, LARGE),
        Method("decu", "U-Net told a class", lambda: Labelled(UNet(3, width=64, multipliers=(1, 2, 2), blocks=2,
               context=64), 10, 64), partial(by_denoiser, COLOUR, True), denoising, 128, LARGE),
        Method("ddu", "LeNet", ddu(lenet, GREY), partial(by_classifier, GREY), cross_entropy, 128, SMALL),
    ]


def built(method: Method) -> nn.Module:
    "With the same weights each time, none of them zero throughout: a gradient goes through every layer."
    torch.manual_seed(0)
    model = method.build()
    for p in model.parameters():
        if p.ndim > 1 and not p.any(): nn.init.normal_(p, std=0.5 / math.sqrt(p[0].numel()))
    return model


# ---- agreement


Case = Callable[[torch.device, torch.dtype], Tensor]  # one answer, worked out there with numbers of that type


def moved(tensors: tuple[Tensor, ...], place: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return [t.to(place, dtype if t.is_floating_point() else t.dtype) for t in tensors]


def loss_and_gradient(method: Method, place: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    "In training, but without dropout, whose masks differ from device to device."
    model = built(method).to(place, dtype).train()
    for layer in model.modules():
        if isinstance(getattr(layer, "p", None), float): layer.p = 0.0
    loss = method.loss(model, *moved(method.inputs(4), place, dtype))
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def chain(method: Method, sampler: Sampler, place: torch.device, dtype: torch.dtype) -> Tensor:
    "A chain that draws noise is worked out in float32 alone: other numbers are drawn for float64."
    dtype = torch.float32 if sampler.draws else dtype
    model, (x, *_) = built(method).to(place, dtype).eval(), moved(method.inputs(2), place, dtype)
    seeds = range(len(x)) if sampler.draws else None
    return last(sample(NetworkDenoiser(model, SCHEDULE), x, SCHEDULE.steps - 1, sampler, seeds))


def features(place: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]: # (sample, feature), (sample,)
    y = labels(2000)
    return moved((normal(2000, 64) @ normal(64, 64, of="mix") / 8 + y[:, None], y), place, dtype)


def log_density(place: torch.device, dtype: torch.dtype) -> Tensor:
    z, y = features(place, dtype)
    return GaussianDiscriminant.fit(z, y).log_density(z)


def of_members(distances: Callable, place: torch.device, dtype: torch.dtype) -> Tensor:
    mean, variance = moved((normal(5, 100, 64), normal(5, 100, 64, of="variance").exp()), place, dtype)
    return pairwise_information(distances(mean, variance))


METRICS: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor | float]]] = { # tolerance, (logits, labels) -> value
    "entropy": (1e-5, lambda logits, y: softmax_entropy(logits)),
    "mutual information": (1e-4, lambda logits, y: mutual_information(logits.softmax(-1))),
    "AUROC": (1e-5, lambda logits, y: auroc(logits[0, y == 1, 0], logits[0, y != 1, 0])),
    "calibration error": (1e-3, lambda logits, y: expected_calibration_error(*confidence(logits[0], y))),
}


def confidence(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sure, said = logits.softmax(-1).max(-1)
    return sure, said == y


def by_logits(name: str, place: torch.device, dtype: torch.dtype) -> Tensor:
    logits, y = moved((2 * normal(5, 500, 10), labels(500)), place, dtype)
    return torch.as_tensor(METRICS[name][1](logits, y), dtype=torch.float64)


def of_pictures(place: torch.device, dtype: torch.dtype) -> Tensor:
    x, y = moved((normal(8, *GREY).tanh(), normal(8, *GREY, of="other").tanh()), place, dtype)
    return structural_similarity(x, (x + y) / 2, 2.0)


def slope(method: Method, place: torch.device, dtype: torch.dtype) -> Tensor:
    model, (x, *_) = built(method).to(place, dtype).eval(), moved(method.inputs(4), place, dtype)
    return model.score(x)


def cases(found: list[Method]) -> Iterator[tuple[str, str, float, Case]]:
    "What is asked, of what, the tolerance, and the question."
    for m in found:
        where = f"{m.paper}: {m.network}"
        yield "loss", where, 1e-4, lambda *to, m=m: loss_and_gradient(m, *to)[0]
        yield "gradient", where, 2e-3, lambda *to, m=m: loss_and_gradient(m, *to)[1]
    for sampler in (DDIM(8), DPMSolver2M(8), Ancestral(steps=8)):
        yield f"{type(sampler).__name__} after 8 calls", found[0].network, 1e-3, partial(chain, found[0], sampler)
    flow = next(m for m in found if m.network.startswith("flow"))
    yield "score", flow.network, 1e-3, partial(slope, flow)
    yield "log-density", "Gaussians of 64 features", 1e-5, log_density
    for distances in (wasserstein_distances, kl_distances, chernoff_distances):
        yield "information of members", distances.__name__, 1e-5, partial(of_members, distances)
    for name, (tolerance, _) in METRICS.items(): yield "metric", name, tolerance, partial(by_logits, name)
    yield "structural similarity", "pictures of 28 pixels", 1e-5, of_pictures


def error(found: Tensor, truth: Tensor) -> float:
    "The length of the difference over that of the truth."
    found, truth = found.double().cpu(), truth.double().cpu()
    return ((found - truth).norm() / truth.norm().clamp_min(1e-300)).item()


def agreement(what: str, of: str, tolerance: float, case: Case, place: torch.device) -> dict:
    cpu = torch.device("cpu")
    with accelerated(()):
        truth, here, there = case(cpu, torch.float64), case(cpu, torch.float32), case(place, torch.float32)
    apart = error(there, truth)
    return dict(what=what, of=of, tolerance=tolerance, error=apart, error_cpu=error(here, truth),
                agrees=apart <= tolerance)


# ---- speed


def wait(place: torch.device) -> None:
    if place.type == "cuda": torch.cuda.synchronize(place)


def seconds(call: Callable, times: int, place: torch.device) -> float:
    wait(place)
    start = time.perf_counter()
    for _ in range(times): call()
    wait(place)
    return time.perf_counter() - start


def pace(call: Callable, items: int, place: torch.device, patience: float) -> dict:
    "Items a second, and what it took to start."
    begun = seconds(call, 3, place)
    times = max(1, int(patience / ROUNDS / max(1e-6, seconds(call, 1, place))))
    taken = [seconds(call, times, place) / times for _ in range(ROUNDS)]
    middle = statistics.median(taken)
    return dict(per_second=items / middle, least=items / max(taken), largest=items / min(taken), steps=times * ROUNDS,
                setup_s=max(0.0, begun - 3 * middle))


def training(method: Method, accelerator: Accelerator) -> Callable[[], Tensor]:
    "A step, as `fit` takes it."
    model = built(method)
    model, adam = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 1e-4))
    batch = [t.to(accelerator.device) for t in method.inputs(method.batch)]
    return lambda: train_step(model, batch, method.loss, adam, accelerator)


def answering(method: Method, accelerator: Accelerator) -> Callable[[], Tensor]:
    "The loss without gradients, in evaluation mode."
    model, batch = built(method).to(accelerator.device).eval(), method.inputs(method.batch)
    batch = [t.to(accelerator.device) for t in batch]
    return torch.no_grad()(lambda: method.loss(model, *batch))


def drawing(method: Method, accelerator: Accelerator) -> Callable[[], Tensor]:
    "Pictures by eight calls of DPM-Solver++(2M)."
    x, *_ = method.inputs(method.drawn)
    denoiser, x = NetworkDenoiser(built(method).to(accelerator.device).eval(), SCHEDULE), x.to(accelerator.device)
    return lambda: last(sample(denoiser, x, SCHEDULE.steps - 1, DPMSolver2M(8)))


TASKS = {"train": training, "forward": answering, "sample": drawing}


def counted(call: Callable) -> int:
    with FlopCounterMode(display=False) as counter: call()
    return counter.get_total_flops()


def measured(method: Method, task: str, mode: str, patience: float, backend: str) -> dict:
    "One line. What a step of Adam takes is in the pace; it is not among the operations counted."
    items = method.drawn if task == "sample" else method.batch
    with accelerated(chosen(mode), backend):
        accelerator = Accelerator()
        place = accelerator.device
        flops = counted(TASKS[task](method, accelerator)) if not mode else None
        call = TASKS[task](method, accelerator)
        if place.type == "cuda": torch.cuda.reset_peak_memory_stats(place)
        torch.manual_seed(0)
        found = dict(loss=call().item()) if task != "sample" else {}
        found |= pace(call, items, place, patience)
        peak = torch.cuda.max_memory_allocated(place) / 2**30 if place.type == "cuda" else None
    return dict(paper=method.paper, network=method.network, task=task, mode=mode or "float32", batch=items,
                parameters=sum(p.numel() for p in built(method).parameters()), memory_gib=peak, **found,
                flops=flops and flops / items)


def wishes(found: list[Method]) -> list[tuple[Method, str, str]]:
    "What to measure: everything plain or nearly so, then what has to be compiled."
    train = [(m, "train", mode) for m in found for mode in ("", *m.modes)]
    others = [(m, task, mode) for m in found for task in ("forward", *(["sample"] if m.drawn else []))
              for mode in ("", "tf32", "bf16")]
    slow = [w for w in train if set(w[2].split()) & {"compiled", "graphs"}]
    return [w for w in (*train, *others) if w not in slow] + slow


# ---- the file


def versions() -> dict[str, str]:
    import accelerate
    found = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
             "accelerate": accelerate.__version__}
    return found | ({"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
                    if torch.cuda.is_available() else {})


class Report:
    "What is known so far; every line is written at once."
    def __init__(self, path: Path, of: dict):
        self.path, self.began = path, time.monotonic()
        before = json.loads(path.read_text()) if path.exists() else {}
        known = before if all(before.get(name) == value for name, value in of.items()) else {}
        self.content = {**of, "seconds": 0.0, "agreement": [], "speed": [], **known, "left_out": []}
        self.earlier = self.content["seconds"]

    def has(self, part: str, **wanted: str) -> bool:
        return any(all(line[k] == v for k, v in wanted.items()) for line in self.content[part])

    def add(self, part: str, line: dict) -> None:
        self.content[part].append(line)
        self.content["seconds"] = round(self.earlier + time.monotonic() - self.began, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as part: part.write_text(json.dumps(self.content, indent=1) + "\n")
        print("  ".join(f"{name} {value:.3g}" if isinstance(value, float) else str(value)
                        for name, value in line.items() if value is not None), flush=True)


def fill(report: Report, found: list[Method], place: torch.device, limit: float, patience: float, backend: str) -> None:
    left = lambda: limit - (time.monotonic() - report.began)
    for what, of, tolerance, case in cases(found):
        if not report.has("agreement", what=what, of=of):
            report.add("agreement", agreement(what, of, tolerance, case, place))
    for method, task, mode in wishes(found):
        wish = dict(paper=method.paper, network=method.network, task=task, mode=mode or "float32")
        if report.has("speed", **wish): continue
        if left() < (60 if {"compiled", "graphs"} & set(mode.split()) else 5):
            report.add("left_out", wish | {"why": "no time was left"})
            continue
        try: report.add("speed", measured(method, task, mode, patience, backend))
        except RuntimeError as refusal: report.add("left_out", wish | {"why": str(refusal).splitlines()[0][:200]})
        finally:
            torch.compiler.reset()
            if place.type == "cuda": torch.cuda.empty_cache()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "results" / "gpu.json")
    parser.add_argument("--rehearse", action="store_true", help="small networks, a CPU standing for the GPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new is begun")
    asked = parser.parse_args(words)
    if not asked.rehearse and not torch.cuda.is_available():
        print("gpu.py: torch sees no GPU here; --rehearse FILE takes the CPU for one", file=sys.stderr)
        return 2
    if asked.rehearse: os.environ["ACCELERATE_USE_CPU"] = "true"
    place = Accelerator().device
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"CPU ({platform.machine()})"
    of = dict(made_by="benchmarks/gpu.py", rehearsal=asked.rehearse, device=name, versions=versions(),
              compiler="eager" if asked.rehearse else "inductor")
    report = Report(asked.file, of)
    fill(report, methods(asked.rehearse), place, 60 * asked.minutes, 0.02 if asked.rehearse else 1.5, of["compiler"])
    apart = [line for line in report.content["agreement"] if not line["agrees"]]
    print(f"{len(report.content['agreement'])} answers, {len(apart)} of which do not agree; "
          f"{len(report.content['speed'])} rates, {len(report.content['left_out'])} left out: {asked.file}")
    return 1 if apart else 0


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
