#!/usr/bin/env python3
"""Adapting a Whisper through a CTC head: SUTA on the CTC model that was made of Whisper's encoder, of the adapted tensors
those that both models share put into Whisper, and Whisper's decoder to write the text.

    ctc_head_route.py MANIFEST... --noise NOISE@SNR ... [--each N] [--json OUT]

The CTC model's convolutions and lowest layers are Whisper's own, its other layers were trained with the head, so only what
lies in the former can be carried over; that it is equal in both is checked first. A clip is adapted to for itself. The
text is greedy, without timestamps and without fallback. Rates are after Whisper's English normaliser; differences from no
adaptation are paired, with 95 % percentile intervals of 2000 bootstrap draws over clips, all conditions of a clip drawn
together. Needs `pip install jiwer whisper-normalizer` beside the reference's packages.
"""

import argparse
import json
import zlib
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path

import jiwer
import numpy as np
import tokenizers
import torch
from whisper_normalizer.english import EnglishTextNormalizer

from ctranslate2_encoder import decoder, encoder
from ctranslate2_format import download, read_variables
from suta import Suta, adapted_parameters
from whisper_ctc import Vocabulary, load_model, log_mel, read_audio, read_manifest

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 2000
WINDOW = 3000
MOST_TOKENS = 224
# Layers of the CTC model that its recipe left as they were.
SHARED_LAYERS = 2


class SharedSuta(Suta):
    """SUTA on what both models share: the norms of the lowest layers, and the convolutions' biases if asked for."""

    def adapted(self):
        lowest = tuple(f"encoder.layers.{n}." for n in range(SHARED_LAYERS))
        biases = ("encoder.conv1.bias", "encoder.conv2.bias") if "conv-bias" in self.choice else ()
        norms = {name: p for name, p in adapted_parameters(self.model, "layer-norm").items() if name.startswith(lowest)}
        return norms | {name: p for name, p in self.model.named_parameters() if name in biases}


class Whisper:
    """A Whisper from CTranslate2's directory, with greedy decoding under its own suppressed tokens."""

    def __init__(self, directory):
        variables = read_variables(directory / "model.bin")
        self.encoder = encoder(variables).requires_grad_(False)
        self.decoder, self.embedding = decoder(variables)
        self.decoder.requires_grad_(False)
        self.text = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text())
        ids = {name: self.text.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "notimestamps", "endoftext")}
        self.prompt, self.end = [ids["startoftranscript"], ids["notimestamps"]], ids["endoftext"]
        self.never = config["suppress_ids"] + list(range(ids["notimestamps"], self.embedding.shape[0]))
        self.not_first = config["suppress_ids_begin"]
        self.state = {name: value.clone() for name, value in self.encoder.state_dict().items()}

    def put(self, values):
        """Values of some encoder tensors, by the CTC model's names, into a source encoder."""
        self.encoder.load_state_dict(self.state | {name.removeprefix("encoder."): v for name, v in values.items()})

    @torch.no_grad()
    def write(self, mel):
        window = torch.zeros(1, mel.shape[0], WINDOW)
        window[0, :, : mel.shape[1]] = mel[:, :WINDOW]
        encoded = self.encoder(window).last_hidden_state
        tokens, cache, written = self.prompt, None, []
        while len(written) < MOST_TOKENS:
            found = self.decoder(input_ids=torch.tensor([tokens]), encoder_hidden_states=encoded, past_key_values=cache,
                                 use_cache=True)
            logits, cache = found.last_hidden_state[0, -1] @ self.embedding.T, found.past_key_values
            logits[self.never] = -torch.inf
            if not written:
                logits[self.not_first] = -torch.inf
            token = int(logits.argmax())
            if token == self.end:
                break
            written.append(token)
            tokens = [token]
        return self.text.decode(written)


def check_shared(model, whisper):
    """That what is to be carried over is equal in both, and what the models do not share; fails where it is not."""
    same, other = [], []
    for name, value in model.encoder.state_dict().items():
        (same if torch.equal(value, whisper.state[name]) else other).append(name)
    wanted = [name.removeprefix("encoder.") for name in SharedSuta(model, "layer-norm+conv-bias").parameters]
    assert set(wanted) <= set(same), sorted(set(wanted) - set(same))
    lowest = [name for name in model.encoder.state_dict() if name.startswith(("conv", "embed", "layers.0.", "layers.1."))]
    assert set(lowest) <= set(same), sorted(set(lowest) - set(same))
    parts = sorted({".".join(name.split(".")[:2]) for name in other})
    print(f"{len(same)} encoder tensors are equal in both models, {len(other)} are not ({', '.join(parts)})", flush=True)


def conditions(noises, seed):
    """Name and maker of each condition's samples; noise is mixed as `aurist bench` does."""

    def white(samples, clip):
        noise = np.random.default_rng([seed, zlib.crc32(clip.encode())]).standard_normal(len(samples))
        return (samples + 0.02 * noise).clip(-1, 1).astype(np.float32)

    def mixed(path, snr):
        noise = read_audio(path)

        def mix(samples, _):
            tiled = np.resize(noise, len(samples))
            rms = [np.sqrt(np.mean(np.square(x, dtype=np.float64))) for x in (samples, tiled)]
            return (samples + rms[0] / rms[1] * 10 ** (-snr / 20) * tiled).clip(-1, 1).astype(np.float32)

        return mix

    made = [("clean", lambda samples, _: samples), ("x + 0.02 N(0, 1)", white)]
    for noise in noises:
        path, snr = noise.rsplit("@", 1)
        made.append((f"{Path(path).stem}, {snr} dB", mixed(path, float(snr))))
    return made


def transcribe(mel, model, vocabulary, whisper, methods, steps):
    """Both models' texts of a clip, without adaptation and with each method."""
    whisper.put({})
    texts = {"none": whisper.write(mel)}
    with torch.no_grad():
        texts["CTC none"] = vocabulary.greedy(model(mel[None])[0])
    for method in methods:
        choice, rate = method.split("@")
        suta = SharedSuta(model, choice, steps, float(rate), loop="minimal")
        texts[f"CTC {method}"] = vocabulary.greedy(suta.adapt(mel).after)
        whisper.put({name: p.detach() for name, p in suta.parameters.items()})
        texts[method] = whisper.write(mel)
        suta.restore()
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--ctc", type=Path, default=ROOT / "models/whisper-tiny.en-ctc")
    parser.add_argument("--whisper", type=Path, default=ROOT / "target/ctranslate2",
                        help="CTranslate2 directory in float16; tiny.en is fetched into it where there is none")
    parser.add_argument("--noise", action="append", default=[], metavar="FILE@SNR")
    parser.add_argument("--each", type=int, default=10, help="clips of each manifest, evenly spread over it")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--method", action="append", metavar="PARAMETERS@LR",
                        help="layer-norm or layer-norm+conv-bias at a rate (default: both at 1e-3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="every text, one JSON object a line; what it has already is not done again")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    download(arguments.whisper)
    model, vocabulary, whisper = load_model(arguments.ctc), Vocabulary(arguments.ctc), Whisper(arguments.whisper)
    check_shared(model, whisper)
    spread = [lines[:: max(1, len(lines) // arguments.each)][: arguments.each] for lines in map(read_manifest, arguments.manifests)]
    # In turn, so that a run that was stopped has some of each.
    clips = [clip for clip in chain(*zip_longest(*spread)) if clip]
    methods = arguments.method or ["layer-norm@1e-3", "layer-norm+conv-bias@1e-3"]
    normalise = EnglishTextNormalizer()
    made, errors, changed = conditions(arguments.noise, arguments.seed), defaultdict(list), defaultdict(int)
    known = {}
    if arguments.json and arguments.json.exists():
        for row in map(json.loads, arguments.json.read_text().splitlines()):
            known[row["clip"], row["condition"]] = {name: row[name] for name in row if name not in ("clip", "condition")}
    out = arguments.json.open("a") if arguments.json else None
    words = np.array([len(normalise(clip["text"]).split()) for clip in clips], float)
    for clip in clips:
        samples, stem = read_audio(clip["audio_filepath"]), Path(clip["audio_filepath"]).stem
        for condition, make in made:
            texts = known.get((stem, condition))
            if texts is None:
                texts = transcribe(log_mel(make(samples, stem)), model, vocabulary, whisper, methods, arguments.steps)
                if out:
                    print(json.dumps({"clip": stem, "condition": condition} | texts), file=out, flush=True)
            for name, text in texts.items():
                found = jiwer.process_words(normalise(clip["text"]), normalise(text))
                errors[name, condition].append(found.substitutions + found.deletions + found.insertions)
            for method in methods:
                changed[method] += texts[method] != texts["none"]
    draws = np.random.default_rng(1).integers(0, len(clips), (DRAWS, len(clips)))

    def difference(name, base, chosen):
        rows = sum(np.array(errors[name, c], float) - errors[base, c] for c in chosen)
        weights = words * len(chosen)
        low, high = np.percentile(100 * rows[draws].sum(1) / weights[draws].sum(1), [2.5, 97.5])
        return f"{100 * rows.sum() / weights.sum():+.2f} ({low:+.2f} to {high:+.2f})"

    def rate(name, chosen):
        return f"{100 * sum(sum(errors[name, c]) for c in chosen) / (words.sum() * len(chosen)):.1f}"

    names = [name for name, _ in made]
    print(f"{len(clips)} clips, {int(words.sum())} words in each of {len(names)} conditions, {arguments.steps} steps")
    print(f"| condition | none | {' | '.join(methods)} |\n|---|---|{'---|' * len(methods)}")
    for title, chosen in [*((name, [name]) for name in names), ("**pooled**", names)]:
        cells = [difference(method, "none", chosen) for method in methods]
        print(f"| {title} | {rate('none', chosen)} | {' | '.join(cells)} |")
    for method in methods:
        print(f"{method}: Whisper's text changed in {changed[method]} of {len(clips) * len(names)}; the CTC model's own rate "
              f"{rate('CTC none', names)} without, {difference(f'CTC {method}', 'CTC none', names)}")


if __name__ == "__main__":
    main()
