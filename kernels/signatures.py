"""The kernels' signatures, read from kernels/*.cu: what the launch functions, the emulated driver and the check share."""

import re
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parent

KERNEL = re.compile(r"((?://[^\n]*\n)+)KERNEL\s+__launch_bounds__\((\w+)(?:, \d+)?\)\s+(\w+)\(([^)]*)\)")
PARAMETER = re.compile(r"(?P<const>const )?(?P<type>long long|\w+)(?P<pointer>\*)? (?:__restrict__ )?(?P<optional>OPTIONAL )?(?P<name>\w+)")
SHARED = re.compile(r"Dynamic shared memory[^:]*: (.+?) values")


@dataclass
class Parameter:
    name: str
    type: str
    pointer: bool
    const: bool
    optional: bool


@dataclass
class Kernel:
    file: str
    name: str
    threads: int
    parameters: list[Parameter]
    comment: str
    """Bytes of dynamic shared memory; 0 without, None where the launch decides."""
    shared: int | None


def files() -> list[Path]:
    return sorted(KERNELS.glob("*.cu"))


def read(path: Path) -> list[Kernel]:
    text = path.read_text()
    found = []
    for comment, threads, name, parameters in KERNEL.findall(text):
        comment = " ".join(line.removeprefix("//").strip() for line in comment.splitlines())
        if not threads.isdigit():
            threads = re.search(rf"#define {threads} (\d+)", text).group(1)
        # The emulation of a launch bound to one block size, and the host's, both rely on this.
        if "Grid:" not in comment:
            raise SystemExit(f"{path.name}: the comment above {name} must give its grid")
        found.append(Kernel(path.stem, name, int(threads), [parameter(path, p) for p in parameters.split(",")], comment, shared(comment)))
    if len(found) != text.count("\nKERNEL "):
        raise SystemExit(f"{path.name}: a kernel that this script cannot read")
    return found


def parameter(path: Path, text: str) -> Parameter:
    match = PARAMETER.fullmatch(" ".join(text.split()))
    if not match:
        raise SystemExit(f"{path.name}: cannot read the parameter `{text.strip()}`")
    return Parameter(match["name"], match["type"], bool(match["pointer"]), bool(match["const"]), bool(match["optional"]))


def shared(comment: str) -> int | None:
    match = SHARED.search(comment)
    if not match:
        return 0
    expression = match.group(1).replace("·", "*")
    return 4 * eval(expression) if re.fullmatch(r"[\d+* ()]+", expression) else None


def every() -> list[Kernel]:
    return [kernel for path in files() for kernel in read(path)]
