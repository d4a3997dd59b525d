#!/usr/bin/env python3
"""Checks this reference against a model's golden.safetensors: log-mel, logits, SUTA's terms, tensors and texts.

For each clip named in the golden file, prints the largest difference of each quantity and fails where one is beyond
what another PyTorch version or processor may change.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from suta import CHOICES, Suta
from whisper_ctc import Vocabulary, load_model, log_mel, read_audio

# Largest absolute difference, but relative to the greatest value for gradients; the golden's matrices are f16.
LIMITS = {"log_mel": 1e-4, "logits": 1e-3, "terms": 1e-4, "grad1": 1e-2, "after10": 1e-3, "adapted_logits": 1e-2}


def distance(ours, theirs):
    return (ours - theirs.float()).abs().max().item()


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=root / "models/whisper-tiny.en-ctc", metavar="DIR")
    parser.add_argument("--clips", type=Path, default=root / "tests/data/librivox", metavar="DIR",
                        help="where the golden file's clips are, found by the number that ends their names")
    parser.add_argument("--loop", choices=["reference", "minimal"], default="reference")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = load_model(arguments.model)
    vocabulary = Vocabulary(arguments.model)
    failed = False

    def report(clip, what, value, limit):
        nonlocal failed
        failed |= not value <= limit
        print(f"{clip:5} {what:40} {value:.2e}{'' if value <= limit else f'  BEYOND {limit:.0e}'}")

    def compare_text(clip, what, text, expected):
        nonlocal failed
        failed |= text != expected
        print(f"{clip:5} {what:40} {'same' if text == expected else f'DIFFERS: {text!r}, not {expected!r}'}")

    with safe_open(arguments.model / "golden.safetensors", "pt") as golden:
        metadata = golden.metadata()
        texts = json.loads(metadata["texts"])
        names = list(golden.keys())
        for clip in sorted({name.partition(".")[0] for name in names}):
            (path,) = arguments.clips.glob(f"*{clip}.wav")
            mel = log_mel(read_audio(path), model.config.num_mel_bins)
            report(clip, "log-mel", distance(mel, golden.get_tensor(f"{clip}.log_mel")), LIMITS["log_mel"])
            for choice in CHOICES:
                prefix = f"{clip}.{choice.replace('-', '_')}"
                if f"{prefix}.losses" not in names:
                    continue
                gradients = {}

                def keep(step):
                    if step == 1:
                        gradients.update({name: p.grad.clone() for name, p in suta.parameters.items()})

                steps = len(golden.get_tensor(f"{prefix}.losses"))
                suta = Suta(model, choice, steps, float(metadata["learning_rate"]), loop=arguments.loop)
                result = suta.adapt(mel, keep)
                report(clip, "logits", distance(result.before, golden.get_tensor(f"{clip}.logits")), LIMITS["logits"])
                for term in ("losses", "entropy", "mcc"):
                    expected = golden.get_tensor(f"{prefix}.{term}")
                    relative = distance(torch.tensor(getattr(result, term)) / expected, torch.ones_like(expected))
                    report(clip, f"{choice}: {term}, relative", relative, LIMITS["terms"])
                for stage, tensors in (("grad1", gradients), ("after10", suta.parameters)):
                    worst = 0.0
                    for name, tensor in tensors.items():
                        expected = golden.get_tensor(f"{prefix}.{stage}.{name}").float()
                        scale = expected.abs().max().item() if stage == "grad1" else 1.0
                        worst = max(worst, distance(tensor.detach(), expected) / scale)
                    report(clip, f"{choice}: {stage}", worst, LIMITS[stage])
                expected = golden.get_tensor(f"{prefix}.adapted_logits")
                report(clip, f"{choice}: adapted logits", distance(result.after, expected), LIMITS["adapted_logits"])
                compare_text(clip, "text", vocabulary.greedy(result.before), texts[clip])
                compare_text(clip, f"{choice}: text", vocabulary.greedy(result.after), texts[prefix])
                suta.restore()
    sys.exit("differs from the golden file" if failed else 0)


if __name__ == "__main__":
    main()
