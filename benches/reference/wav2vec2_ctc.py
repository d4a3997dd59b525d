"""SUTA, SDPL and continual SUTA on the wav2vec2 family in PyTorch and transformers: the Rust engine's oracle.

Written from the papers and the authors' published settings (Lin, Li, Lee, Interspeech 2022, and what its code does where
that changes numbers): see each function.
"""

import contextlib
import json

import safetensors.torch
import torch
import transformers
from torch import nn

from suta import Suta, leads_over_blank
from whisper_ctc import BLANK, SYMBOLS

CHOICES = ["layer-norm", "layer-norm+feature", "compat", "all"]
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "padding_value": 0.0,
    "do_normalize": True,
    "return_attention_mask": False,
}
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "word_delimiter_token": "|",
    "do_lower_case": False,
    "replace_word_delimiter_char": " ",
}


def save_directory(model, out):
    """What a published model's directory holds."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    for name, value in [
        ("preprocessor_config.json", PREPROCESSOR),
        ("tokenizer_config.json", TOKENIZER),
        ("vocab.json", {symbol: index for index, symbol in enumerate(SYMBOLS)}),
    ]:
        (out / name).write_text(json.dumps(value, indent=1) + "\n")
    (out / "generation_config.json").unlink(missing_ok=True)


def save_golden(tensors, path, metadata):
    """safetensors writes metadata in an order that changes from run to run. Here it goes by name, so that the same
    tensors are the same file."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    file = safetensors.torch.save(tensors, metadata)
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length]) | {"__metadata__": dict(sorted(metadata.items()))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + file[8 + length :])


def load(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    architecture = getattr(transformers, config.architectures[0])
    return architecture.from_pretrained(directory, attn_implementation="eager").eval()


def normalise(samples):
    """As Wav2Vec2FeatureExtractor with do_normalize, [samples] f64 -> f32."""
    return ((samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()).float()


def greedy_labels(logits):
    """Greedy CTC: the best symbol of each frame, repeats merged, blanks dropped, [T, V] -> a list of indices."""
    best = logits.argmax(dim=-1)
    merged = best.unique_consecutive()
    return merged[merged != BLANK].tolist()


def greedy_text(logits):
    """`|` is a space, symbols in angle brackets are silent."""
    symbols = (SYMBOLS[label] for label in greedy_labels(logits))
    letters = "".join(" " if s == "|" else "" if s.startswith("<") else s for s in symbols)
    return " ".join(letters.split())


def listed_parameters(model):
    """The authors' optimiser list for layer-norm+feature: one walk over all modules, which lists a layer norm's own
    tensors, and under the feature extractor and projection every tensor below each module - so several times."""
    listed = []
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            listed += [(f"{name}.{leaf}", p) for leaf, p in module.named_parameters()]
        parts = name.split(".")
        if len(parts) > 1 and parts[1] in ("feature_extractor", "feature_projection"):
            listed += [(f"{name}.{leaf}", p) for leaf, p in module.named_parameters()]
    return listed


def chosen_parameters(model, choice):
    """{name: parameter}; names are the checkpoint's."""
    if choice == "all":
        return {name: p for name, p in model.named_parameters() if not name.endswith("masked_spec_embed")}
    if choice in ("layer-norm+feature", "compat"):
        return dict(listed_parameters(model))
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    return {f"{name}.{leaf}": p for name, module in norms for leaf, p in module.named_parameters()}


def multiplicities(model):
    """How often the authors' list has each tensor: {name: count}."""
    counts = {}
    for name, _ in listed_parameters(model):
        counts[name] = counts.get(name, 0) + 1
    return counts


class FamilySuta(Suta):
    """SUTA on a model of transformers. Choice `compat`: the authors' list, duplicates and all, each of which AdamW
    updates in turn (PyTorch's one-tensor-at-a-time implementation, the default of the authors' time)."""

    def adapted(self):
        return chosen_parameters(self.model, self.choice)

    def optimizer(self):
        parameters = list(self.parameters.values())
        if self.choice == "compat":
            parameters = [p for _, p in listed_parameters(self.model)]
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0, foreach=False)

    def logits(self, batch):
        return self.model(batch).logits[0]


class Sdpl(FamilySuta):
    """Pseudo-label CTC: the source model's own greedy labels, taken once before the first step, as CTC's target; Adam
    at 1e-4, layer norms. The authors' softmax runs over time instead of over the symbols: `over_time` keeps that. Not
    kept: their code takes the labels anew at each step, from the text, so without the symbols in angle brackets."""

    def __init__(self, model, target, over_time, steps=10, lr=1e-4):
        super().__init__(model, "layer-norm", steps, lr)
        self.target, self.over_time = torch.tensor([target]), over_time

    def optimizer(self):
        return torch.optim.Adam(self.parameters.values(), lr=self.lr, foreach=False)

    def terms(self, logits):
        loss = sdpl_loss(logits, self.target, self.over_time)
        return loss, loss, loss


def sdpl_loss(logits, target, over_time):
    """CTC over [T, V], divided by the target's length (PyTorch's `mean`)."""
    log_probabilities = logits.log_softmax(dim=0 if over_time else 1)[:, None]
    lengths = torch.tensor([len(logits)]), torch.tensor([target.shape[1]])
    return nn.functional.ctc_loss(log_probabilities, target, *lengths, blank=BLANK, reduction="mean")


@contextlib.contextmanager
def watch_leads(model):
    """A list that gets, at each forward, how near the frame nearest to it is to turning blank or not."""
    closest = []
    hook = model.register_forward_hook(
        lambda _, __, out: closest.append(leads_over_blank(out.logits[0].detach()).abs().min().item())
    )
    try:
        yield closest
    finally:
        hook.remove()


def continual_suta(model, utterances, lr):
    """CSUTA: one step an utterance, parameters and moments carried on; (loss, logits after the step) of each."""
    suta = FamilySuta(model, "layer-norm+feature", 1, lr)
    optimizer = suta.optimizer()
    results = []
    for utterance in utterances:
        loss, *_ = suta.terms(suta.logits(utterance[None]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            results.append((loss.item(), suta.logits(utterance[None])))
    suta.restore()
    return results


# --- Random weights ------------------------------------------------------------------------------------------------


@torch.no_grad()
def randomise(model, generator, deep=False):
    """Random weights at which every part matters: no norm is the identity, attention is not uniform, the head is
    sharp enough that frames differ in entropy. In a deep model random attention, layer upon layer, would average all
    frames into one: there it looks more sharply and counts less."""

    def normal(shape, scale):
        return torch.randn(shape, generator=generator) * scale

    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        owner = model.get_submodule(name.rpartition(".")[0]) if "parametrizations" not in name else None
        if isinstance(owner, (nn.LayerNorm, nn.GroupNorm)):
            value = normal(parameter.shape, 0.3) + (1.0 if leaf == "weight" else 0.0)
        elif leaf == "original0":  # weight norm's magnitude, one a tap
            value = normal(parameter.shape, 0.3).abs() + 0.5
        elif leaf == "bias":
            value = normal(parameter.shape, 0.2)
        elif leaf == "gru_rel_pos_const":
            value = normal(parameter.shape, 0.5) + 1.0
        elif leaf == "weight" and isinstance(owner, nn.Embedding):
            value = normal(parameter.shape, 1.0)
        elif leaf == "masked_spec_embed":
            value = normal(parameter.shape, 1.0)
        else:
            gain = 5.0 if owner is model.lm_head else 1.4
            if deep and "attention." in name:
                gain = 3.0 if "q_proj" in name or "k_proj" in name else 0.4
            value = normal(parameter.shape, gain * parameter[0].numel() ** -0.5)
        parameter.copy_(value)


@torch.no_grad()
def balance_blank(model, inputs):
    """Makes about half of the frames blank, and none nearly so: the blank's bias goes into the widest gap near the
    middle of the leads over it."""
    leads = torch.cat([leads_over_blank(model(values[None]).logits[0]) for values in inputs]).sort().values
    middle = leads[len(leads) // 3 : 2 * len(leads) // 3 + 1]
    widest = middle.diff().argmax()
    model.lm_head.bias[BLANK] += middle[widest : widest + 2].mean()
