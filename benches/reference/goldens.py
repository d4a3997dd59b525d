#!/usr/bin/env python3
"""Golden tensors of a tiny random Whisper-CTC model: what the Rust engine's tests compare every stage with.

Writes a model directory (config.json, vocab.json, preprocessor_config.json, model.safetensors in f32) and beside the
model golden.safetensors, all f32, computed by PyTorch. For each input F in {61, 60} frames, named `F.`:

  F.log_mel                       [frames, 80]
  F.stem                          [T, D] after both convolutions and the positions
  F.layer.N                       [T, D] after layer N
  F.norm                          [T, D] after the final norm
  F.logits                        [T, V]
and for each choice of adapted parameters, ten steps of SUTA (AdamW, lr 1e-3, T 2.5):
  F.CHOICE.{losses,entropy,mcc}   [10]
  F.CHOICE.adapted_logits         [T, V] after the tenth step
and for 61 frames every adapted tensor (at 60, to keep the file small, only layer-norm+feature's grad1):
  F.CHOICE.grad1.NAME             its gradient at the first step
  F.CHOICE.after1.NAME            after the first step
  F.CHOICE.after10.NAME           after the tenth
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from suta import CHOICES, Suta, leads_over_blank
from whisper_ctc import BLANK, SYMBOLS, WhisperCtc, load_model, read_config

CONFIG = {
    "architectures": ["WhisperForCTC"],
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 80,
    "max_source_positions": 48,
    "activation_function": "gelu",
    "vocab_size": 32,
    "pad_token_id": 0,
    "ctc_blank_id": 0,
    "torch_dtype": "float32",
}
PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "return_attention_mask": False,
}
FRAMES = [61, 60]  # odd on purpose, and even: a stride of 2 treats them differently
STEPS, LR = 10, 1e-3
KEPT = {61: ["grad1", "after1", "after10"], (60, "layer-norm+feature"): ["grad1"]}


def randomise(model, generator):
    """Random weights at which every part matters: no norm is the identity, attention is not uniform."""

    def normal(shape, scale):
        return torch.randn(shape, generator=generator) * scale

    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.LayerNorm):
            value = normal(parameter.shape, 0.3) + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            value = normal(parameter.shape, 0.2)
        elif isinstance(owner, nn.Embedding):
            value = normal(parameter.shape, 0.5)
        else:
            fan_in = parameter[0].numel()
            # A sharper head: at T 2.5 the frames' entropies should differ, as a trained model's do.
            value = normal(parameter.shape, (5.0 if owner is model.ctc_head else 1.4) * fan_in**-0.5)
        parameter.copy_(value)


def clips(generator):
    """Log-mels in Whisper's range, smooth in time like speech, [frames, 80]."""
    for frames in FRAMES:
        steps = torch.randn(frames + 4, 80, generator=generator)
        yield frames, (steps.unfold(0, 5, 1).mean(dim=-1) * 1.2).clamp(-1.0, 1.5).contiguous()


def trace(model, log_mel):
    """Every stage's output for log_mel [frames, 80]."""
    hidden = model.stem(log_mel.T[None])
    stages = {"log_mel": log_mel, "stem": hidden[0]}
    for index in range(model.config.encoder_layers):
        hidden = model.layers(hidden, index, index + 1)
        stages[f"layer.{index}"] = hidden[0]
    stages["norm"] = model.encoder.layer_norm(hidden)[0]
    stages["logits"] = model.head(hidden)[0]
    return stages


def trajectory(model, choice, log_mel, kept):
    """Ten steps of SUTA: the terms of the loss, the final logits, and what is `kept` of every adapted tensor."""
    suta = Suta(model, choice, STEPS, LR)
    tensors = {}

    def keep(step):
        for name, parameter in suta.parameters.items():
            if step == 1:
                tensors[f"grad1.{name}"] = parameter.grad.clone()
            if step in (1, STEPS):
                tensors[f"after{step}.{name}"] = parameter.detach().clone()

    closest = []
    watch = model.register_forward_hook(lambda _, __, logits: closest.append(leads_over_blank(logits[0]).abs().min()))
    result = suta.adapt(log_mel.T.contiguous(), keep)
    watch.remove()
    suta.restore()
    assert result.guard is None and len(result.losses) == STEPS
    assert min(closest) > 1e-4, f"{choice}: a frame is blank or not by rounding alone"
    assert result.losses[-1] < result.losses[0], f"{choice}: the loss does not fall"
    for name, source in suta.source.items():
        assert tensors[f"grad1.{name}"].abs().max() > 0, f"{choice}: {name} has no gradient"
        assert not torch.equal(tensors[f"after1.{name}"], source), f"{choice}: {name} has not moved"
    tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in kept}
    for term in ("losses", "entropy", "mcc"):
        tensors[term] = torch.tensor(getattr(result, term))
    return tensors | {"adapted_logits": result.after}


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/goldens/whisper-ctc-tiny", metavar="DIR")
    parser.add_argument("--seed", type=int, default=2203)
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    # One thread: sums are then always taken in one order.
    torch.set_num_threads(1)

    for name, value in [
        ("config.json", CONFIG),
        ("preprocessor_config.json", PREPROCESSOR),
        ("vocab.json", {symbol: index for index, symbol in enumerate(SYMBOLS)}),
    ]:
        (out / name).write_text(json.dumps(value, indent=1) + "\n")
    generator = torch.Generator().manual_seed(arguments.seed)
    model = WhisperCtc(read_config(out))
    inputs = list(clips(generator))
    with torch.no_grad():
        randomise(model, generator)
        # About half of the frames must be blank, or the entropy (of the others) and the confusion (of all) are alike;
        # and none nearly so, or rounding decides. So the blank's bias goes into the widest gap near the middle.
        leads = torch.cat([leads_over_blank(model(log_mel.T[None])[0]) for _, log_mel in inputs]).sort().values
        middle = leads[len(leads) // 3 : 2 * len(leads) // 3]
        widest = middle.diff().argmax()
        model.ctc_head.bias[BLANK] += middle[widest : widest + 2].mean()
    save_file(model.state_dict(), out / "model.safetensors", {"format": "pt"})

    model = load_model(out)
    golden = {}
    for frames, log_mel in inputs:
        with torch.no_grad():
            stages = trace(model, log_mel)
        best = stages["logits"].argmax(dim=-1)
        spoken = int((best != BLANK).sum())
        print(f"{frames} frames: {spoken} of {len(best)} outputs are not blank, {len(best.unique())} symbols")
        assert 3 <= spoken <= len(best) - 3, "both blank and non-blank frames are wanted: choose another seed"
        golden |= {f"{frames}.{name}": tensor for name, tensor in stages.items()}
        for choice in CHOICES:
            tensors = trajectory(model, choice, log_mel, KEPT.get((frames, choice), KEPT.get(frames, [])))
            losses = tensors["losses"]
            print(f"  {choice}: loss {losses[0]:.6f} -> {losses[-1]:.6f}")
            golden |= {f"{frames}.{choice}.{name}": tensor for name, tensor in tensors.items()}
    metadata = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": str(arguments.seed),
        "learning_rate": str(LR),
        "temperature": "2.5",
        "steps": str(STEPS),
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in golden.items()}, out / "golden.safetensors", metadata)
    print(f"{sum(path.stat().st_size for path in out.iterdir()) / 1000:.0f} kB in {out}")


if __name__ == "__main__":
    main()
