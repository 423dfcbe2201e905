"""The parts of an encoder around its attention, as functions that can be exchanged: plain, compiled, fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Stages:
    """embed(model, tokens, pack) → x; project(block, x, ...) → q, k, v; finish(block, x, attended) → x; final(model, x) →
    hidden; pool(model, hidden, pack)."""

    name: str
    embed: Callable[..., torch.Tensor]
    project: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    finish: Callable[..., Any]
    final: Callable[..., torch.Tensor]
    pool: Callable[..., torch.Tensor]


def plain_stages(model: Any, block: Any, kind: str) -> Stages:
    """The methods of a model and its blocks, "plain" as they are or "compiled"."""
    model = type(model)
    if kind == "plain":
        return Stages(kind, model.embed, block.project, block.finish, model.final, model.pool_plain)
    project, finish = (torch.compile(stage, dynamic=True) for stage in (block.project, block.finish))
    return Stages("compiled", model.embed, project, finish, model.final, model.pool_plain)


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process; more than a few mean that it compiled again and again."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
