"""Writes a translation unit for each kernel file: the kernels in an unnamed namespace (which keeps templates' shared
memory out of COMDAT sections), and their registration by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import signatures

kernels, to = Path(sys.argv[1]), Path(sys.argv[2])
for path in sorted(kernels.glob("*.cu")):
    registered = "".join(f"EMULATED_KERNEL({kernel.name})\n" for kernel in signatures.read(path))
    text = f'namespace {{\n#include "{path.name}"\n}}\n{registered}'
    unit = to / f"{path.stem}.unit.cpp"
    if not unit.exists() or unit.read_text() != text:
        unit.write_text(text)
