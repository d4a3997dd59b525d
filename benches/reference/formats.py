#!/usr/bin/env python3
"""The golden wav2vec2-base as `torch.save` writes it, for the reader of pytorch_model.bin: in f32, f16 and bf16, with the
weight norm's older names (weight_g, weight_v), as most published checkpoints have them. Writes
tests/data/formats/pytorch_model.{f32,f16,bf16}.bin. Two tensors share a storage, and one is a transposed view."""

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


def main():
    tensors = load_file(ROOT / "tests/data/goldens/wav2vec2-base/model.safetensors")
    out = ROOT / "tests/data/formats"
    out.mkdir(parents=True, exist_ok=True)
    for name, kind in [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]:
        state = OrderedDict()
        for key, value in tensors.items():
            key = key.replace("parametrizations.weight.original0", "weight_g")
            state[key.replace("parametrizations.weight.original1", "weight_v")] = value.to(kind)
        norm = "wav2vec2.encoder.layers.0.layer_norm."
        both = torch.cat([state[norm + "weight"], state[norm + "bias"]])
        state[norm + "weight"], state[norm + "bias"] = both.chunk(2)
        state["lm_head.weight"] = state["lm_head.weight"].T.contiguous().T
        torch.save(state, out / f"pytorch_model.{name}.bin")


if __name__ == "__main__":
    main()
