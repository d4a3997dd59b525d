"""Compiles kernels/*.cu to the PTX that is committed in kernels/ptx, and writes the host's launch functions.

    python3 kernels/build.py            after a change to a kernel
    python3 kernels/build.py --check    what CI runs: the same bytes again; ptxas for every architecture, without spills

Installs the pinned compilers (kernels/requirements.txt; 66 MB) into target/cuda-env at first.
"""

import argparse
import ctypes
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import signatures

ROOT = signatures.KERNELS.parent
ENVIRONMENT = ROOT / "target" / "cuda-env"
PTX = signatures.KERNELS / "ptx"
LAUNCH = ROOT / "src" / "engine" / "cuda" / "launch"

# Per architecture: threads, registers, shared memory in bytes and blocks of a multiprocessor; CUDA C++ Programming
# Guide, "Compute Capabilities". A kilobyte of shared memory a block is the system's.
ARCHITECTURES = {
    80: (2048, 65536, 164 << 10, 32),
    86: (1536, 65536, 100 << 10, 16),
    89: (1536, 65536, 100 << 10, 24),
    90: (2048, 65536, 228 << 10, 32),
    100: (2048, 65536, 228 << 10, 32),
}


def compilers() -> Path:
    """The directory that holds NVIDIA's packages."""
    requirements = signatures.KERNELS / "requirements.txt"
    stamp = ENVIRONMENT / "installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", requirements]
        subprocess.run(pip, check=True)
        stamp.write_text(requirements.read_text())
    return next(ENVIRONMENT.glob("lib/python*/site-packages/nvidia"))


def compile_ptx(nvrtc: ctypes.CDLL, path: Path) -> bytes:
    program = ctypes.c_void_p()
    header = signatures.KERNELS / "common.cuh"
    sources, names = (ctypes.c_char_p * 1)(header.read_bytes()), (ctypes.c_char_p * 1)(header.name.encode())
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 1, sources, names)
    options = [b"--gpu-architecture=compute_80", b"--std=c++17"]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = text(nvrtc, "ProgramLog", program)
    if failed or log.strip():
        raise SystemExit(f"{path.name}: {log.decode()}")
    return text(nvrtc, "PTX", program)


def text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    # ptxas does not take the closing NUL.
    return buffer.raw.rstrip(b"\0")


RUST = {"int": "i32", "long long": "i64", "unsigned": "u32", "float": "f32", "double": "f64"}


NOTE = "// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares."


def launch_functions(kernels: list[signatures.Kernel]) -> dict[Path, bytes]:
    """The generated module: what loads the kernels, and a file of launch functions for each of theirs."""
    families = {stem: [kernel for kernel in kernels if kernel.file == stem] for stem in dict.fromkeys(k.file for k in kernels)}
    lines = [
        NOTE,
        "",
        "//! The kernels, loaded, and a launch function for each.",
        "",
        *(f"mod {stem};" for stem in families),
        "",
        "use super::device::CudaDevice;",
        "use cudarc::driver::{CudaFunction, DriverError};",
        "",
        "/// Every kernel, loaded.",
        "pub(super) struct Kernels {",
        *(f"    {kernel.name}: CudaFunction," for kernel in kernels),
        "}",
        "",
        "impl Kernels {",
        "    /// Loads the embedded PTX; the driver compiles it for its device.",
        "    pub(super) fn load(device: &CudaDevice) -> Result<Self, DriverError> {",
    ]
    for stem in families:
        source = f'include_str!("../../../../kernels/ptx/{stem}.ptx")'
        lines.append(f"        let {stem} = device.module({source})?;")
    lines.append("        Ok(Self {")
    for kernel in kernels:
        lines.append(f'            {kernel.name}: device.function(&{kernel.file}, "{kernel.name}", {kernel.shared or 0})?,')
    lines += ["        })", "    }", "}", ""]
    made = {LAUNCH / "mod.rs": rustfmt("\n".join(lines))}
    for stem, family in families.items():
        functions = [line for kernel in family for line in launch_function(kernel)][:-1]
        views = [name for name in ("View", "ViewMut") if any(f" {name}<" in line or f"<{name}<" in line or f"&mut {name}<" in line for line in functions)]
        lines = [
            NOTE,
            "",
            f"//! Launch functions for `kernels/{stem}.cu`.",
            "",
            "use crate::engine::cuda::device::{Grid, Launcher};",
            f"use crate::engine::cuda::memory::{{{', '.join(views)}}};",
            "",
            "#[allow(clippy::too_many_arguments)]",
            "impl Launcher<'_> {",
            *functions,
            "}",
            "",
        ]
        made[LAUNCH / f"{stem}.rs"] = rustfmt("\n".join(lines))
    return {path: text.encode() for path, text in made.items()}


def launch_function(kernel: signatures.Kernel) -> list[str]:
    typed, pushed = [], []
    for parameter in kernel.parameters:
        kind = RUST[parameter.type]
        if parameter.pointer:
            of = "'_" if kind == "f32" else f"'_, {kind}"
            kind = f"View<{of}>" if parameter.const else f"&mut ViewMut<{of}>"
            if parameter.optional:
                kind = f"Option<{kind}>"
                pushed.append(f".optional({parameter.name}.as_ref().map(|view| view.address()))")
            else:
                pushed.append(f".pointer({parameter.name}.address())")
        else:
            pushed.append(f".value({parameter.name})")
        typed.append(f"        {parameter.name}: {kind},")
    decided = ["        shared: u32,"] if kernel.shared is None else []
    shared = "shared" if kernel.shared is None else kernel.shared
    return [
        f"    /// `kernels/{kernel.file}.cu`: blocks of {kernel.threads} threads.",
        f"    pub(in crate::engine::cuda) fn {kernel.name}(",
        "        &self,",
        "        grid: Grid,",
        *decided,
        *typed,
        "    ) {",
        f"        self.arguments(&self.kernels().{kernel.name})",
        *(f"            {push}" for push in pushed),
        f"            .launch(grid, {kernel.threads}, {shared});",
        "    }",
        "",
    ]


def rustfmt(source: str) -> str:
    command = ["rustfmt", "--edition", "2024", "--config", "max_width=120"]
    return subprocess.run(command, input=source, capture_output=True, check=True, text=True).stdout


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> float:
    """The share of a multiprocessor's threads that are resident."""
    most_threads, all_registers, all_shared, most_blocks = ARCHITECTURES[architecture]
    warps = threads // 32
    # Registers are given out 256 a warp at a time.
    by_registers = all_registers // (-(-registers * 32 // 256) * 256) // warps
    blocks = min(most_blocks, most_threads // threads, by_registers, all_shared // (shared + 1024))
    return blocks * threads / most_threads


def assemble(ptxas: Path, kernels: list[signatures.Kernel]) -> None:
    """Assembles for every architecture; refuses spills, and a kernel that no multiprocessor could hold."""
    by_name = {kernel.name: kernel for kernel in kernels}
    rows: dict[str, dict[int, tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for path in sorted(PTX.glob("*.ptx")):
            for architecture in ARCHITECTURES:
                command = [ptxas, f"-arch=sm_{architecture}", "-v", "-warn-spills", "-Werror", path]
                done = subprocess.run([*command, "-o", f"{directory}/out"], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{path.name}, sm_{architecture}:\n{done.stderr}")
                found = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers([^\n]*)", done.stderr, re.S)
                for name, registers, rest in found:
                    static = re.search(r"(\d+) bytes smem", rest)
                    shared = (int(static.group(1)) if static else 0) + (by_name[name].shared or 0)
                    rows.setdefault(name, {})[architecture] = (int(registers), shared)
    if set(rows) != set(by_name):
        raise SystemExit(f"not assembled: {set(by_name) - set(rows)}")
    print("registers and occupancy by architecture; shared memory in bytes, static and dynamic, no spills")
    print(f"{'kernel':36} {'threads':>7} {'shared':>7}  " + "  ".join(f"{'sm_' + str(a):>9}" for a in ARCHITECTURES))
    for name, of in rows.items():
        kernel = by_name[name]
        shared = max(shared for _, shared in of.values())
        if shared > 99 << 10:
            raise SystemExit(f"{name}: {shared} bytes of shared memory a block; sm_86 and sm_89 have 99 KB")
        cells = []
        for architecture, (registers, shared_here) in of.items():
            share = occupancy(architecture, kernel.threads, registers, shared_here)
            if share == 0:
                raise SystemExit(f"{name}: no block fits on sm_{architecture}")
            cells.append(f"{registers:3} {share:5.0%}")
        print(f"{name:36} {kernel.threads:7} {shared:7}  " + "  ".join(f"{cell:>9}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something is out of date")
    check = parser.parse_args().check
    nvidia = compilers()
    nvrtc = ctypes.CDLL(str(nvidia / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"))
    kernels = signatures.every()
    made = {PTX / f"{path.stem}.ptx": compile_ptx(nvrtc, path) for path in signatures.files()}
    made.update(launch_functions(kernels))
    if check:
        stale = [path for path, content in made.items() if not path.exists() or path.read_bytes() != content]
        stale += [path for path in [*PTX.glob("*"), *LAUNCH.glob("*")] if path not in made]
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            raise SystemExit(f"not what the kernels give: {names}; run python3 kernels/build.py and commit the result")
    else:
        PTX.mkdir(exist_ok=True)
        for path, content in made.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    assemble(nvidia / "cuda_nvcc" / "bin" / "ptxas", kernels)


if __name__ == "__main__":
    sys.exit(main())
