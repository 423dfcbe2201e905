"""Compile every kernel as the library would launch it, for one kind of GPU, without having one.

Each must fit into that GPU's shared memory, keep its values in registers, and move what it can 16 bytes at a time.

usage: compile_ahead.py CAPABILITY (80, 86, 89, 90 or 100) [widest: the attention that takes most memory];
prints a line per kernel, fails where one doesn't fit.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from virnucpro.encoders.kernels import attention, pointwise, products
from virnucpro.encoders.kernels.products import Tiling

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227}  # kB that one program may use
A_FEW_REGISTERS = 160  # bytes; fewer registers and one more program at a time were measured to pay
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


def compiled(kernel, signature: dict[str, str], constants: dict, capability: int):
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in constants}
    signature = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    aligned = {  # in the library's calls pointers and strides are, apart from those that are not specialised
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(signature.items())
        if name != "cu_seqlens" and (kind.startswith("*") or name.startswith("stride") or name in ("columns", "inner"))
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def disassembled(binary: bytes) -> tuple[int, str]:
    """Bytes of local memory per thread, which is where registers that don't fit go; and the machine code."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        usage, code = (
            subprocess.run([tools / name, option, file.name], capture_output=True, text=True, check=True).stdout
            for name, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    return int(re.search(r"STACK:(\d+)", usage).group(1)), code


def product_cases(pointer: str, capability: int) -> list[tuple]:
    """Products as ESM-2 has them in int8, and with gates where these are used, in one half precision."""
    cases = []
    number = (capability // 10, capability % 10)
    products_of_3b = ((2560, False, False), (2560, True, False), (2560, False, True), (10240, False, True))
    for inner, gelu, accumulate in products_of_3b if pointer == "*fp16" else ():
        tiling = products.int8_tiling(number, inner, gelu, accumulate)
        ends = {"SCALED": True, "BIAS": not accumulate, "ACTIVATION": "gelu" if gelu else "", "ACCUMULATE": accumulate}
        if (case := product_case("*i8", pointer, tiling, ends)) not in cases:
            cases.append(case)
    if number in products.GATED_TILINGS:
        ends = {"SCALED": False, "BIAS": False, "ACTIVATION": "gated_gelu", "ACCUMULATE": False}
        cases.append(product_case(pointer, pointer, products.GATED_TILINGS[number], ends))
    return cases


def product_case(operand: str, result: str, tiling: Tiling, ends: dict) -> tuple:
    width = tiling.n // tiling.parts // (2 if ends["ACTIVATION"].startswith("gated") else 1)
    kinds = (("a", operand, tiling.m, tiling.k), ("b", operand, tiling.n, tiling.k), ("out", result, tiling.m, width))
    signature = {
        name: f"tensordesc<{kind[1:]}[{rows},{columns}]>" if tiling.tma else kind for name, kind, rows, columns in kinds
    }
    signature |= {"scales": "*fp32", "weight_scales": "*fp32", "bias": result}
    signature |= dict.fromkeys(("rows", "columns", "inner"), "i32")
    return products.product_kernel, signature, tiling.constants() | ends | {"FAST": True}


def main(capability: int, widest: bool = False) -> None:
    cases = []
    for dtype, pointer in TYPES.items():
        for head_dim in (16, 24, 64, 128) if dtype == torch.float16 else (64,):
            if widest and head_dim != (128 if dtype == torch.float16 else 64):
                continue
            for rotary, alibi in ((True, False), (False, True)):
                signature = {name: pointer for name in ("q", "k", "v", "out")} | {
                    "cu_seqlens": "*i32",
                    **dict.fromkeys(("cos", "sin", "slopes"), "*fp32"),
                    **dict.fromkeys(("stride_token", "stride_head", "heads"), "i32"),
                    "scale": "fp32",
                }
                for lengths in ((1, 1022), (150, 168), (1, 105), (128, 128), (180, 192)):
                    constants = attention.constants(head_dim, dtype, *lengths) | {"ROTARY": rotary, "ALIBI": alibi}
                    kernel = attention.short_attention_kernel if "A" in constants else attention.attention_kernel
                    if (kernel, signature, constants) not in cases:
                        cases.append((kernel, signature, constants))
        if widest:
            continue
        floats = {"shift": "*fp32", "scales": "*fp32", "eps": "fp32", "rows": "i32"}
        same = dict.fromkeys(("x", "weight", "bias", "out"), pointer) | floats
        int8 = same | {"out": "*i8"}
        for table in (pointwise.NORM, pointwise.NORM_INT8) if dtype != torch.float32 else (pointwise.NORM,):
            to_int8 = table is pointwise.NORM_INT8
            for width, (block, (rows, warps)) in zip((768, 1280, 2560, 5120), table.items(), strict=True):
                constants = {"WIDTH": width, "BLOCK": block, "ROWS": rows, "num_warps": warps}
                constants |= {"SHIFT": True, "BIAS": True, "QUANTISE": to_int8, "ROTATE": to_int8}
                constants |= {"STRIDE": width, "OUT_STRIDE": width}
                cases.append((pointwise.norm_kernel, int8 if to_int8 else same, constants))
        apart = {"WIDTH": 960, "BLOCK": 1024, "ROWS": 1, "num_warps": 1, "STRIDE": 2880, "OUT_STRIDE": 2880}
        apart |= {"SHIFT": False, "BIAS": False, "QUANTISE": False, "ROTATE": False}  # ESM C's queries
        cases.append((pointwise.norm_kernel, same, apart))
        exact = {"EXACT": dtype == torch.float32}
        cases.append((pointwise.gelu_kernel, same, exact | {"WIDTH": 10240} | pointwise.GELU))
        cases.append(
            (pointwise.glu_kernel, same, exact | {"WIDTH": 3072, "SILU": False, "BLOCK": 1024} | pointwise.GLU)
        )
        cases.append((pointwise.glu_kernel, same, exact | {"WIDTH": 2560, "SILU": True, "BLOCK": 512} | pointwise.GLU))
        pooled = {"x": pointer, "out": "*fp32", "cu_seqlens": "*i32"}
        cases.append((pointwise.pool_kernel, pooled, {"SKIP": 1, "LIMIT": 1024, "WIDTH": 2560, "BLOCK": 256}))
        if dtype != torch.float32:
            for width, head, tail in ((1280, 1024, 256), (10240, 8192, 2048)):
                constants = {"ROTATE": True, "WIDTH": width, "HEAD": head, "TAIL": tail}
                cases.append(
                    (pointwise.quantise_kernel, int8, constants | {"num_warps": pointwise.QUANTISE_WARPS[head]})
                )
            cases += product_cases(pointer, capability)
    for kernel, signature, constants in cases:
        what = f"{kernel.__name__} {signature.get('x', signature.get('q', signature.get('a')))} {constants}"
        result = compiled(kernel, signature, dict(constants), capability)
        shared, (stack, code) = result.metadata.shared / 1024, disassembled(result.asm["cubin"])
        print(f"sm{capability} {shared:6.1f} kB shared, {stack:4d} bytes spilled: {what}")
        assert shared <= SHARED_MEMORY[capability], what
        assert stack <= A_FEW_REGISTERS, what
        if kernel in (pointwise.norm_kernel, pointwise.gelu_kernel, pointwise.glu_kernel, pointwise.quantise_kernel):
            assert re.search(r"LDG\.E[.\w]*128", code) and not re.search(r"(LDG|STG)\.E[.\w]*U(8|16)", code), what


if __name__ == "__main__":
    main(int(sys.argv[1]), "widest" in sys.argv[2:])
