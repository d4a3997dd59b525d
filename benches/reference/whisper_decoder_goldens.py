#!/usr/bin/env python3
"""Golden tensors of a tiny random Whisper, encoder and decoder: what the Rust engine's tests compare with.

Writes a model directory as Hugging Face lays it out (config.json, generation_config.json, tokenizer.json, model.safetensors
in f16) and beside it golden.safetensors, computed in f32 by transformers from the f16 values:

  log_mel                  [600, 80] f16: smoothed noise, the first fifth of a 30 s window; the rest of it is zeros
  encoded                  [1500, D] f16, the encoder's output
  tokens                   [N] i32, a sequence that begins as a transcript does
  logits                   [N, V] after each token
  attention.LAYER.HEAD     [N, 60] cross-attention probabilities over the first frames

And beside the other formats (tests/data/formats/ctranslate2) the same model as CTranslate2 converts it, f16, int8 and
int8_float16, with what faster-whisper makes of log_mel in float32 (transcripts.json): for each set of options, the segments.

The vocabulary is the 256 bytes, a few merges, and Whisper's special tokens with its 1501 timestamps.
"""

import argparse
import json
import shutil
import tempfile
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


# faster-whisper's names. The model is random: no window passes for silence, and no temperature but the first is tried.
LENIENT = {"temperature": [0.0], "no_speech_threshold": None, "log_prob_threshold": None, "compression_ratio_threshold": None}
OPTIONS = [
    {"beam_size": 1},
    {"beam_size": 5},
    {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6},
    {"beam_size": 1, "without_timestamps": True, "max_new_tokens": 9},
    {"beam_size": 4, "without_timestamps": True, "length_penalty": 0.0},
    {"beam_size": 1, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"beam_size": 4, "initial_prompt": "the thin", "condition_on_previous_text": False},
    {"beam_size": 2, "prefix": "a thin", "suppress_blank": False},
    {"beam_size": 1, "hotwords": "the a in", "suppress_tokens": []},
]


def convert(model, source, out, log_mel):
    """CTranslate2's versions of a model, and what faster-whisper makes of log-mel frames with one of them."""
    from ctranslate2.converters import TransformersConverter
    from faster_whisper import WhisperModel

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # In f32, or what is not 8 bits would always be f16.
        model.save_pretrained(folder / "source")
        shutil.copy(source / "tokenizer.json", folder / "source/tokenizer.json")
        shutil.copy(source / "generation_config.json", folder / "source/generation_config.json")
        for quantization in ("float16", "int8", "int8_float16"):
            converter = TransformersConverter(str(folder / "source"))
            converter.convert(str(folder / quantization), quantization=quantization)
            shutil.copy(folder / quantization / "model.bin", out / f"{quantization}.bin")
        shutil.copy(folder / "float16/config.json", out / "config.json")
        shutil.copy(source / "tokenizer.json", folder / "float16/tokenizer.json")
        model = WhisperModel(str(folder / "float16"), device="cpu", compute_type="float32")
        # It takes the last frame for padding.
        model.feature_extractor.__class__.__call__ = lambda *_, **__: torch.cat([log_mel, log_mel[:, -1:]], 1).float().numpy()
        transcripts = []
        for options in OPTIONS:
            segments, _ = model.transcribe(torch.zeros(FRAMES * 160).numpy(), language="en", **(LENIENT | options))
            transcripts.append({"options": options, "segments": [
                {"start": s.start, "end": s.end, "tokens": s.tokens, "avg_logprob": s.avg_logprob,
                 "no_speech_prob": s.no_speech_prob,
                 "words": [[w.word, w.start, w.end, w.probability] for w in s.words or []]}
                for s in segments]})
            print(f"  {options}: {[len(s['tokens']) for s in transcripts[-1]['segments']]} tokens")
    (out / "transcripts.json").write_text("\n".join(["[", ",\n".join(json.dumps(t) for t in transcripts), "]"]) + "\n")


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
        max_target_positions=448, vocab_size=tokens.get_vocab_size(), pad_token_id=eot, bos_token_id=eot,
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
    convert(model, out, root / "tests/data/formats/ctranslate2", log_mel)
    print(f"{sum(path.stat().st_size for path in out.iterdir()) / 1000:.0f} kB in {out}")


if __name__ == "__main__":
    main()
