#!/usr/bin/env python3
"""Golden tensors of a tiny random Whisper, encoder and decoder: what the Rust engine's tests compare with.

Writes a model directory as Hugging Face lays it out (config.json, generation_config.json, tokenizer.json, model.safetensors
in f16) and beside it golden.safetensors, computed in f32 by transformers from the f16 values:

  log_mel                  [600, 80] f16: smoothed noise, the first fifth of a 30 s window; the rest of it is zeros
  encoded                  [1500, D] f16, the encoder's output
  tokens                   [N] i32, a sequence that begins as a transcript does
  logits                   [N, V] after each token
  attention.LAYER.HEAD     [N, 60] cross-attention probabilities over the first frames

The vocabulary is the 256 bytes, a few merges, and Whisper's special tokens with its 1501 timestamps.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "a"), ("i", "n"), ("Ġ", "-"), ("Ġ", "'"), ("Ġ", "s")]
LANGUAGES = ["en", "de", "fr"]
FRAMES, WINDOW = 600, 3000


def tokenizer():
    """A byte-level BPE with Whisper's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    for left, right in MERGES:
        vocabulary.setdefault(left + right, len(vocabulary))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev",
             "nospeech", "notimestamps", *(f"{index * 0.02:.2f}" for index in range(1501))]
    made.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    return made


def randomise(model, generator):
    """Random weights at which every part matters: no norm is the identity, attention is not uniform."""
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        noise = torch.randn(parameter.shape, generator=generator)
        if isinstance(owner, nn.LayerNorm):
            value = 0.3 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            value = 0.2 * noise
        elif isinstance(owner, nn.Embedding):
            value = 0.5 * noise
        else:
            value = 1.4 * parameter[0].numel() ** -0.5 * noise
        parameter.copy_(value.half().float())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests/data/goldens/whisper-tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    tokens = tokenizer()
    eot, sot = tokens.token_to_id("<|endoftext|>"), tokens.token_to_id("<|startoftranscript|>")
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=2,
        decoder_attention_heads=4, decoder_ffn_dim=48, num_mel_bins=80, max_source_positions=1500,
        max_target_positions=64, vocab_size=tokens.get_vocab_size(), pad_token_id=eot, bos_token_id=eot,
        eos_token_id=eot, decoder_start_token_id=sot,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    randomise(model, generator)

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    fields |= {"architectures": ["WhisperForConditionalGeneration"], "max_source_positions": 1500, "num_mel_bins": 80}
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    generation = {
        "is_multilingual": True,
        "begin_suppress_tokens": [tokens.encode(" ").ids[0], eot],
        "alignment_heads": [[0, 1], [1, 2], [1, 3]],
    }
    (out / "generation_config.json").write_text(json.dumps(generation) + "\n")
    (out / "tokenizer.json").write_text(tokens.to_str() + "\n")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if name != "proj_out.weight"}
    save_file(state, out / "model.safetensors", {"format": "pt"})

    noise = torch.randn(80, FRAMES + 7, generator=generator).unfold(1, 8, 1).mean(dim=-1)
    log_mel = noise.half()
    window = torch.zeros(1, 80, WINDOW)
    window[0, :, :FRAMES] = log_mel.float()
    special = [f"<|{name}|>" for name in ("startoftranscript", "de", "transcribe", "0.00")]
    sequence = [tokens.token_to_id(name) for name in special] + tokens.encode(" the in a thin").ids
    result = model(input_features=window, decoder_input_ids=torch.tensor([sequence]), output_attentions=True)
    golden = {
        "log_mel": log_mel.T,
        "encoded": result.encoder_last_hidden_state[0].half(),
        "tokens": torch.tensor(sequence, dtype=torch.int32),
        "logits": result.logits[0],
    }
    for layer, head in generation["alignment_heads"]:
        golden[f"attention.{layer}.{head}"] = result.cross_attentions[layer][0, head, :, :60]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": str(arguments.seed)}
    save_file({name: value.contiguous().clone() for name, value in golden.items()}, out / "golden.safetensors", versions)
    print(f"{sum(path.stat().st_size for path in out.iterdir()) / 1000:.0f} kB in {out}")


if __name__ == "__main__":
    main()
