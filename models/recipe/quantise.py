#!/usr/bin/env python3
"""A Whisper in CTranslate2's format with its matrices in 8 bits: half of float16's size.

Each row of a matrix is stored as whole numbers from -127 to 127 with a scale of its own, as CTranslate2's `int8` does;
norms, biases, convolutions and position encodings stay float16. Without --whisper the model is tiny.en from the PyPI package
that `ctranslate2_format.py` names. `models/whisper-tiny.en` was made with this.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/reference"))

from ctranslate2_format import download, read, write  # noqa: E402


def quantised(name, array):
    """The variables that stand for one."""
    if array.ndim != 2 or not name.endswith("/weight"):
        # Scalars (the number of heads, flags) are no float16, and stay what they are.
        return {name: array}
    rows = array.astype(np.float32)
    largest = np.abs(rows).max(axis=1)
    scale = np.where(largest > 0, 127 / np.maximum(largest, np.finfo(np.float32).tiny), 1).astype(np.float32)
    return {name: np.rint(rows * scale[:, None]).astype(np.int8), f"{name}_scale": scale}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", type=Path, default=ROOT / "target/ctranslate2", metavar="DIR",
                        help="the model, fetched into it where there is none (default target/ctranslate2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    typed = parser.parse_args()
    download(typed.whisper)
    revision, variables, aliases = read(typed.whisper / "model.bin")
    made = {}
    for name, array in variables.items():
        made |= quantised(name, array)
    # CTranslate2 asks for an alias of the scale wherever there is one of a weight.
    aliases |= {f"{alias}_scale": f"{name}_scale" for alias, name in aliases.items() if f"{name}_scale" in made}
    typed.out.mkdir(parents=True, exist_ok=True)
    write(typed.out / "model.bin", revision, made, aliases)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copy(typed.whisper / name, typed.out / name)
    print(f"{typed.out}/model.bin: {(typed.out / 'model.bin').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
