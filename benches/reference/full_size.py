#!/usr/bin/env python3
"""wav2vec2-base's full-size architecture with random weights, and what PyTorch computes with it on 10 s of real speech.

The published checkpoints cannot be had everywhere; their sizes can. Writes the model's directory to --out, and beside it
golden.safetensors as wav2vec2_goldens.py describes: samples, input_values, hidden.N, logits, and for layer-norm+feature
and compat ten SUTA steps at lr 2e-5: losses, entropy, mcc, adapted_logits, texts. About 400 MB; not to be committed.
`AURIST_FULL_SIZE=DIR cargo test --release --test full_size` compares.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
import transformers

from wav2vec2_ctc import (
    FamilySuta, balance_blank, greedy_text, load, multiplicities, normalise, randomise, save_directory, save_golden,
    watch_leads,
)
from whisper_ctc import RATE, read_audio

STEPS, LR = 10, 2e-5
ROOT = Path(__file__).resolve().parents[2]


def speech(seconds):
    """The bundled recordings one after another, [samples] f64."""
    clips = sorted((ROOT / "tests/data/librivox").glob("*.wav"))
    samples = torch.cat([torch.as_tensor(read_audio(clip), dtype=torch.float64) for clip in clips])
    return samples[: seconds * RATE]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "target/full-size", metavar="DIR")
    parser.add_argument("--seed", type=int, default=2203)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--model-only", action="store_true", help="no goldens, which take minutes")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="optimizer contains a parameter group with duplicate parameters")
    samples = speech(arguments.seconds)
    values = normalise(samples)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size=32, pad_token_id=0)).eval()
    model.set_attn_implementation("eager")
    randomise(model, generator, deep=True)
    balance_blank(model, [values])
    save_directory(model, arguments.out)
    if arguments.model_only:
        return
    model = load(arguments.out)

    with torch.no_grad():
        output = model(values[None], output_hidden_states=True)
    golden = {"samples": samples.float(), "input_values": values, "logits": output.logits[0]}
    golden |= {f"hidden.{n}": hidden[0] for n, hidden in enumerate(output.hidden_states)}
    texts = {"text": greedy_text(output.logits[0])}
    for choice in ("layer-norm+feature", "compat"):
        with watch_leads(model) as closest:
            result = FamilySuta(model, choice, STEPS, LR).adapt(values)
        assert min(closest) > 1e-4, f"{choice}: a frame is blank or not by rounding alone"
        assert len(result.losses) == STEPS and result.losses[-1] < result.losses[0], result.losses
        for term in ("losses", "entropy", "mcc"):
            golden[f"{choice}.{term}"] = torch.tensor(getattr(result, term))
        golden[f"{choice}.adapted_logits"] = result.after
        texts[f"{choice}.text"] = greedy_text(result.after)
        print(f"{choice}: loss {result.losses[0]:.5f} -> {result.losses[-1]:.5f}, "
              f"no frame nearer than {min(closest):.1e} to being blank or not", flush=True)
        # Back to the source model, and all gradients let go.
        model = load(arguments.out)
    metadata = texts | {
        "torch": torch.__version__, "transformers": transformers.__version__, "seed": str(arguments.seed),
        "learning_rate": str(LR), "temperature": "2.5", "steps": str(STEPS),
        "multiplicity": json.dumps(multiplicities(model), sort_keys=True),
    }
    save_golden(golden, arguments.out / "golden.safetensors", metadata)


if __name__ == "__main__":
    main()
