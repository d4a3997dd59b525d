#!/usr/bin/env python3
"""Whisper tiny.en in whisper.cpp's format, from a CTranslate2 directory: the same weights for a third engine.

    ggml.py MODEL OUT [--f32]

float16, as its published models are, or float32. Little-endian: magic, eleven sizes, the mel filters, the tokens' bytes, then per tensor
its rank, the length of its name, its type (0 f32, 1 f16), its dimensions from the last to the first, name and data.
English-only models; needs `pip install numpy transformers`.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np

from ctranslate2_format import read_variables


def names(side, layers):
    """(its name, rows, of how many, ours) of a side's layers: attention's stacked matrices come apart."""
    for n in range(layers):
        to, source = f"{side}.blocks.{n}", f"{side}/layer_{n}"
        own = f"{source}/self_attention"
        for part, row in (("query", 0), ("key", 1), ("value", 2)):
            yield f"{to}.attn.{part}", row, 3, f"{own}/linear_0"
        yield f"{to}.attn.out", 0, 1, f"{own}/linear_1"
        yield f"{to}.attn_ln", 0, 1, f"{own}/layer_norm"
        if side == "decoder":
            cross = f"{source}/attention"
            yield f"{to}.cross_attn.query", 0, 1, f"{cross}/linear_0"
            for part, row in (("key", 0), ("value", 1)):
                yield f"{to}.cross_attn.{part}", row, 2, f"{cross}/linear_1"
            yield f"{to}.cross_attn.out", 0, 1, f"{cross}/linear_2"
            yield f"{to}.cross_attn_ln", 0, 1, f"{cross}/layer_norm"
        yield f"{to}.mlp.0", 0, 1, f"{source}/ffn/linear_0"
        yield f"{to}.mlp.2", 0, 1, f"{source}/ffn/linear_1"
        yield f"{to}.mlp_ln", 0, 1, f"{source}/ffn/layer_norm"


def tensors(variables):
    """Its name -> array."""
    sizes = {side: sum(name.startswith(side) and name.endswith("self_attention/linear_0/weight") for name in variables)
             for side in ("encoder", "decoder")}
    found = {"encoder.positional_embedding": variables["encoder/position_encodings/encodings"],
             "decoder.positional_embedding": variables["decoder/position_encodings/encodings"],
             "decoder.token_embedding.weight": variables["decoder/embeddings/weight"]}
    layers = [("encoder.conv1", 0, 1, "encoder/conv1"), ("encoder.conv2", 0, 1, "encoder/conv2"),
              ("encoder.ln_post", 0, 1, "encoder/layer_norm"), ("decoder.ln", 0, 1, "decoder/layer_norm"),
              *names("encoder", sizes["encoder"]), *names("decoder", sizes["decoder"])]
    for to, row, count, source in layers:
        norm = f"{source}/gamma" in variables
        for part, theirs in (("weight", "gamma"), ("bias", "beta")) if norm else (("weight", "weight"), ("bias", "bias")):
            if to.endswith(".key") and part == "bias":
                continue
            array = np.split(variables[f"{source}/{theirs}"], count)[row]
            found[f"{to}.{part}"] = array[:, None] if ".conv" in to and part == "bias" else array
    return found, sizes


def token_bytes(vocabulary):
    """GPT-2's visible characters back to bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in visible}
    table |= {chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in visible)}
    return [bytes(table[character] for character in token) for token in vocabulary]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--f32", action="store_true")
    typed = parser.parse_args()
    from transformers import WhisperFeatureExtractor

    variables = read_variables(typed.model / "model.bin")
    found, sizes = tensors(variables)
    width = found["encoder.positional_embedding"].shape[1]
    pieces = json.loads((typed.model / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = token_bytes(sorted((piece for piece, number in pieces.items() if number < 50256), key=pieces.get))
    filters = np.ascontiguousarray(WhisperFeatureExtractor(feature_size=80).mel_filters.T, np.float32)
    with typed.out.open("wb") as out:
        put = lambda kinds, *values: out.write(struct.pack("<" + kinds, *values))
        put("i", 0x67676D6C)
        put("11i", found["decoder.token_embedding.weight"].shape[0], *found["encoder.positional_embedding"].shape, width // 64,
            sizes["encoder"], *found["decoder.positional_embedding"].shape, width // 64, sizes["decoder"], filters.shape[0],
            0 if typed.f32 else 1)
        put("2i", *filters.shape)
        out.write(filters.tobytes())
        put("i", len(tokens))
        for token in tokens:
            put("i", len(token))
            out.write(token)
        for name, array in found.items():
            half = not typed.f32 and array.ndim > 1 and "positional" not in name and not (".conv" in name and "bias" in name)
            data = np.ascontiguousarray(array, np.float16 if half else np.float32)
            put("3i", data.ndim, len(name), int(half))
            put(f"{data.ndim}i", *reversed(data.shape))
            out.write(name.encode() + data.tobytes())
    print(f"{typed.out}: {typed.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
