#!/usr/bin/env python3
"""Golden tensors of tiny random models of the wav2vec2 family: what the Rust engine's tests compare every stage with.

For each architecture a directory as transformers saves it, and beside the model golden.safetensors, computed by PyTorch
in f32:

  samples, input_values           [samples] before and after the feature extractor's normalisation
  conv_features                   [T, conv_dim] the convolutions' output, before the projection and its norm
  hidden.N                        [T, D] what enters layer N, and last the last layer's output (before any final norm)
  logits                          [T, V]
  blank.logits                    [T, V] with the blank's bias raised by 100: an all-blank utterance
  grad1.NAME                      the loss's gradient at the first step, of every tensor
for each SETTING of layer-norm, layer-norm+feature, compat (the same, listed as the authors' optimiser lists it), all:
  SETTING.{losses,entropy,mcc}    [10], AdamW, lr 1e-3, T 2.5
  SETTING.adapted_logits          [T, V] after the tenth step
and, but for `all`:
  SETTING.after{1,10}.NAME        every adapted tensor after the first and the tenth step
for wav2vec2-base and -large, SDPL with softmax over the symbols (sdpl) and over time (sdpl-compat), layer norms:
  sdpl.target                     [U] the source model's greedy labels, taken once and kept for all ten steps
  METHOD.{losses,adapted_logits}  Adam, lr 1e-4
  METHOD.dlogits                  [T, V] the gradient at the first step
for wav2vec2-base, continual SUTA, one step an utterance, layer-norm+feature, lr 1e-3:
  csuta.input.N, csuta.logits.N   the logits after the step
  csuta.losses                    [3]
The metadata has the versions, the texts, and compat's counts by tensor.

ctc-loss/golden.safetensors: CTC's loss alone, computed in f64. N.logits [T, V], N.target [U] (f32), N.loss [1] (f64, not
divided; infinite where the target does not fit), N.dlogits [T, V] (f64) where it does.
"""

import argparse
import copy
import json
import warnings
from pathlib import Path

import torch
import transformers
from torch import nn

from wav2vec2_ctc import (
    CHOICES, FamilySuta, Sdpl, balance_blank, continual_suta, greedy_labels, greedy_text, load, multiplicities,
    normalise, randomise, save_directory, save_golden, sdpl_loss, watch_leads,
)
from whisper_ctc import BLANK

SMALL = {
    "vocab_size": 32, "pad_token_id": 0, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 7,
}
BASE = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
WAVLM = {"num_buckets": 32, "max_bucket_distance": 24}
MODELS = {
    "wav2vec2-base": ("Wav2Vec2", BASE),
    "wav2vec2-large": ("Wav2Vec2", LARGE),
    "hubert-base": ("Hubert", BASE),
    "hubert-large": ("Hubert", LARGE),
    "data2vec-audio": ("Data2VecAudio", {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 5}),
    "wavlm-base": ("WavLM", BASE | WAVLM),
    "wavlm-large": ("WavLM", LARGE | WAVLM | {"num_hidden_layers": 3}),
}
SAMPLES = 12_345
STEPS, LR = 10, 1e-3
# Nearer than this, rounding alone decides whether a frame is blank.
CLOSEST = 1e-4


def waveform(count, generator):
    """Smoothed noise of varying level, [count] f64."""
    noise = torch.randn(count + 7, generator=generator, dtype=torch.float64).unfold(0, 8, 1).mean(dim=-1)
    level = 0.1 + torch.sin(torch.arange(count) / 1500.0).abs()
    return 0.1 * noise * level + 0.01


def build(name, generator, inputs):
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**(SMALL | settings))
    model = getattr(transformers, f"{family}ForCTC")(config).eval()
    randomise(model, generator)
    model.set_attn_implementation("eager")
    balance_blank(model, inputs)
    return model


class Trouble(Exception):
    """This seed will not do."""


def trajectory(suta, values, kept):
    """The terms of the loss, the final logits, and what is `kept` of every adapted tensor."""
    tensors = {}

    def keep(step):
        for name, parameter in suta.parameters.items():
            if step == 1:
                tensors[f"grad1.{name}"] = parameter.grad.clone()
            if step in (1, STEPS):
                tensors[f"after{step}.{name}"] = parameter.detach().clone()

    with watch_leads(suta.model) as closest:
        result = suta.adapt(values, keep)
    suta.restore()
    if result.guard or min(closest) < CLOSEST or result.losses[-1] >= result.losses[0]:
        raise Trouble
    # A trajectory that f32's rounding alone bends is no oracle: PyTorch's own must be the one f64 takes.
    exact = FamilySuta(copy.deepcopy(suta.model).double(), suta.choice, STEPS, LR).adapt(values.double())
    if max(abs(a / b - 1.0) for a, b in zip(result.losses, exact.losses)) > 2e-6:
        raise Trouble
    tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in kept}
    for term in ("losses", "entropy", "mcc"):
        tensors[term] = torch.tensor(getattr(result, term))
    return tensors | {"adapted_logits": result.after}


def goldens(name, model, samples, values, generator):
    with torch.no_grad():
        output = model(values[None], output_hidden_states=True)
        logits = output.logits[0]
        golden = {"samples": samples.float(), "input_values": values, "logits": logits}
        golden["conv_features"] = model.base_model.feature_extractor(values[None])[0].T
        golden |= {f"hidden.{n}": hidden[0] for n, hidden in enumerate(output.hidden_states)}
        model.lm_head.bias[BLANK] += 100.0
        golden["blank.logits"] = model(values[None]).logits[0]
        model.lm_head.bias[BLANK] -= 100.0
        golden["logits_again"] = model(values[None]).logits[0]
    if not torch.equal(golden.pop("logits_again"), logits):
        # The bias lost its last bits: put it where adding and subtracting 100 is exact.
        raise Trouble
    assert (golden["blank.logits"].argmax(dim=-1) == BLANK).all()
    spoken = int((logits.argmax(dim=-1) != BLANK).sum())
    if not 3 <= spoken <= len(logits) - 3:
        raise Trouble
    texts = {"text": greedy_text(logits)}
    for choice in CHOICES:
        kept = ["grad1"] if choice == "all" else ["after1", "after10"]
        tensors = trajectory(FamilySuta(model, choice, STEPS, LR), values, kept)
        texts[f"{choice}.text"] = greedy_text(tensors["adapted_logits"])
        for key, tensor in tensors.items():
            golden[key if key.startswith("grad1.") else f"{choice}.{key}"] = tensor
    for key, tensor in golden.items():
        # The keys' biases shift a row's scores alike: softmax cancels them.
        if key.startswith("grad1.") and "k_proj.bias" not in key and tensor.abs().max() == 0:
            raise AssertionError(f"{key} is zero")
    if name in ("wav2vec2-base", "wav2vec2-large"):
        target = greedy_labels(logits)
        golden["sdpl.target"] = torch.tensor(target, dtype=torch.float32)
        for method in ("sdpl", "sdpl-compat"):
            over_time = method == "sdpl-compat"
            sdpl = Sdpl(model, target, over_time)
            result = sdpl.adapt(values)
            sdpl.restore()
            if result.guard or result.losses[-1] >= result.losses[0]:
                raise Trouble
            golden[f"{method}.losses"] = torch.tensor(result.losses)
            golden[f"{method}.adapted_logits"] = result.after
            leaf = logits.clone().requires_grad_(True)
            sdpl_loss(leaf, torch.tensor([target]), over_time).backward()
            golden[f"{method}.dlogits"] = leaf.grad
    if name == "wav2vec2-base":
        inputs = [normalise(waveform(count, generator)) for count in (6000, 9000, 7500)]
        with watch_leads(model) as closest:
            results = continual_suta(model, inputs, LR)
        if min(closest) < CLOSEST:
            raise Trouble
        for n, (values, (_, after)) in enumerate(zip(inputs, results)):
            golden |= {f"csuta.input.{n}": values, f"csuta.logits.{n}": after}
        golden["csuta.losses"] = torch.tensor([loss for loss, _ in results])
    return golden, texts


def write_model(out, name, seed):
    for attempt in range(40):
        generator = torch.Generator().manual_seed(seed + attempt)
        samples = waveform(SAMPLES, generator)
        values = normalise(samples)
        model = build(name, generator, [values])
        directory = out / name
        save_directory(model, directory)
        model = load(directory)
        try:
            golden, texts = goldens(name, model, samples, values, generator)
        except Trouble:
            continue
        metadata = texts | {
            "torch": torch.__version__, "transformers": transformers.__version__, "seed": str(seed + attempt),
            "learning_rate": str(LR), "temperature": "2.5", "steps": str(STEPS),
            "multiplicity": json.dumps(multiplicities(model), sort_keys=True),
        }
        save_golden(golden, directory / "golden.safetensors", metadata)
        size = sum(path.stat().st_size for path in directory.iterdir()) / 1000
        losses = golden["layer-norm+feature.losses"]
        print(f"{name}: seed {seed + attempt}, {size:.0f} kB, loss {losses[0]:.4f} -> {losses[-1]:.4f}", flush=True)
        return
    raise SystemExit(f"{name}: no seed near {seed} will do")


def write_ctc_loss(out, seed):
    generator = torch.Generator().manual_seed(seed)
    cases = [  # T, V, target, scale of the logits
        (1, 5, [3], 1.0), (1, 5, [], 1.0), (6, 5, [], 1.0), (6, 5, [1, 2, 3], 1.0), (7, 5, [2, 2, 2], 1.0),
        (5, 5, [2, 2, 2], 1.0), (8, 5, [1, 1, 2, 3, 3], 1.0), (40, 32, list(range(5, 20)), 5.0),
        (60, 32, [7, 7, 4, 9, 9, 9, 4, 12], 30.0), (400, 32, None, 3.0),
        (4, 5, [2, 2, 2], 1.0), (2, 5, [1, 2, 3], 1.0),  # these two do not fit
    ]
    golden = {}
    for n, (frames, classes, target, scale) in enumerate(cases):
        if target is None:
            target = torch.randint(1, classes, (80,), generator=generator).tolist()
        logits = torch.randn(frames, classes, generator=generator) * scale
        leaf = logits.double().requires_grad_(True)
        lengths = torch.tensor([frames]), torch.tensor([len(target)])
        labels = torch.tensor([target], dtype=torch.long).reshape(1, -1)
        loss = nn.functional.ctc_loss(leaf.log_softmax(-1)[:, None], labels, *lengths, blank=BLANK, reduction="sum")
        golden |= {f"{n}.logits": logits, f"{n}.target": torch.tensor(target, dtype=torch.float32),
                   f"{n}.loss": loss.detach().reshape(1)}
        if loss.isfinite():
            loss.backward()
            golden[f"{n}.dlogits"] = leaf.grad
    directory = out / "ctc-loss"
    directory.mkdir(parents=True, exist_ok=True)
    save_golden(golden, directory / "golden.safetensors", {"torch": torch.__version__, "seed": str(seed)})


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/goldens", metavar="DIR")
    parser.add_argument("--seed", type=int, default=2203)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    arguments = parser.parse_args()
    # One thread: sums are then always taken in one order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # What `compat` is about.
    warnings.filterwarnings("ignore", message="optimizer contains a parameter group with duplicate parameters")
    for name in arguments.models:
        write_model(arguments.out, name, arguments.seed)
    write_ctc_loss(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
