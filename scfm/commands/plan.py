"""``scfm-plan``: what a run needs before it runs, from a formula or from twenty steps."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from scfm.config import build, target
from scfm.data.module import CellData
from scfm.model.backbone import count_parameters
from scfm.model.flops import Work, mean_length
from scfm.training.demo_store import STORES
from scfm.training.fit import make_spec, open_store
from scfm.training.initial_weights import adopt_model, read_origin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """A device's data sheet: dense bf16 FLOP/s (V100: fp16), bytes/s of memory, bytes of memory."""

    peak: float
    bandwidth: float
    memory: float


HARDWARE = {
    "h200": Hardware(989e12, 4.8e12, 141e9),
    "h100": Hardware(989e12, 3.35e12, 80e9),
    "a100": Hardware(312e12, 2.0e12, 80e9),
    "v100": Hardware(125e12, 0.9e12, 32e9),
}
#: What each strategy divides over the devices.
_DIVIDED = {
    "FSDP2": {"weights", "gradients", "optimizer"},
    1: {"optimizer"},
    2: {"optimizer", "gradients"},
    3: {"weights", "gradients", "optimizer"},
}


def run(cfg: DictConfig) -> dict[str, float]:
    """Log the plan line by line, and return its numbers."""
    if cfg.gpu not in HARDWARE:
        raise ValueError(f"gpu={cfg.gpu!r} is not known; known are {', '.join(HARDWARE)}")
    if not 0 < cfg.efficiency <= 1:
        raise ValueError(f"efficiency={cfg.efficiency}; expected a share above 0, at most 1")
    origin = read_origin(cfg)
    if origin is not None:
        cfg = adopt_model(cfg, origin)
    data = build(cfg.data, open_store(cfg.store, cfg.source, cfg.tokenizer, Path(cfg.output).parent / STORES))
    found = plan(cfg, data)
    if cfg.probe:
        found |= probe(cfg, data)
    for name, value in found.items():
        log.info("%-28s %s", name, _readable(name, value))
    if found["memory_gb"] > HARDWARE[cfg.gpu].memory / 1e9:
        log.warning("This does not fit a %s: lower data.tokens_per_batch, or divide it (strategy=fsdp2).", cfg.gpu)
    return found


def plan(cfg: DictConfig, data: CellData) -> dict[str, float]:
    """The numbers by formula."""
    causal = bool(target(cfg.objective).causal)
    n = count_parameters(lambda: build(cfg.model, data.store.vocab, causal=causal))
    devices = max(1, int(cfg.trainer.devices)) * int(cfg.trainer.num_nodes)
    lengths = data.lengths[data.split.train]
    tbar = mean_length(lengths.tolist())
    work, hardware = _work(cfg, data, causal), HARDWARE[cfg.gpu]
    roof = work.roof(
        tbar, products=0.8 * hardware.peak, attention=0.455 * hardware.peak, bandwidth=0.9 * hardware.bandwidth
    )
    rate = cfg.efficiency * roof * devices
    memory = estimate_memory(cfg, n, devices, work)
    total = _tokens(cfg, data, devices, int(lengths.sum()))
    return {
        "parameters": n,
        "devices": devices,
        "gflop_per_token": work.per_token(tbar) / 1e9,
        **{f"{name}_gb": value / 1e9 for name, value in memory.items()},
        "memory_gb": sum(memory.values()) / 1e9,
        "roof_tokens_per_s": roof * devices,
        "expected_tokens_per_s": rate,
        "tokens": total,
        "epochs": total / max(1, int(lengths.sum())),
        "hours": total / rate / 3600,
    }


def estimate_memory(cfg: DictConfig, parameters: int, devices: int, work: Work) -> dict[str, float]:
    """Bytes on one device: weights, gradients, optimizer states (AdamW, float32) and activations.

    Activations are those of Korthikanti et al. 2022 without attention scores: ``18 D + 4 feedforward`` 16-bit numbers'
    bytes for each token and layer, twice that in float32; with ``model.checkpointing`` the inputs of the layers alone
    and one layer whole. The scores of the predicted tokens count twice, for their gradient.
    """
    low = str(cfg.trainer.precision).startswith(("bf16", "16"))
    strategy: Any = cfg.strategy or {}
    kind = strategy.get("stage", str(strategy.get("_target_", "")).rpartition(".")[2])
    divided = _DIVIDED.get(kind, set())
    whole = {"weights": 4.0 * parameters, "gradients": 4.0 * parameters, "optimizer": 8.0 * parameters}
    found = {name: size / devices if name in divided else size for name, size in whole.items()}
    if strategy.get("offload_optimizer"):
        found["optimizer"] = 0.0
    if strategy.get("offload_parameters"):
        found["weights"] = 0.0
    layer = (18 * work.width + 4 * work.feedforward) * (1 if low else 2)
    kept = layer + 2 * work.width * work.layers * (1 if low else 2) if cfg.model.checkpointing else layer * work.layers
    tokens = cfg.data.tokens_per_batch
    scored = min(work.predicted * tokens, 4096) if work.predicted == 1 else work.predicted * tokens
    found["activations"] = float(tokens * kept + 8 * scored * work.vocab)
    return found


def probe(cfg: DictConfig, data: CellData, steps: int = 20) -> dict[str, float]:
    """Tokens per second of one device and its peak memory, over ``steps`` micro-batches after three more to warm up."""
    causal = bool(target(cfg.objective).causal)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    backbone = build(cfg.model, data.store.vocab, causal=causal).to(device)
    task = build(cfg.objective, make_spec(data, backbone.width)).to(device)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-4, fused=True)
    low = str(cfg.trainer.precision).startswith("bf16")
    tokens, began = 0, 0.0
    for step, batch in enumerate(_forever(data)):
        if step == 3:
            _wait(device)
            tokens, began = 0, time.perf_counter()
        if step == 3 + steps:
            break
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = task(backbone, batch.to(device))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.n_tokens
    _wait(device)
    found = {"measured_tokens_per_s": tokens / (time.perf_counter() - began)}
    if device.type == "cuda":
        found["measured_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _forever(data: CellData) -> Any:
    loader = data.train_dataloader()
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _work(cfg: DictConfig, data: CellData, causal: bool) -> Work:
    return Work(
        layers=cfg.model.layers,
        width=cfg.model.width,
        feedforward=cfg.model.feedforward,
        vocab=len(data.store.vocab),
        transform=not causal,
        predicted=1.0 if causal else cfg.objective.get("mask_fraction", 0.15),
    )


def _tokens(cfg: DictConfig, data: CellData, devices: int, epoch: int) -> float:
    """Tokens of the whole run."""
    ends = []
    if cfg.trainer.max_steps > 0:
        ends.append(cfg.trainer.max_steps * (cfg.data.tokens_per_step or cfg.data.tokens_per_batch * devices))
    if cfg.trainer.max_epochs:
        ends.append(cfg.trainer.max_epochs * epoch)
    if not ends:
        raise ValueError("the run has no end: give trainer.max_steps=... or trainer.max_epochs=...")
    return float(min(ends))


def _readable(name: str, value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.3g}"
