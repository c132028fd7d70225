"""The device to work on, its name, and the compiled network."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from ddpmlib.training import parallel


def compile_network(model: nn.Module) -> None:
    """Run the network inside ``model``, or the model itself, through torch.compile, in place.

    What surrounds the network is a few cheap operations that look at their arguments. Weights keep
    their names. On a CUDA GPU the kernels of a call are launched as one graph.
    """
    network = getattr(model, "net", model)
    on_gpu = next(model.parameters()).device.type == "cuda"
    network.compile(mode="reduce-overhead" if on_gpu else None)


def default_device() -> torch.device:
    """A CUDA GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def hardware(device: torch.device) -> str:
    """The processor that did the work, with its threads, and how many processes shared it."""
    several = f", {parallel.size()} processes" if parallel.size() > 1 else ""
    if device.type == "cuda":
        return device_name(device) + several
    threads = torch.get_num_threads()
    return f"{device_name(device)}, {threads} thread{'s' if threads > 1 else ''}{several}"


def device_name(device: torch.device) -> str:
    """The name of the GPU, or else of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """The name that this machine's CPU gives itself."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":")[1]
            for line in info.read_text("utf-8").splitlines()
            if "model name" in line
        ]
        cpu = models[0].strip() if models else cpu
    return cpu
