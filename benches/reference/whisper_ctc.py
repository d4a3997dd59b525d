"""Whisper's encoder with a CTC head, in PyTorch: features, model, greedy decoding, word error rate.

The recipe that trains the bundled model, the SUTA reference and the golden tensors all import this file, so that what
was trained, what is measured and what the Rust engine is compared with are one definition.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

RATE = 16_000
N_FFT = 400
HOP = 160
BLANK = 0
# wav2vec2-base-960h's 32 symbols, in its order.
SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


# --- Audio and features ------------------------------------------------------------------------------------------


def read_audio(path):
    """Samples of a 16 kHz file, f32 in [-1, 1]; channels are averaged. Other rates are an error: this is no resampler."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != RATE:
        raise ValueError(f"{path}: {rate} Hz, but the reference takes {RATE} Hz only")
    return samples.mean(axis=1)


_filters = {}


def mel_filters(bands):
    """Slaney's triangular filters, [bands, N_FFT / 2 + 1]."""
    if bands not in _filters:
        bank = mel_filter_bank(N_FFT // 2 + 1, bands, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        _filters[bands] = torch.from_numpy(bank.T.copy()).float()
    return _filters[bands]


def log_mel(samples, bands=80):
    """Whisper's log-mel over the clip's true length, [bands, floor(samples / HOP)].

    Whisper pads every clip to 30 s, so it sees the signal reflected at its start but followed by zeros. Here only half
    a window of zeros is added: no kept frame reaches further.
    """
    frames = len(samples) // HOP
    if frames == 0:
        return torch.empty(bands, 0)
    signal = torch.as_tensor(np.asarray(samples), dtype=torch.float32)
    half = N_FFT // 2
    # A clip shorter than half a window cannot be reflected; Whisper, having padded it first, reflects its zeros.
    start = F.pad(signal, (0, max(0, half + 1 - len(signal))))[1 : half + 1].flip(0)
    padded = torch.cat([start, signal, torch.zeros(half)])
    spectrum = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    power = spectrum[:, :frames].abs().square()
    log = (mel_filters(bands) @ power).clamp(min=1e-10).log10()
    return (log.maximum(log.max() - 8.0) + 4.0) / 4.0


# --- Model -------------------------------------------------------------------------------------------------------


class WhisperCtc(nn.Module):
    """transformers' own Whisper encoder modules, run over the true length, and a linear head."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = WhisperEncoder(config)
        self.ctc_head = nn.Linear(config.d_model, config.vocab_size)

    def stem(self, mel):
        """[B, bands, frames] -> [B, T, D], T = (frames + 1) / 2: both convolutions and the positions 0..T."""
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        length = hidden.shape[1]
        if length > encoder.max_source_positions:
            raise ValueError(f"{length} frames, but the model has {encoder.max_source_positions} positions: cut the clip")
        return hidden + encoder.embed_positions.weight[:length]

    def layers(self, hidden, start=0, stop=None, mask=None):
        """Layers start..stop, [B, T, D] -> [B, T, D]."""
        for layer in self.encoder.layers[start:stop]:
            hidden = layer(hidden, mask)
        return hidden

    def head(self, hidden):
        """Final norm and CTC head, [B, T, D] -> [B, T, V]."""
        return self.ctc_head(self.encoder.layer_norm(hidden))

    def forward(self, mel, mask=None):
        """[B, bands, frames] -> logits [B, T, V]."""
        return self.head(self.layers(self.stem(mel), mask=mask))


def read_config(directory):
    fields = json.loads((Path(directory) / "config.json").read_text())
    fields.pop("torch_dtype", None)
    # There is no decoder; its default tokens lie outside a CTC vocabulary and would only be warned about.
    tokens = {"bos_token_id": None, "eos_token_id": None, "decoder_start_token_id": 0}
    return WhisperConfig(**fields | tokens, attn_implementation="sdpa")


def load_model(directory):
    """A model directory's model in eval mode, its weights as f32, nothing requiring a gradient."""
    model = WhisperCtc(read_config(directory))
    weights = {name: tensor.float() for name, tensor in load_file(Path(directory) / "model.safetensors").items()}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


# --- Text --------------------------------------------------------------------------------------------------------


class Vocabulary:
    """The symbols of `vocab.json`; id 0 is the blank, `|` the space between words, `<...>` is never printed."""

    def __init__(self, directory):
        self.ids = json.loads((Path(directory) / "vocab.json").read_text())
        self.symbols = {index: symbol for symbol, index in self.ids.items()}

    def greedy(self, logits):
        """The best path's text, [T, V] -> str: repeats merged, then blanks dropped."""
        merged = torch.unique_consecutive(logits.argmax(dim=-1)).tolist()
        symbols = (self.symbols.get(index, "") for index in merged if index != BLANK)
        text = "".join(symbol for symbol in symbols if not (symbol.startswith("<") and symbol.endswith(">")))
        return " ".join(text.replace("|", " ").split())

    def encode(self, text):
        """Ids of a text's symbols; a character the vocabulary lacks is a ValueError."""
        symbols = "|".join(text.upper().split())
        missing = sorted(set(symbols) - set(self.ids))
        if missing:
            raise ValueError(f"not in the vocabulary: {' '.join(missing)}")
        return [self.ids[symbol] for symbol in symbols]


def word_errors(reference, hypothesis):
    """(errors, reference words): the least number of words inserted, deleted or replaced, letter case ignored."""
    reference, hypothesis = reference.upper().split(), hypothesis.upper().split()
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(reference)


def read_manifest(path):
    """A NeMo-style manifest's lines as dicts, `audio_filepath` resolved against the manifest's directory."""
    path = Path(path)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    for line in lines:
        line["audio_filepath"] = str(path.parent / line["audio_filepath"])
    return lines
