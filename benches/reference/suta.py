#!/usr/bin/env python3
"""SUTA on a Whisper-CTC model in PyTorch: what the Rust engine's results and speed are compared with.

Single-utterance test-time adaptation (Lin, Li, Lee, Interspeech 2022, arXiv:2203.14222): for each clip alone, a few
AdamW steps on 0.3 x the entropy of the non-blank frames + 0.7 x minimum class confusion over all frames, both at
temperature T, from the source parameters and empty moments; then greedy CTC.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from whisper_ctc import BLANK, RATE, Vocabulary, load_model, log_mel, read_audio, read_manifest, word_errors

CHOICES = ["layer-norm", "feature", "layer-norm+feature", "bias"]
ENTROPY_WEIGHT = 0.3


# --- Objective ---------------------------------------------------------------------------------------------------


def frame_entropy(logits):
    """Entropy of each frame's softmax in nats, [T, V] -> [T]."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def class_confusion(logits):
    """Minimum class confusion (Jin et al., 2020) with entropy re-weighting, [T, V] -> a scalar.

    C = (w * p)^T p sums over frames how much each pair of classes is confused; what is off its diagonal, once every
    class's row sums to 1, is the loss. Confident frames weigh up to twice the others; no gradient goes through weights.
    """
    p = logits.softmax(dim=-1)
    with torch.no_grad():
        weight = 1.0 + (-frame_entropy(logits)).exp()
        weight *= len(weight) / weight.sum()
    confusion = (p * weight[:, None]).T @ p
    confusion = confusion / confusion.sum(dim=1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / p.shape[1]


def objective(logits, temperature):
    """(loss, entropy, mcc) of one utterance's logits [T, V], or None where no frame's best symbol is non-blank."""
    spoken = logits.argmax(dim=-1) != BLANK
    if not spoken.any():
        return None
    softened = logits / temperature
    entropy = frame_entropy(softened)[spoken].mean()
    mcc = class_confusion(softened)
    return ENTROPY_WEIGHT * entropy + (1 - ENTROPY_WEIGHT) * mcc, entropy, mcc


def leads_over_blank(logits):
    """How far each frame's best other symbol is above the blank, [T, V] -> [T]."""
    return logits[:, 1:].amax(dim=-1) - logits[:, BLANK]


# --- Adaptation --------------------------------------------------------------------------------------------------


def adapted_parameters(model, choice):
    """{name: parameter} that a choice adapts; `bias` is every bias vector of the encoder, norms and convolutions too."""
    norms = [name for name, module in model.encoder.named_modules(prefix="encoder") if isinstance(module, nn.LayerNorm)]
    wanted = {
        "layer-norm": lambda name: name.rpartition(".")[0] in norms,
        "feature": lambda name: name.startswith(("encoder.conv1.", "encoder.conv2.")),
        "bias": lambda name: name.startswith("encoder.") and name.endswith(".bias"),
    }
    rules = [wanted[part] for part in choice.split("+")]
    return {name: p for name, p in model.named_parameters() if any(rule(name) for rule in rules)}


@dataclass
class Adaptation:
    """What adapting to one utterance did; lists have one value a step taken."""

    before: torch.Tensor  # logits [T, V] of the source model
    after: torch.Tensor  # logits [T, V] after the last step
    losses: list = field(default_factory=list)
    entropy: list = field(default_factory=list)
    mcc: list = field(default_factory=list)
    guard: str | None = None  # "all-blank" or "non-finite" where a guard ended the steps early


class Suta:
    """Episodic SUTA: `adapt` starts from the source parameters every time, and `restore` puts them back."""

    def __init__(self, model, choice="layer-norm", steps=10, lr=1e-3, temperature=2.5, loop="reference"):
        self.model, self.steps, self.lr, self.temperature, self.loop = model, steps, lr, temperature, loop
        self.choice = choice
        # Gradients for nothing else, as in the authors' code: a frozen weight costs no weight gradient.
        model.requires_grad_(False)
        self.parameters = self.adapted()
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.source = {name: p.detach().clone() for name, p in self.parameters.items()}

    # What a family of models does in its own way.

    def adapted(self):
        return adapted_parameters(self.model, self.choice)

    def optimizer(self):
        return torch.optim.AdamW(self.parameters.values(), lr=self.lr, weight_decay=0.0)

    def logits(self, batch):
        """[1, ...] -> [T, V]"""
        return self.model(batch)[0]

    def terms(self, logits):
        """(loss, entropy, mcc), or None where there is nothing to adapt to."""
        return objective(logits, self.temperature)

    @torch.no_grad()
    def restore(self):
        for name, parameter in self.parameters.items():
            parameter.copy_(self.source[name])
            parameter.grad = None

    def adapt(self, features, after_step=None):
        """Adapts to the model's input without its batch dimension. `after_step(number)` is called after each step,
        gradients still there.

        The authors run the model twice a step, to step and then to look (21 forwards and 10 backwards for 10 steps):
        `reference`. A look's logits are the next step's: `minimal` runs it once (11 and 10) with the same result.
        """
        self.restore()
        optimizer = self.optimizer()
        batch = features[None]
        minimal = self.loop == "minimal"
        with torch.set_grad_enabled(minimal and self.steps > 0):
            logits = self.logits(batch)
        result = Adaptation(before=logits.detach(), after=logits.detach())
        for step in range(1, self.steps + 1):
            if not minimal:
                logits = self.logits(batch)
            terms = self.terms(logits)
            if terms is None:
                result.guard = "all-blank"
                break
            loss, entropy, mcc = terms
            optimizer.zero_grad()
            loss.backward()
            if not (loss.isfinite() and all(p.grad.isfinite().all() for p in self.parameters.values())):
                result.guard = "non-finite"
                break
            optimizer.step()
            result.losses.append(loss.item())
            result.entropy.append(entropy.item())
            result.mcc.append(mcc.item())
            if after_step:
                after_step(step)
            with torch.set_grad_enabled(minimal and step < self.steps):
                logits = self.logits(batch)
            result.after = logits.detach()
        return result


def sgemm_gflops(size=1024, repeats=20):
    """PyTorch's rate on a square product with the present threads, the best of some."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


# --- Command -----------------------------------------------------------------------------------------------------


def recognise(model, vocabulary, samples, suta):
    """One clip's report, timed from samples to text."""
    start = time.perf_counter()
    mel = log_mel(samples, model.config.num_mel_bins)
    if mel.shape[1] == 0:
        report = {"text": "", "unadapted_text": "", "guard": "too-short"}
    elif suta is None:
        with torch.no_grad():
            text = vocabulary.greedy(model(mel[None])[0])
        report = {"text": text, "unadapted_text": text, "guard": None}
    else:
        result = suta.adapt(mel)
        report = {
            "text": vocabulary.greedy(result.after),
            "unadapted_text": vocabulary.greedy(result.before),
            "losses": result.losses,
            "entropy": result.entropy,
            "mcc": result.mcc,
            "guard": result.guard,
        }
    seconds = time.perf_counter() - start
    duration = len(samples) / RATE
    report |= {"duration": duration, "seconds": seconds, "real_time_factor": seconds / duration if duration else 0.0}
    return report


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="16 kHz recordings, at most 30 s each")
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("--manifest", action="append", default=[], metavar="FILE", help="NeMo-style manifest; may repeat")
    parser.add_argument("--adapt", choices=["none", "suta"], default="suta")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW's learning rate (default 1e-3; the paper's: 2e-5)")
    parser.add_argument("--parameters", choices=CHOICES, default="layer-norm")
    parser.add_argument("--temperature", type=float, default=2.5)
    parser.add_argument("--loop", choices=["reference", "minimal"], default="reference",
                        help="the authors' 21 forwards and 10 backwards, or 11 and 10 with the same result")
    parser.add_argument("--noise-delta", type=float, default=0.0, metavar="D",
                        help="x + D N(0,1), clipped to [-1, 1]: numpy.random.default_rng(SEED) is made once a run and "
                        "gives each clip in turn standard_normal(len(x)) in f64; the sum is rounded to f32")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N clips only")
    parser.add_argument("--threads", type=int, metavar="N", help="PyTorch's threads (default: its own choice)")
    parser.add_argument("--warm-up", action="store_true", help="first run 1 s of the first clip, untimed")
    parser.add_argument("--json", metavar="OUT", help="write the report here ('-': standard output)")
    arguments = parser.parse_args()
    if not arguments.paths and not arguments.manifest:
        parser.error("give recordings or a --manifest")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clips = [{"audio_filepath": path} for path in arguments.paths]
    for manifest in arguments.manifest:
        clips += read_manifest(manifest)
    clips = clips[: arguments.limit]

    model = load_model(arguments.model)
    vocabulary = Vocabulary(arguments.model)
    suta = None
    if arguments.adapt == "suta":
        suta = Suta(model, arguments.parameters, arguments.steps, arguments.lr, arguments.temperature, arguments.loop)
    if arguments.warm_up and clips:
        recognise(model, vocabulary, read_audio(clips[0]["audio_filepath"])[:RATE], suta)

    noise = np.random.default_rng(arguments.seed)
    reports, errors, source_errors, words = [], 0, 0, 0
    for clip in clips:
        samples = read_audio(clip["audio_filepath"])
        if arguments.noise_delta:
            noisy = samples + arguments.noise_delta * noise.standard_normal(len(samples))
            samples = noisy.clip(-1.0, 1.0).astype(np.float32)
        report = {"path": clip["audio_filepath"]} | recognise(model, vocabulary, samples, suta)
        if "text" in clip:
            report["reference"] = clip["text"]
            wrong, count = word_errors(clip["text"], report["text"])
            errors, words = errors + wrong, words + count
            source_errors += word_errors(clip["text"], report["unadapted_text"])[0]
        reports.append(report)
        if arguments.json != "-":
            print(f"{report['path']}\t{report['text']}", flush=True)

    duration = sum(report["duration"] for report in reports)
    seconds = sum(report["seconds"] for report in reports)
    totals = {
        "clips": len(reports),
        "duration": duration,
        "seconds": seconds,
        "real_time_factor": seconds / duration if duration else None,
        "median_real_time_factor": statistics.median(r["real_time_factor"] for r in reports) if reports else None,
        "words": words,
        "wer": 100 * errors / words if words else None,
        "unadapted_wer": 100 * source_errors / words if words else None,
        "guarded": sum(report["guard"] is not None for report in reports),
        # The kernel counts kibibytes on Linux.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    settings = vars(arguments) | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if arguments.json:
        report = {"settings": settings, "sgemm_gflops": sgemm_gflops(), "clips": reports, "totals": totals}
        document = json.dumps(report, indent=1)
        if arguments.json == "-":
            print(document)
        else:
            with open(arguments.json, "w") as out:
                out.write(document + "\n")
    wer = f"WER {totals['wer']:.1f} % (unadapted {totals['unadapted_wer']:.1f} %), " if words else ""
    rtf = f"real-time factor {totals['real_time_factor']:.4f}, " if duration else ""
    print(f"{len(reports)} clips, {duration:.1f} s of audio: {wer}{rtf}"
          f"peak memory {totals['peak_memory_bytes'] / 2**20:.0f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
