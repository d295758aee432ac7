"""
Latent diffusion: published sizes and names, forward passes against the original's written down once more from its names
alone, the way networks are called, and files that are read without running what they say.
"""

import collections
import math
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import nn
from torch.nn import functional as F

from uncpaper.models.latent import (ContextNetwork, check_schedule, compvis_names, decode, encode, from_compvis,
                                    latent_unet, load_latent, read_compvis, separated, to_compvis, vq_autoencoder)
from uncpaper.models.unet import group_count
from uncpaper.schedules import latent_betas, linear_betas

UNETS = {
    "two levels": dict(size=8, width=16, multipliers=(1, 2), blocks=1, attention=(4,), context=12),
    "four levels, two heads": dict(size=16, width=32, multipliers=(1, 2, 3, 5), blocks=2, attention=(8, 4, 2), heads=2,
                                   context=20),
    "attention at the first level": dict(channels=4, size=8, width=32, multipliers=(2, 1, 3), blocks=1,
                                         attention=(8, 2), context=7),
    "32 groups": dict(size=4, width=128, multipliers=(1, 2), blocks=1, attention=(2,), context=16),
}
AUTOENCODERS = {
    "one level": dict(codes=20, width=16, multipliers=(1,), blocks=1),
    "three levels": dict(codes=50, width=32, multipliers=(1, 2, 4), blocks=2),
    "grey, four channels": dict(channels=1, latent=4, codes=30, width=48, multipliers=(2, 1), blocks=1),
}


def alive(model, seed=0):
    "The model in double precision, every tensor with numbers of its own."
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module", params=UNETS)
def unet(request):
    torch.manual_seed(0)
    return alive(latent_unet(**UNETS[request.param])), UNETS[request.param]


@pytest.fixture(scope="module", params=AUTOENCODERS)
def autoencoder(request):
    torch.manual_seed(0)
    return alive(vq_autoencoder(**AUTOENCODERS[request.param])), AUTOENCODERS[request.param]


class Reference:
    "The original's forward passes, functions of its names and tensors alone. `seen` has what each block said."

    def __init__(self, state, groups, heads=1):
        self.state, self.groups, self.heads, self.seen = state, groups, heads, {}

    def has(self, name):
        return f"{name}.weight" in self.state

    def conv(self, name, x, stride=1, padding=None):
        w = self.state[f"{name}.weight"]
        return F.conv2d(x, w, self.state[f"{name}.bias"], stride, w.shape[-1] // 2 if padding is None else padding)

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)

    def norm(self, name, x, eps):
        "Groups of channels with mean 0 and variance 1, written out."
        grouped = x.reshape(len(x), self.groups, -1)
        var, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
        scaled = ((grouped - mean) / (var + eps).sqrt()).reshape(x.shape)
        return scaled * self.state[f"{name}.weight"][:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def layer_norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def swish(self, x):
        return x * torch.sigmoid(x)

    # the U-Net

    def residual(self, name, x, time):
        h = self.conv(f"{name}.in_layers.2", self.swish(self.norm(f"{name}.in_layers.0", x, 1e-5)))
        h = h + self.linear(f"{name}.emb_layers.1", self.swish(time))[:, :, None, None]
        h = self.conv(f"{name}.out_layers.3", self.swish(self.norm(f"{name}.out_layers.0", h, 1e-5)))
        return h + (self.conv(f"{name}.skip_connection", x) if self.has(f"{name}.skip_connection") else x)

    def attend(self, name, x, context):
        q, k, v = (self.linear(f"{name}.to_{part}", x if part == "q" else context) for part in "qkv")
        said = []
        for head in range(self.heads):
            d = q.shape[-1] // self.heads
            a, b, c = (part[..., head * d:(head + 1) * d] for part in (q, k, v))
            said.append((a @ b.transpose(1, 2) / math.sqrt(d)).softmax(-1) @ c)
        return self.linear(f"{name}.to_out.0", torch.cat(said, -1))

    def transformer(self, name, x, context):
        h = self.conv(f"{name}.proj_in", self.norm(f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
        block = f"{name}.transformer_blocks.0"
        normed = self.layer_norm(f"{block}.norm1", h)
        h = h + self.attend(f"{block}.attn1", normed, normed)
        h = h + self.attend(f"{block}.attn2", self.layer_norm(f"{block}.norm2", h), context)
        value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer_norm(f"{block}.norm3", h)).chunk(2, -1)
        normal = 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        h = h + self.linear(f"{block}.ff.net.2", value * gate * normal)
        return x + self.conv(f"{name}.proj_out", h.transpose(1, 2).reshape(x.shape))

    def layer(self, name, x, time, context):
        if self.has(f"{name}.in_layers.0"): said = self.residual(name, x, time)
        elif self.has(f"{name}.proj_in"): said = self.transformer(name, x, context)
        elif self.has(f"{name}.op"): said = self.conv(f"{name}.op", x, stride=2)
        elif self.has(f"{name}.conv"):
            said = self.conv(f"{name}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        else: said = self.conv(name, x)
        self.seen[name] = said
        return said

    def step(self, name, x, time, context):
        "All layers of a place, in order."
        layers = {int(n.removeprefix(f"{name}.").split(".")[0]) for n in self.state if n.startswith(f"{name}.")}
        for i in sorted(layers): x = self.layer(f"{name}.{i}", x, time, context)
        return x

    def unet(self, x, t, context):
        root = "model.diffusion_model"
        half = self.state[f"{root}.time_embed.0.weight"].shape[1] // 2
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
        time = torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)
        time = self.linear(f"{root}.time_embed.2", self.swish(self.linear(f"{root}.time_embed.0", time)))
        count = {side: 1 + max(int(n.split(".")[3]) for n in self.state if f"{root}.{side}." in n)
                 for side in ("input_blocks", "output_blocks")}
        states = []
        for n in range(count["input_blocks"]):
            x = self.step(f"{root}.input_blocks.{n}", x, time, context[:, None])
            states.append(x)
        x = self.step(f"{root}.middle_block", x, time, context[:, None])
        for n in range(count["output_blocks"]):
            x = self.step(f"{root}.output_blocks.{n}", torch.cat([x, states.pop()], 1), time, context[:, None])
        assert not states
        return self.conv(f"{root}.out.2", self.swish(self.norm(f"{root}.out.0", x, 1e-5)))

    # the autoencoder

    def plain(self, name, x):
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x, 1e-6)))
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h, 1e-6)))
        self.seen[name] = h + (self.conv(f"{name}.nin_shortcut", x) if self.has(f"{name}.nin_shortcut") else x)
        return self.seen[name]

    def middle(self, name, x):
        x = self.plain(f"{name}.block_1", x)
        normed = self.norm(f"{name}.attn_1.norm", x, 1e-6)
        q, k, v = (self.conv(f"{name}.attn_1.{part}", normed).flatten(2) for part in "qkv")       # (batch, c, place)
        weights = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(2)
        x = x + self.conv(f"{name}.attn_1.proj_out", (v @ weights.transpose(1, 2)).reshape(x.shape))
        self.seen[f"{name}.attn_1"] = x
        return self.plain(f"{name}.block_2", x)

    def levels(self, name):
        return sorted({int(n.removeprefix(f"{name}.").split(".")[0]) for n in self.state if n.startswith(f"{name}.")})

    def exit(self, name, x):
        return self.conv(f"{name}.conv_out", self.swish(self.norm(f"{name}.norm_out", x, 1e-6)))

    def encode(self, x):
        root = "first_stage_model.encoder"
        x = self.conv(f"{root}.conv_in", x)
        for i in self.levels(f"{root}.down"):
            for j in self.levels(f"{root}.down.{i}.block"): x = self.plain(f"{root}.down.{i}.block.{j}", x)
            if self.has(f"{root}.down.{i}.downsample.conv"):
                x = self.conv(f"{root}.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
        return self.conv("first_stage_model.quant_conv", self.exit(root, self.middle(f"{root}.mid", x)))

    def decode(self, z):
        root, codes = "first_stage_model.decoder", self.state["first_stage_model.quantize.embedding.weight"]
        nearest = (z[:, None] - codes[None, :, :, None, None]).square().sum(2).argmin(1)     # (batch, height, width)
        z = self.conv("first_stage_model.post_quant_conv", codes[nearest].permute(0, 3, 1, 2))
        x = self.middle(f"{root}.mid", self.conv(f"{root}.conv_in", z))
        for i in reversed(self.levels(f"{root}.up")):
            for j in self.levels(f"{root}.up.{i}.block"): x = self.plain(f"{root}.up.{i}.block.{j}", x)
            if self.has(f"{root}.up.{i}.upsample.conv"):
                x = self.conv(f"{root}.up.{i}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.exit(root, x)


def watched(model, marks):
    "What the blocks of a diffusers model will say, by their names in the original; `marks` are two names of one part."
    said = {}
    def keep(name):
        def hook(module, inputs, output): said[name] = output[0] if isinstance(output, tuple) else output
        return hook
    for ours, theirs in compvis_names(model).items():
        for mark, original in marks:
            if ours.endswith(mark) and theirs.endswith(original):
                model.get_submodule(ours.removesuffix(mark)).register_forward_hook(keep(theirs.removesuffix(original)))
    return said


def agree(said, seen):
    assert said and said.keys() <= seen.keys(), said.keys() - seen.keys()
    for name, output in said.items(): torch.testing.assert_close(output, seen[name], rtol=1e-8, atol=1e-8, msg=name)


def test_the_published_sizes():
    with torch.device("meta"): unet, autoencoder = latent_unet(), vq_autoencoder()
    counts = [sum(p.numel() for p in model.parameters()) for model in (unet, autoencoder)]
    assert counts == [400_920_579, 55_322_782]
    state = {name: tuple(tensor.shape) for model in (unet, autoencoder) for name, tensor in to_compvis(model).items()}
    root, first = "model.diffusion_model", "first_stage_model"
    assert {name: state[name] for name in state if name in PUBLISHED} == PUBLISHED
    places = {side: {int(n.split(".")[3]) for n in state if n.startswith(f"{root}.{side}.")}
              for side in ("input_blocks", "output_blocks")}
    assert places == {"input_blocks": set(range(12)), "output_blocks": set(range(12))}
    attending = {n.split(".proj_in")[0].removeprefix(f"{root}.") for n in state if n.endswith("proj_in.weight")}
    wanted = {f"input_blocks.{i}.1" for i in (4, 5, 7, 8, 10, 11)} | {f"output_blocks.{i}.1" for i in range(9)}
    assert attending == wanted | {"middle_block.1"}
    assert not any(".attn." in n for n in state if n.startswith(first))


PUBLISHED = {  # written by hand from the original's architecture
    "model.diffusion_model.time_embed.0.weight": (768, 192),
    "model.diffusion_model.input_blocks.0.0.weight": (192, 3, 3, 3),
    "model.diffusion_model.input_blocks.3.0.op.weight": (192, 192, 3, 3),
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (384, 192, 1, 1),
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (384, 512),
    "model.diffusion_model.input_blocks.10.1.transformer_blocks.0.ff.net.0.proj.weight": (7680, 960),
    "model.diffusion_model.middle_block.1.proj_in.weight": (960, 960, 1, 1),
    "model.diffusion_model.output_blocks.2.2.conv.weight": (960, 960, 3, 3),
    "model.diffusion_model.output_blocks.3.0.in_layers.2.weight": (576, 1536, 3, 3),
    "model.diffusion_model.output_blocks.8.2.conv.weight": (384, 384, 3, 3),
    "model.diffusion_model.output_blocks.11.0.in_layers.2.weight": (192, 384, 3, 3),
    "model.diffusion_model.out.2.weight": (3, 192, 3, 3),
    "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "first_stage_model.encoder.down.1.downsample.conv.weight": (256, 256, 3, 3),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.up.2.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.quantize.embedding.weight": (8192, 3),
    "first_stage_model.quant_conv.weight": (3, 3, 1, 1),
}


def test_the_unet_says_block_by_block_what_the_original_says(unet):
    model, settings = unet
    g = torch.Generator().manual_seed(1)
    channels, heads = settings.get("channels", 3), settings.get("heads", 1)
    x = torch.randn(3, channels, settings["size"], settings["size"], generator=g, dtype=torch.float64)
    t = torch.tensor([0.0, 17.25, 999.0], dtype=torch.float64)
    context = torch.randn(3, settings["context"], generator=g, dtype=torch.float64)
    reference = Reference(to_compvis(model), group_count(settings["width"]), heads)
    wanted = reference.unet(x, t, context)
    marks = ((".conv1.weight", ".in_layers.2.weight"), (".proj_in.weight", ".proj_in.weight"),
             (".conv.weight", ".op.weight"), (".conv.weight", ".conv.weight"))
    said = watched(model, marks)
    torch.testing.assert_close(ContextNetwork(model)(x, t, context), wanted, rtol=1e-8, atol=1e-8)
    agree(said, reference.seen)
    assert len(said) == len(reference.seen) - 1  # all but the first convolution


def test_encoder_and_decoder_say_block_by_block_what_the_original_says(autoencoder):
    model, settings = autoencoder
    g = torch.Generator().manual_seed(1)
    x = torch.rand(2, settings.get("channels", 3), 16, 16, generator=g, dtype=torch.float64) * 2 - 1
    reference = Reference(to_compvis(model), group_count(settings["width"]))
    z = reference.encode(x)
    codes = model.quantize.embedding.weight
    codes.data = z.mean() + z.std() * torch.randn(codes.shape, generator=g, dtype=torch.float64)
    reference.state = to_compvis(model)
    wanted = reference.decode(z)
    said = watched(model, ((".conv1.weight", ".conv1.weight"), (".to_q.weight", ".q.weight")))
    torch.testing.assert_close(encode(model, x), z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(decode(model, z), wanted, rtol=1e-8, atol=1e-8)
    agree(said, reference.seen)
    assert len(said) == len(reference.seen)


def there_and_back(model, other):
    "Every name has one of its own in the original, and every tensor comes back with the same bytes."
    names, there = compvis_names(model), to_compvis(model)
    assert names.keys() == model.state_dict().keys() and len(set(names.values())) == len(names)
    back = from_compvis(other, there)
    assert back.keys() == names.keys()
    for name, tensor in model.state_dict().items(): assert back[name].numpy().tobytes() == tensor.numpy().tobytes()
    other.double().load_state_dict(back)
    again = to_compvis(other)
    assert again.keys() == there.keys() and all(again[name].equal(there[name]) for name in there)


def same(theirs, ours):
    assert theirs.keys() == ours.keys() and all(theirs[name].equal(ours[name]) for name in ours)


def test_names_of_the_unet_are_a_bijection_and_diffusers_own_conversion_agrees(unet):
    model, settings = unet
    there_and_back(model, latent_unet(**settings))
    same(convert_ldm_unet_checkpoint(to_compvis(model), dict(model.config)), model.state_dict())


def test_names_of_the_autoencoder_are_a_bijection_and_diffusers_own_conversion_agrees(autoencoder):
    model, settings = autoencoder
    there_and_back(model, vq_autoencoder(**settings))
    plain = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("quantize")}
    same(convert_ldm_vae_checkpoint(to_compvis(model), dict(model.config)), plain)  # theirs has no codebook


def test_tensors_missing_too_many_or_of_another_shape_are_named():
    model = latent_unet(**UNETS["two levels"])
    state = to_compvis(model)
    first = "model.diffusion_model.input_blocks.0.0.bias"
    fewer = {name: tensor for name, tensor in state.items() if name != first}
    for wrong, said in (
        (fewer, f"tensors must be those of the network: 1 missing, the first {first}"),
        ({}, f"tensors must be those of the network: {len(state)} missing, the first {first}"),
        (state | {"model.diffusion_model.id_predictor.weight": torch.zeros(1)},
         "tensors must be those of the network: 1 too many, the first model.diffusion_model.id_predictor.weight"),
        (state | {first: torch.zeros(16, 1, 1)}, f"{first} must have shape (16,), got (16, 1, 1)"),
    ):
        with pytest.raises(ValueError) as error: from_compvis(model, wrong)
        assert str(error.value) == said
    from_compvis(model, state | {"model_ema.decay": torch.ones(()), "logvar": torch.zeros(1000)})  # others' business


def test_sizes_that_do_not_go_together_are_named():
    for settings, said in (
        (dict(size=20), "size must be a multiple"), (dict(attention=(5,)), "attention must be among"),
        (dict(heads=0), "heads must divide width 192, got 0"), (dict(width=15), "width must be even"),
    ):
        with pytest.raises(ValueError, match=said): latent_unet(**settings)


# how networks are called

LEVEL = dict(sample_size=8, block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1, num_class_embeds=11)
CONDITIONAL = {
    "UNet2DModel": lambda: UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), **LEVEL),
    "UNet2DConditionModel": lambda: UNet2DConditionModel(
        in_channels=3, out_channels=3, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D", class_embed_type=None, **LEVEL),
}


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_a_network_without_its_table_says_what_it_said_with_it(kind):
    torch.manual_seed(0)
    model = CONDITIONAL[kind]().eval().requires_grad_(False)
    x, t, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 3, 500, 999]), torch.tensor([0, 10, 4, 4])
    before = () if kind == "UNet2DModel" else (None,)
    wanted = model(x, t, *before, class_labels=labels).sample
    other = model(x, t, *before, class_labels=(labels + 1) % 11).sample
    network, table = separated(model)
    assert table.weight.shape == (11, 64) and not any("class" in name for name, _ in network.named_parameters())
    torch.testing.assert_close(network(x, t, table(labels)), wanted, rtol=1e-6, atol=1e-6)
    assert (other - wanted).abs().flatten(1).amax(1).min() > 1e-3
    with pytest.raises(ValueError, match=f"model must have a table of classes, got a {kind} without one"):
        separated(model)


def test_only_the_table_is_trained_and_a_row_learns_from_its_own_samples():
    torch.manual_seed(0)
    network, table = ContextNetwork(latent_unet(**UNETS["two levels"])).requires_grad_(False), nn.Embedding(6, 12)
    x, t, labels = torch.randn(3, 3, 8, 8), torch.tensor([5.0, 90.0, 800.0]), torch.tensor([1, 4, 4])
    (network(x, t, table(labels)) - x).square().mean().backward()
    assert all(p.grad is None for p in network.parameters())
    assert (table.weight.grad.abs().sum(1) > 0).tolist() == [False, True, False, False, True, False]


def test_samples_of_a_batch_know_nothing_of_each_other():
    torch.manual_seed(0)
    network = ContextNetwork(alive(latent_unet(**UNETS["two levels"])))
    x, t = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([1.0, 50.0, 500.0, 999.0], dtype=torch.float64)
    context = torch.randn(4, 12, dtype=torch.float64)
    alone = torch.cat([network(x[i:i + 1], t[i:i + 1], context[i:i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, t, context), alone)
    for wrong in (context[:1], context[:, None], context[0]):
        with pytest.raises(ValueError, match="context must have shape"): network(x, t, wrong)


# files

def a_state(seed=0):
    "What a small file of the original holds."
    torch.manual_seed(seed)
    models = latent_unet(**UNETS["two levels"]), vq_autoencoder(**AUTOENCODERS["one level"]), nn.Embedding(11, 12)
    schedule = latent_betas()
    cumulative = schedule.alpha(torch.arange(1000)) ** 2
    return models, {"betas": schedule.betas.float(), "alphas_cumprod": cumulative.float(), "logvar": torch.zeros(1000),
                    **{name: tensor for model in models for name, tensor in to_compvis(model).items()}}


def load(path, **changes):
    settings = dict(unet=UNETS["two levels"], autoencoder=AUTOENCODERS["one level"], classes=11)
    return load_latent(path, **{**settings, **changes})


@pytest.mark.parametrize("suffix", ("ckpt", "safetensors"))
def test_a_file_is_loaded_whole(tmp_path, suffix):
    (unet, autoencoder, table), state = a_state()
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt": torch.save({"state_dict": state, "global_step": 178_000}, path)
    else: safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    network, rows, coder = load(path)
    for ours, theirs in ((network.model, unet), (rows, table), (coder, autoencoder)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(tensor.equal(theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
        assert not ours.state_dict()[next(iter(ours.state_dict()))].is_meta
    trained = [p for part in (network, rows, coder) for p in part.parameters() if p.requires_grad]
    assert len(trained) == 1 and trained[0] is rows.weight
    assert not network.training and not coder.training


def test_a_file_of_another_network_or_noise_is_refused(tmp_path):
    _, state = a_state()
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path)
    linear = state | {"betas": linear_betas().betas.float()}
    torch.save({"state_dict": linear}, tmp_path / "linear.ckpt")
    for wrong, said in (
        (lambda: load(path, classes=9), "cond_stage_model.embedding.weight must have shape (9, 12), got (11, 12)"),
        (lambda: load(path, unet={**UNETS["two levels"], "context": 8}), "must have shape (32, 8), got (32, 12)"),
        (lambda: load(path, unet={**UNETS["two levels"], "blocks": 2}), " missing, the first model.diffusion_model"),
        (lambda: load(path, autoencoder=AUTOENCODERS["three levels"]), " missing, the first first_stage_model"),
        (lambda: load(tmp_path / "linear.ckpt"), "betas must be those of the schedule: at 0 0.0015, got 0.0001"),
    ):
        with pytest.raises(ValueError) as error: wrong()
        assert said in str(error.value) and "\n" not in str(error.value)


def test_the_first_entry_that_differs_is_named():
    schedule, (_, state) = latent_betas(), a_state()
    check_schedule(state, schedule)
    for name, i, value in (("betas", 0, 0.0016), ("betas", 999, math.nan), ("alphas_cumprod", 500, 0.2)):
        changed = {**state, name: state[name].clone()}
        changed[name][i:] = value
        with pytest.raises(ValueError, match=f"{name} must be those of the schedule: at {i} .*, got {value}"):
            check_schedule(changed, schedule)
    for name in ("betas", "alphas_cumprod"):
        with pytest.raises(ValueError, match=f"{name} must have 1000 entries, got 0"):
            check_schedule({n: v for n, v in state.items() if n != name}, schedule)


def test_tensors_are_those_that_torch_reads(tmp_path):
    torch.manual_seed(0)
    big = torch.randn(6, 8)
    state = {"transposed": big.T, "slice": big[1:4, ::2], "scalar": torch.tensor(3.5), "half": big.half(),
             "double": big.double(), "long": torch.arange(5), "int": torch.arange(3, dtype=torch.int32),
             "last": big.view(2, 3, 2, 4).contiguous(memory_format=torch.channels_last)}
    torch.save({"state_dict": collections.OrderedDict(state)}, tmp_path / "x.ckpt")
    ours = read_compvis(tmp_path / "x.ckpt")
    theirs = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].equal(tensor) and ours[name].dtype == tensor.dtype and ours[name].stride() == tensor.stride()


class Settings(dict):
    "A dictionary of a framework's own kind."


class Callback:
    def __init__(self, best): self.best, self.monitor = best, "val/loss"


class Calls:
    "Pickled as a call."
    def __init__(self, function, *arguments): self.function, self.arguments = function, arguments
    def __reduce__(self): return self.function, self.arguments
    def __call__(self, *arguments): raise AssertionError


class Fills:
    "Pickled as a call that is then given items, entries and a state."
    def __init__(self, *arguments): self.arguments = arguments
    def __reduce__(self): return os.system, self.arguments, {"a": 1}, iter([1, 2, 3]), iter([("k", "v")])


def test_what_a_framework_leaves_beside_the_tensors_is_passed_over(tmp_path):
    state = {"weight": torch.randn(3, 2)}
    layer = nn.Linear(2, 3)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(1, 2)).sum().backward()
    adam.step()
    torch.save({
        "state_dict": state, "optimizer_states": [adam.state_dict()], "hyper_parameters": Settings(lr=1e-5),
        "callbacks": {Callback: {"best_model_score": torch.tensor(0.5), "object": Callback(0.5)}},
        "dtype": torch.float16,
        "device": torch.device("cpu"), "deque": collections.deque([1]), "set": {Callback}, "model": layer,
        "default": collections.defaultdict(list, a=[1]), "path": tmp_path, "flags": torch.tensor([True]),
    }, tmp_path / "x.ckpt")
    found = read_compvis(tmp_path / "x.ckpt")
    assert found.keys() == {"weight"} and found["weight"].equal(state["weight"])


def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "broken-into"
    script, code = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    system = Calls(getattr, Calls(__import__, "os"), "system")
    intruders = [Calls(os.system, script), Calls(os.mkdir, str(mark)), Calls(eval, code), Calls(exec, code),
                 Fills(script), system, Calls(system, script), Calls(subprocess.Popen, ["touch", str(mark)]),
                 Calls(pickle.loads, pickle.dumps(Calls(os.system, script)))]
    for n, intruder in enumerate(intruders):
        path = tmp_path / f"{n}.ckpt"
        torch.save({"intruder": intruder, "state_dict": {"weight": torch.ones(2), "intruder": intruder}}, path)
        assert read_compvis(path)["weight"].tolist() == [1, 1] and not mark.exists()
        torch.save({"state_dict": intruder}, path)
        with pytest.raises(ValueError, match="path must be a whole .ckpt with a state_dict"): read_compvis(path)
        assert not mark.exists()
    torch.load(tmp_path / "0.ckpt", weights_only=False)  # who trusts the file is broken into
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_files_that_are_not_whole_or_something_else_are_refused_in_one_line(tmp_path):
    path = tmp_path / "x.ckpt"
    good = {"state_dict": {"weight": torch.randn(300)}}
    torch.save(good, path)
    whole = path.read_bytes()
    others = {"empty": b"", "text": b"weights", "pickle": pickle.dumps({"state_dict": {}}),
              **{f"cut {n}": whole[:n] for n in range(100, len(whole), 311)}}
    start = whole.index(good["state_dict"]["weight"].numpy().tobytes())
    others["a bit"] = whole[:start + 40] + bytes([whole[start + 40] ^ 1]) + whole[start + 41:]
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as error: read_compvis(tmp_path / name)
        said = f"path must be a whole .ckpt with a state_dict, or safetensors, got {tmp_path / name}"
        assert str(error.value) == said, name
    torch.save(good["state_dict"], path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive: archive.writestr("a.txt", "b")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    torch.save(good, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("x.ckpt", "other.zip", "scripted.pt", "old.ckpt"):
        with pytest.raises(ValueError, match="path must be a whole .ckpt"): read_compvis(tmp_path / name)
    for name in ("none.ckpt", "."):
        with pytest.raises(ValueError, match="path must be a file, got"): read_compvis(tmp_path / name)


def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(7)}}, path)
    with zipfile.ZipFile(path) as archive: records = {n: archive.read(n) for n in archive.namelist()}
    def written(length):
        "The same file, whose tensor claims to be so long."
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items(): archive.writestr(name, content.replace(b"K\x07\x85", length))
        return path
    assert read_compvis(written(b"K\x06\x85"))["weight"].shape == (6,)
    with pytest.raises(ValueError, match="path must be a whole .ckpt"): read_compvis(written(b"K\x09\x85"))


def test_the_module_is_there_without_diffusers(root):
    code = "import sys, uncpaper.models.latent as m; m.read_compvis; print('diffusers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout
    assert said.strip() == "False"
