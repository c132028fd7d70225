"""The three libraries behind one interface, each used as its own documentation uses it.

Every method returns a call without arguments that does one unit of work; rows.py times it. Peers
are imported where they are used, so that a missing one only loses its column.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.sizes import Size
from benchmarks.timing import Call
from ddpmlib.data import Batches, random_flip, to_float
from ddpmlib.denoiser import Denoiser
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import linear
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.training import Settings, Trainer
from ddpmlib.zoo import DiffusionRecipe

T = 1000
LR = 1e-4


@dataclass(frozen=True)
class Way:
    """How a network runs: plain (fp32, eager), in bfloat16 by autocast, compiled."""

    bf16: bool = False
    compile: bool = False

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def ready(self, net: nn.Module, device: torch.device) -> nn.Module:
        """The network on its device, compiled in place if asked for."""
        net = net.to(device)
        if self.compile:
            net.compile()
        return net


class Library(Protocol):
    """What rows.py asks of each; ``images`` are uint8 (N, C, H, W) in main memory."""

    name: str
    package: str

    def net(self, size: Size) -> nn.Module:
        """The U-Net with fresh weights."""

    def training(
        self, size: Size, images: Tensor, device: torch.device, way: Way, documented: bool
    ) -> Call:
        """One optimiser update with gradient clipping and averaged weights.

        ``documented`` fetches every batch the library's own way; otherwise peers find the same
        batch ready on the device each time.
        """

    def sampling(self, size: Size, device: torch.device, way: Way, n: int, steps: int) -> Call:
        """A chain of DDIM steps for n images, from noise to the end."""

    def stepping(self, size: Size, device: torch.device, n: int, steps: int, eta: float) -> Call:
        """The same chain with a constant in place of the network: DDIM (0) or ancestral (1)."""

    def averaging(self, size: Size, device: torch.device) -> Call:
        """One update of the averaged weights."""

    def loading(self, images: Tensor, batch: int, device: torch.device) -> Call:
        """The next shuffled, mirrored and scaled batch on the device."""


class Constant(nn.Module):
    """Says the same at every time; with the three attributes that one peer asks a network for."""

    self_condition = False

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output
        self.channels = self.out_dim = output.shape[1]

    def forward(self, x: Tensor, t: Tensor, other: Tensor | None = None) -> Tensor:
        return self.output


# ---- ours --------------------------------------------------------------------------------------


class Ours:
    """`ddpmlib`: a recipe, its trainer, one loop for all samplers."""

    name, package = "ddpmlib", "ddpmlib"

    def net(self, size: Size) -> nn.Module:
        return self.recipe(size).build().net

    def recipe(self, size: Size) -> DiffusionRecipe:
        """The recipe of a size; the name of its data is only a word here."""
        settings = Settings(steps=10**6, batch_size=size.batch, lr=LR, warmup=500, ema=0.9999)
        options: dict[str, Any] = {"schedule": "linear", "predicts": "eps", "flip": True}
        return DiffusionRecipe("benchmark", "cifar10", size.unet, settings, **options)

    def trainer(self, size: Size, images: Tensor, device: torch.device, way: Way) -> Trainer:
        """Everything that trains."""
        recipe = self.recipe(size)
        model, loss, settings = recipe.build(), recipe.loss(), recipe.settings
        options: dict[str, Any] = {"device": device, "bf16": way.bf16, "compile": way.compile}
        return Trainer(model, loss, images, None, settings, **options)

    def training(
        self, size: Size, images: Tensor, device: torch.device, way: Way, documented: bool
    ) -> Call:
        return self.trainer(size, images, device, way).update

    def sampling(self, size: Size, device: torch.device, way: Way, n: int, steps: int) -> Call:
        denoiser = self.recipe(size).build().to(device).eval()
        denoiser.net = way.ready(denoiser.net, device)
        times = uniform_times(T, steps)

        def chain() -> Tensor:
            noise = torch.randn(n, *size.image_shape, device=device)
            with way.autocast(device):
                return draw(denoiser, denoiser.process, noise, times, eta=0.0)

        return chain

    def stepping(self, size: Size, device: torch.device, n: int, steps: int, eta: float) -> Call:
        x, process = torch.randn(n, *size.image_shape, device=device), DDPM(linear(T))
        denoiser = Denoiser(Constant(torch.randn_like(x)), process)
        times = uniform_times(T, steps)
        return lambda: draw(denoiser, process, x, times, eta=eta)

    def averaging(self, size: Size, device: torch.device) -> Call:
        images = torch.zeros(size.batch, *size.image_shape, dtype=torch.uint8)
        trainer = self.trainer(size, images, device, Way())
        return lambda: trainer.ema.update(trainer.model, 10**6)

    def loading(self, images: Tensor, batch: int, device: torch.device) -> Call:
        x, batches, k = images.to(device), Batches(len(images), batch, 0), itertools.count()
        generator = torch.Generator(device).manual_seed(0)

        def fetch() -> Tensor:
            return random_flip(to_float(x[batches[next(k)].to(device)]), generator)

        return fetch


# ---- diffusers ---------------------------------------------------------------------------------


class Diffusers:
    """After the training tutorial and the script for unconditional images, with `--use_ema`."""

    name, package = "diffusers", "diffusers"

    def net(self, size: Size) -> nn.Module:
        from diffusers import UNet2DModel

        unet = size.unet
        return UNet2DModel(
            sample_size=size.side,
            in_channels=unet.channels,
            out_channels=unet.channels,
            block_out_channels=tuple(unet.width * m for m in unet.mults),
            layers_per_block=unet.blocks,
            down_block_types=tuple(f"{_attn(a)}DownBlock2D" for a in unet.attention),
            up_block_types=tuple(f"{_attn(a)}UpBlock2D" for a in reversed(unet.attention)),
            resnet_time_scale_shift="scale_shift",
            **size.diffusers,
        )

    def training(
        self, size: Size, images: Tensor, device: torch.device, way: Way, documented: bool
    ) -> Call:
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_cosine_schedule_with_warmup

        net = way.ready(self.net(size), device)
        options: dict[str, Any] = {"betas": (0.95, 0.999), "weight_decay": 1e-6}
        optimiser = torch.optim.AdamW(net.parameters(), lr=LR, **options)
        rate = get_cosine_schedule_with_warmup(optimiser, 500, 10**6)
        scheduler, ema = DDPMScheduler(num_train_timesteps=T), self._ema(net)
        batches = _batches(_centred(size.side), images, size.batch, device, documented)

        def update() -> None:
            x = next(batches)
            eps = torch.randn(x.shape, device=device)
            t = torch.randint(0, T, (len(x),), device=device, dtype=torch.int64)
            noisy = scheduler.add_noise(x, eps, t)
            with way.autocast(device):
                said = net(noisy, t, return_dict=False)[0]
                loss = nn.functional.mse_loss(said.float(), eps)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad()
            ema.step(net.parameters())

        return update

    def sampling(self, size: Size, device: torch.device, way: Way, n: int, steps: int) -> Call:
        from diffusers import DDIMPipeline, DDIMScheduler

        net = way.ready(self.net(size).eval(), device)
        pipeline = DDIMPipeline(net, DDIMScheduler(num_train_timesteps=T))
        pipeline.set_progress_bar_config(disable=True)

        def chain() -> object:
            with way.autocast(device):
                return pipeline(n, num_inference_steps=steps, output_type="pt")

        return chain

    def stepping(self, size: Size, device: torch.device, n: int, steps: int, eta: float) -> Call:
        from diffusers import DDIMScheduler, DDPMScheduler

        cls = DDPMScheduler if eta else DDIMScheduler
        scheduler = cls(num_train_timesteps=T, clip_sample=False)  # as ours: nothing is clipped
        scheduler.set_timesteps(steps)
        x = torch.randn(n, *size.image_shape, device=device)
        output = torch.randn_like(x)

        @torch.no_grad()
        def chain() -> Tensor:
            now = x
            for t in scheduler.timesteps:
                now = scheduler.step(output, t, now).prev_sample
            return now

        return chain

    def averaging(self, size: Size, device: torch.device) -> Call:
        net = self.net(size).to(device)
        ema = self._ema(net)
        return lambda: ema.step(net.parameters())

    def loading(self, images: Tensor, batch: int, device: torch.device) -> Call:
        side = images.shape[-1]
        return _batches(_centred(side), images, batch, device, documented=True).__next__

    def _ema(self, net: nn.Module) -> Any:
        from diffusers.training_utils import EMAModel

        return EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, power=3 / 4)


# ---- denoising-diffusion-pytorch ---------------------------------------------------------------


class Lucidrains:
    """After its README and the loop of its `Trainer`, which itself reads image files only."""

    name, package = "denoising-diffusion-pytorch", "denoising_diffusion_pytorch"

    def net(self, size: Size) -> nn.Module:
        from denoising_diffusion_pytorch import Unet

        channels, full = size.unet.channels, size.unet.attention
        options = size.lucidrains | {"full_attn": full, "flash_attn": True}
        return Unet(channels=channels, **options)

    def training(
        self, size: Size, images: Tensor, device: torch.device, way: Way, documented: bool
    ) -> Call:
        from ema_pytorch import EMA

        net = way.ready(self.net(size), device)
        diffusion = self._diffusion(net, size, timesteps=T).to(device)
        optimiser = torch.optim.Adam(net.parameters(), lr=LR, betas=(0.9, 0.99))
        ema = EMA(diffusion, beta=0.995, update_every=10).to(device)
        batches = _batches(_positive(size.side), images, size.batch, device, documented)

        def update() -> None:
            with way.autocast(device):
                loss = diffusion(next(batches))
            loss.item()  # for their progress bar
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            ema.update()

        return update

    def sampling(self, size: Size, device: torch.device, way: Way, n: int, steps: int) -> Call:
        net = way.ready(self.net(size).eval(), device)
        diffusion = self._diffusion(net, size, timesteps=T, sampling_timesteps=steps).to(device)

        def chain() -> object:
            with way.autocast(device):
                return diffusion.sample(batch_size=n)

        return chain

    def stepping(self, size: Size, device: torch.device, n: int, steps: int, eta: float) -> Call:
        constant = Constant(torch.randn(n, *size.image_shape, device=device))
        # Its ancestral loop visits every time, so that chain is made as long as the others.
        lengths = {"timesteps": steps} if eta else {"timesteps": T, "sampling_timesteps": steps}
        diffusion = self._diffusion(constant, size, **lengths).to(device)
        return lambda: diffusion.sample(batch_size=n)

    def averaging(self, size: Size, device: torch.device) -> Call:
        from ema_pytorch import EMA

        net = self.net(size).to(device)
        ema = EMA(net, beta=0.995, update_every=1, update_after_step=0)
        return ema.update

    def loading(self, images: Tensor, batch: int, device: torch.device) -> Call:
        side = images.shape[-1]
        return _batches(_positive(side), images, batch, device, documented=True).__next__

    def _diffusion(self, net: nn.Module, size: Size, **lengths: int) -> Any:
        from denoising_diffusion_pytorch import GaussianDiffusion

        options = {"objective": "pred_noise", "beta_schedule": "linear"}
        return GaussianDiffusion(net, image_size=size.side, **options, **lengths)


LIBRARIES: tuple[Library, ...] = (Ours(), Diffusers(), Lucidrains())


def present() -> tuple[list[Library], list[str]]:
    """The libraries that can be imported, and a sentence about each that cannot."""
    found = [lib for lib in LIBRARIES if importlib.util.find_spec(lib.package)]
    missing = [
        f"{lib.name} is not installed, so its column is missing; `pip install {lib.name}` adds it."
        for lib in LIBRARIES
        if lib not in found
    ]
    return found, missing


def version(library: Library) -> str:
    """The installed version."""
    return importlib.metadata.version(library.name)


# ---- what the peers' loops share -----------------------------------------------------------------


class Pictures(Dataset[Tensor]):
    """PIL images in memory with a transform, as both peers' documentation has it."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]) -> None:
        from torchvision.transforms.functional import to_pil_image

        self.pictures, self.transform = [to_pil_image(x) for x in images], transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(self.pictures[i])


def _batches(
    transform: Callable[[Any], Tensor],
    images: Tensor,
    batch: int,
    device: torch.device,
    documented: bool,
) -> Iterator[Tensor]:
    """An endless stream: the library's own loader, or its first batch again and again.

    Loaders work in this process: more would take cores that the others do not get.
    """
    dataset = Pictures(images if documented else images[:batch], transform)
    pin = device.type == "cuda"
    loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, pin_memory=pin)
    if not documented:
        return itertools.repeat(next(iter(loader)).to(device))
    return (x.to(device) for _ in itertools.count() for x in loader)


def _centred(side: int) -> Callable[[Any], Tensor]:
    from torchvision import transforms as t

    resize, flip = t.Resize((side, side)), t.RandomHorizontalFlip()
    return t.Compose([resize, flip, t.ToTensor(), t.Normalize([0.5], [0.5])])


def _positive(side: int) -> Callable[[Any], Tensor]:
    from torchvision import transforms as t

    return t.Compose([t.Resize(side), t.RandomHorizontalFlip(), t.CenterCrop(side), t.ToTensor()])


def _attn(attention: bool) -> str:
    return "Attn" if attention else ""
