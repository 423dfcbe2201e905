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

from virnucpro.encoders.kernels import attention, pointwise

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227}  # kB that one program may use
A_FEW_REGISTERS = 160  # bytes; fewer registers and one more program at a time were measured to pay
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


def compiled(kernel, signature: dict[str, str], constants: dict, capability: int):
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in constants}
    signature = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    aligned = {  # in the library's calls pointers and strides are, apart from those that are not specialised
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(signature.items())
        if name != "cu_seqlens" and (kind.startswith("*") or name.startswith("stride"))
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
        same = dict.fromkeys(("x", "added", "weight", "bias", "out"), pointer) | floats
        for add, quantise in ((False, False), (True, True)):
            if quantise and (dtype == torch.float32 or capability < 89):
                continue
            for width, (block, (rows, warps)) in zip((768, 1280, 2560, 5120), pointwise.NORM.items(), strict=True):
                constants = {"WIDTH": width, "BLOCK": block, "ROWS": rows, "num_warps": warps}
                out = {"out": "*fp8e4nv"} if quantise else {}
                constants |= {"ADD": add, "SHIFT": True, "BIAS": True, "QUANTISE": quantise}
                constants |= {"STRIDE": width, "OUT_STRIDE": width}
                cases.append((pointwise.norm_kernel, same | out, constants))
        apart = {"WIDTH": 960, "BLOCK": 1024, "ROWS": 1, "num_warps": 1, "STRIDE": 2880, "OUT_STRIDE": 2880}
        apart |= {"ADD": False, "SHIFT": False, "BIAS": False, "QUANTISE": False}  # ESM C's queries
        cases.append((pointwise.norm_kernel, same, apart))
        exact = {"EXACT": dtype == torch.float32}
        cases.append((pointwise.gelu_kernel, same, exact | {"WIDTH": 10240} | pointwise.GELU))
        cases.append(
            (pointwise.glu_kernel, same, exact | {"WIDTH": 3072, "SILU": False, "BLOCK": 1024} | pointwise.GLU)
        )
        cases.append((pointwise.glu_kernel, same, exact | {"WIDTH": 2560, "SILU": True, "BLOCK": 512} | pointwise.GLU))
        pooled = {"x": pointer, "out": "*fp32", "cu_seqlens": "*i32"}
        cases.append((pointwise.pool_kernel, pooled, {"SKIP": 1, "LIMIT": 1024, "WIDTH": 2560, "BLOCK": 256}))
        if capability >= 89 and dtype != torch.float32:
            constants = {"GELU": True, "WIDTH": 10240, "HEAD": 8192, "TAIL": 2048, "num_warps": 8}
            cases.append((pointwise.quantise_kernel, same | {"out": "*fp8e4nv"}, constants))
    for kernel, signature, constants in cases:
        what = f"{kernel.__name__} {signature.get('x', signature.get('q'))} {constants}"
        result = compiled(kernel, signature, dict(constants), capability)
        shared, (stack, code) = result.metadata.shared / 1024, disassembled(result.asm["cubin"])
        print(f"sm{capability} {shared:6.1f} kB shared, {stack:4d} bytes spilled: {what}")
        assert shared <= SHARED_MEMORY[capability], what
        assert stack <= A_FEW_REGISTERS, what
        if kernel in (pointwise.norm_kernel, pointwise.gelu_kernel, pointwise.glu_kernel, pointwise.quantise_kernel):
            assert re.search(r"LDG\.E[.\w]*128", code) and not re.search(r"(LDG|STG)\.E[.\w]*U(8|16)", code), what


if __name__ == "__main__":
    main(int(sys.argv[1]), "widest" in sys.argv[2:])
