"""Try launch shapes of the kernels in ``virnucpro.encoders.kernels.products`` on this GPU, for the products of published models.

Every shape is first checked against fp32 in a process of its own; then all that passed are timed, and the best ones again under
lasting load, beside cuBLAS in fp16.

usage: python benchmarks/tune_products.py --json tune.json [--tokens 32768] [--seconds 100]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
import triton

from virnucpro.encoders.int8 import rotate as rotated
from virnucpro.encoders.kernels import pointwise
from virnucpro.encoders.kernels.products import Tiling, product

BEGAN = time.perf_counter()


@dataclass(frozen=True)
class Case:
    """A product as an encoder has it."""

    name: str
    columns: int
    inner: int
    int8: bool
    bias: bool = False
    activation: str = ""
    accumulate: bool = False
    tokens: int = 32768

    def mode(self) -> Case:
        """What kernels are compiled for on its account: a small case for checks."""
        return replace(self, name="", columns=512, inner=768, tokens=1031)

    @property
    def operations(self) -> float:
        return 2.0 * self.tokens * self.columns * self.inner


def esm2(size: str, width: int) -> list[Case]:
    return [
        Case(f"{size} qkv", 3 * width, width, True, bias=True),
        Case(f"{size} out", width, width, True, accumulate=True),
        Case(f"{size} fc1", 4 * width, width, True, bias=True, activation="gelu"),
        Case(f"{size} fc2", width, 4 * width, True, accumulate=True),
    ]


GATED = [
    Case("DNABERT-S gated", 6144, 768, False, activation="gated_gelu", tokens=65536),
    Case("ESM C 600M gated", 6144, 1152, False, activation="gated_silu"),
]
MODELS = {"3B": esm2("3B", 2560), "650M": esm2("650M", 1280)}


def tilings(case: Case) -> list[Tiling]:
    """What is tried."""
    if case.int8:
        found = [
            *(Tiling(128, 128, 128, 4, 3, group, 2, programs=2, flatten=True) for group in (4, 8, 16)),
            Tiling(128, 128, 128, 4, 3),
            Tiling(128, 128, 128, 4, 3, group=16),
            Tiling(128, 128, 64, 4, 6, parts=2, programs=2, flatten=True),
            *(Tiling(128, 256, 128, 8, 4, group, 2, programs=1, flatten=True) for group in (4, 8, 16)),
            Tiling(128, 256, 128, 8, 4, group=16, parts=2),
            Tiling(256, 128, 128, 8, 4, parts=2, programs=1, flatten=True),
            Tiling(256, 128, 128, 8, 3, parts=2, programs=1, flatten=True),
            Tiling(256, 128, 128, 8, 4),
            Tiling(128, 256, 64, 8, 4, tma=False),
            Tiling(128, 128, 64, 4, 4, tma=False),
        ]
    else:
        found = [
            *(Tiling(128, 256, 64, 8, 3, group, programs=1, flatten=True) for group in (4, 8, 16)),
            Tiling(128, 256, 64, 8, 3, parts=2, programs=1, flatten=True),
            Tiling(128, 256, 64, 8, 4, programs=1, flatten=True),
            Tiling(128, 256, 64, 8, 4, parts=2, programs=1, flatten=True),
            Tiling(256, 128, 64, 8, 3, programs=1, flatten=True),
            Tiling(256, 128, 64, 8, 4),
            Tiling(128, 128, 64, 4, 3, group=16),
            Tiling(128, 128, 64, 4, 3, tma=False),
        ]
    if case.accumulate:
        found += [replace(each, reduce=True) for each in found if each.tma]
    return found


def operands(case: Case) -> dict:
    """Random ones, as ``product`` takes them, and ``reference``'s."""
    torch.manual_seed(0)
    x = torch.randn(case.tokens, case.inner, device="cuda").half()
    weight = (torch.randn(case.columns, case.inner, device="cuda") / case.inner**0.5).half()
    width = case.columns // (2 if case.activation.startswith("gated") else 1)
    given = {"out": torch.randn(case.tokens, width, device="cuda").half()}
    given |= {"bias": torch.randn(case.columns, device="cuda").half()} if case.bias else {}
    given |= {"activation": case.activation, "accumulate": case.accumulate}
    if not case.int8:
        return given | {"a": x, "b": weight}
    (a, scales), (b, weight_scales) = pointwise.quantise(x, True), pointwise.quantise(weight, True)
    return given | {"a": a, "b": b, "scales": scales, "weight_scales": weight_scales}


def reference(given: dict) -> torch.Tensor:
    value = given["a"].double() @ given["b"].double().t()
    if "scales" in given:
        value = value * given["scales"] * given["weight_scales"].t()
    value = value + given["bias"].double() if "bias" in given else value
    if given["activation"] == "gelu":
        value = F.gelu(value)
    elif given["activation"]:
        gate, values = value[:, ::2], value[:, 1::2]
        value = (F.gelu(gate) if given["activation"] == "gated_gelu" else F.silu(gate)) * values
    return value + given["out"].double() if given["accumulate"] else value


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def checked(mode: Case, tiling: Tiling) -> str | float:
    """Compile and check, in a worker: the relative error, or why it can't be used."""
    began = time.perf_counter()
    try:
        given = operands(mode)
        error = relative(product(**(given | {"out": given["out"].clone()}), tiling=tiling), reference(given))
        torch.cuda.synchronize()
    except Exception as problem:
        try:
            torch.cuda.synchronize()
        except Exception:  # nothing works any more in a process after an illegal access
            os._exit(1)
        return repr(problem)[:300]
    return error if error < 2e-3 else f"error {error:.3g} after {time.perf_counter() - began:.1f} s"


def check_all(cases: Iterable[Case], seconds: float) -> dict[tuple[Case, Tiling], str | float]:
    """By mode and tiling: the error, or what is wrong."""
    todo = sorted({(case.mode(), tiling) for case in cases for tiling in tilings(case)}, key=repr)
    results: dict[tuple[Case, Tiling], str | float] = {}
    end = time.perf_counter() + seconds
    for workers in (min(14, os.cpu_count() or 1), 4):  # a second time for what a broken worker took with it
        rest = [each for each in todo if each not in results]
        if not rest or time.perf_counter() > end:
            break
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        futures = {pool.submit(checked, *each): each for each in rest}
        done, _ = wait(futures, timeout=end - time.perf_counter())
        for future in done:
            if future.exception() is None:
                results[futures[future]] = future.result()
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
    for each in todo:
        results.setdefault(each, "broke its process, or took too long")
    return results


def milliseconds(call: Callable[[], object], runs: int = 10, warm: int = 3) -> float:
    """Of one call, while the host is ahead."""
    for _ in range(warm):
        call()
    torch.cuda._sleep(3_000_000)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / runs


def lasting(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds of each call in turn with the others, so that all see the same clock: the median of several turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            times[name].append(milliseconds(call, 20, 5))
    return {name: sorted(each)[len(each) // 2] for name, each in times.items()}


def rivals(case: Case, given: dict) -> dict[str, Callable[[], object]]:
    """What there is without our kernel, for the same product."""
    half = {"device": "cuda", "dtype": torch.float16}
    x = torch.randn(case.tokens, case.inner, **half)
    weight = torch.randn(case.columns, case.inner, **half) / case.inner**0.5
    bias, out = torch.randn(case.columns, **half), given["out"]
    if case.activation.startswith("gated"):
        silu = case.activation == "gated_silu"
        return {
            "cuBLAS fp16 + glu": lambda: pointwise.glu(x @ weight.t(), silu),
            "cuBLAS fp16 alone": lambda: x @ weight.t(),
        }
    if case.accumulate:
        calls = {"cuBLAS fp16": lambda: out.addmm_(x, weight.t())}
    elif case.activation:
        calls = {"cuBLAS fp16": lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True)}
    else:
        calls = {"cuBLAS fp16": lambda: F.linear(x, weight, bias)}
    return calls


def measure(case: Case, usable: list[Tiling], seconds: float) -> tuple[list[dict], Callable[[], object] | None, dict]:
    """Rows of all tilings, the best one's call, the rivals'."""
    given = operands(case)
    calls = {repr(each): partial(product, **given, tiling=each) for each in usable}
    rows = []
    for tiling, call in zip(usable, calls.values(), strict=True):
        rows.append({"case": case.name, "tiling": asdict(tiling), "ms": milliseconds(call)})
    rows.sort(key=lambda row: row["ms"])
    best = [repr(Tiling(**row["tiling"])) for row in rows[:4]]
    others = rivals(case, given)
    found = lasting({name: calls[name] for name in best} | others, seconds)
    for row in rows:
        row["lasting_ms"] = found.get(repr(Tiling(**row["tiling"])))
        row["tflops"] = case.operations / (row["lasting_ms"] or row["ms"]) / 1e9
    rows.sort(key=lambda row: row["lasting_ms"] or 1e9)
    for name in others:
        rows.append({"case": case.name, "rival": name, "lasting_ms": found[name]})
        rows[-1]["tflops"] = case.operations / found[name] / 1e9
    chosen = calls[repr(Tiling(**rows[0]["tiling"]))] if usable else None
    return rows, chosen, others


def short(tiling: dict) -> str:
    given = Tiling(**tiling)
    words = [f"{given.m}x{given.n}x{given.k} w{given.warps} s{given.stages} g{given.group} p{given.parts}"]
    words += [f"x{given.programs}"] if given.programs else []
    words += [name for name in ("flatten", "reduce") if getattr(given, name)]
    return " ".join(words if given.tma else [*words, "no TMA"])


def between(tokens: int) -> list[dict]:
    """LayerNorm and rounding to int8: milliseconds and errors, by warps and rows of a program."""
    rows, tables = [], (pointwise.NORM, pointwise.NORM_INT8, pointwise.QUANTISE_WARPS)
    before = [dict(table) for table in tables]

    def add(
        what: str, width: int, shape: tuple, moved: int, call: Callable, wanted: torch.Tensor | None = None
    ) -> None:
        try:
            ms = milliseconds(call)
            row = {"kernel": what, "width": width, "shape": shape, "ms": ms, "GB/s": moved / ms / 1e6}
            if wanted is not None:
                values, scales = call()
                row["error"] = relative(values[:64].float() * scales[:64], wanted[:64])
            rows.append(row)
        except Exception as problem:
            rows.append({"kernel": what, "width": width, "shape": shape, "failed": repr(problem)[:200]})

    for width in (1280, 2560):
        x = torch.randn(tokens, width, device="cuda").half()
        module = torch.nn.LayerNorm(width, device="cuda", dtype=torch.float16)
        normed = rotated(module(x[:64]).detach().float())
        block = triton.next_power_of_2(width)
        for shape in ((1, 1), (1, 2), (1, 4), (2, 4), (1, 8), (2, 8)):
            pointwise.NORM[block] = pointwise.NORM_INT8[block] = shape
            size = tokens * width
            add("norm fp16", width, shape, 4 * size, partial(pointwise.norm, x, module))
            add("norm int8", width, shape, 3 * size, partial(pointwise.norm_quantised, x, module, True), normed)
        for wide in (width, 4 * width):
            x = torch.randn(tokens, wide, device="cuda").half()
            for warps in (1, 2, 4, 8, 16):
                pointwise.QUANTISE_WARPS[1 << (wide.bit_length() - 1)] = warps
                call = partial(pointwise.quantise, x, True)
                add("quantise int8", wide, (1, warps), 3 * tokens * wide, call, rotated(x[:64].float()))
    for table, shapes in zip(tables, before, strict=True):
        table |= shapes
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file for all figures")
    parser.add_argument("--tokens", type=int, default=32768, help="of ESM-2; DNABERT-S takes its own 65,536")
    parser.add_argument("--seconds", type=float, default=100, help="end by then, with what there is")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    result: dict = {"torch": torch.__version__, "triton": triton.__version__, "rows": [], "best": {}, "blocks": {}}
    models = {name: [replace(each, tokens=arguments.tokens) for each in cases] for name, cases in MODELS.items()}
    try:
        checks = check_all([*chain(*models.values()), *GATED], 0.55 * arguments.seconds)
        passed = [error for error in checks.values() if isinstance(error, float)]
        print(
            f"{len(checks)} kernels checked in {time.perf_counter() - BEGAN:.0f} s, {len(passed)} right; largest error:"
        )
        print(f"  {max(passed, default=float('nan')):.2e}")
        result["refused"] = []
        for (mode, tiling), why in checks.items():
            if isinstance(why, str):
                print(f"refused: {short(asdict(tiling))} {mode.activation} {mode.accumulate}: {why}")
                result["refused"].append([repr(mode), repr(tiling), why])
        result["device"] = torch.cuda.get_device_name()
        print(result["device"])
        groups = [*models.items(), ("gated", GATED)]
        for group, cases in groups:
            chosen: dict[str, list] = {"int8": [], "cuBLAS fp16": []}
            for case in cases:
                left = arguments.seconds - (time.perf_counter() - BEGAN)
                if left < 5:
                    print("no time left")
                    return
                usable = [each for each in tilings(case) if isinstance(checks[case.mode(), each], float)]
                rows, call, others = measure(case, usable, min(1.0, left / 20))
                result["rows"] += rows
                result["best"][case.name] = rows[0]
                print(f"{case.name}: {case.tokens} x {case.columns} x {case.inner}")
                timed = [row for row in rows if row["lasting_ms"]]
                slower = sorted((row for row in rows if not row["lasting_ms"]), key=lambda row: row["ms"])[:8]
                for row in [*timed, *slower]:
                    name = row.get("rival") or short(row["tiling"])
                    ms = row["lasting_ms"] or row["ms"]
                    mark = "" if row["lasting_ms"] else " (short)"
                    print(f"  {ms:7.3f} ms {row['tflops']:6.0f} TFLOPS  {name}{mark}")
                chosen["int8"].append(call)
                chosen["cuBLAS fp16"].append(others.get("cuBLAS fp16"))
            if group == "gated" or None in chosen["int8"]:
                continue
            whole = {name: partial(lambda calls: [call() for call in calls], calls) for name, calls in chosen.items()}
            result["blocks"][group] = lasting(whole, 2.0)
            print(f"{group}, products of a block, ms:", {k: round(v, 3) for k, v in result["blocks"][group].items()})
        result["between"] = between(arguments.tokens)
        for row in result["between"]:
            print("  " + " ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    except Exception:
        traceback.print_exc()
        result["traceback"] = traceback.format_exc()
        sys.exit(1)
    finally:
        arguments.json.write_text(json.dumps(result, indent=1))
        print(f"{time.perf_counter() - BEGAN:.0f} s; figures in {arguments.json}")


if __name__ == "__main__":
    main()
