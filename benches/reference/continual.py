#!/usr/bin/env python3
"""Continual test-time adaptation in PyTorch, over one stream of short utterances on the tiny wav2vec2 model of
tests/data/goldens/wav2vec2-base: what the Rust policies are compared with.

CSUTA, DSUTA (Lin, Huang, Lee, EMNLP 2024) without reset, with a reset every 50 utterances, at the true boundaries,
with the dynamic reset (K 100 and 30), with SAR's reset on collapse, and with CoTTA's stochastic restore; replay (DSUTA
whose slow step also rehearses earlier utterances, aurist's own); CEA (Liu, Huang, Wang, EMNLP 2024), episodic, 3 + 3 steps;
and AWMC (Lee et al., ASRU 2023) in eval mode, as later work ports it, with 3 steps. Written from the papers and from what
the authors' published code does where that changes numbers.

Writes tests/data/goldens/continual/golden.safetensors; for each POLICY of csuta, dsuta, dsuta-fixed, dsuta-oracle,
dsuta-dynamic, dsuta-dynamic-30, dsuta-compat (the optimiser's duplicate entries kept), dsuta-collapse, dsuta-restore,
replay, cea, awmc:
  POLICY.losses                   [N] the loss at each utterance's first step
  POLICY.final.NAME               every adapted tensor at the stream's end (DSUTA: the slow ones; AWMC: the chaser's; CEA: the last
                                  utterance's)
  lm_head.bias                    [V] the model's own gives short noise one letter; see `balance`
  POLICY.deviations               [..] the detector's, one a tested buffer (the dynamic ones)
The metadata has each policy's texts (one JSON list), reset positions (utterances heard, counted from 1), settings and
versions. The utterances are made by `utterance` from integers alone, here and in the Rust test alike.
"""

import argparse
import copy
import json
import math
import statistics
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from suta import ENTROPY_WEIGHT, class_confusion, frame_entropy, leads_over_blank, objective
from wav2vec2_ctc import greedy_labels, greedy_text, listed_parameters, load, normalise, save_golden
from whisper_ctc import BLANK

UTTERANCES, TEMPERATURE = 150, 2.5
BOUNDARIES = [45, 105]  # a domain changes after so many utterances
BUFFER, FAST_STEPS, PATIENCE, PERIOD = 5, 5, 2, 50
ALPHA = 0.999
MASK = (1 << 64) - 1
COLLAPSED, RESTORED = 3.34, 0.1  # nats that fire a few times on this stream; far above CoTTA's probability
RESERVOIR, CONFIDENCE = 8, 0.26  # smaller than the defaults, so that this stream overflows it
CEA_STEPS, CEA_SECOND_RATE, CEA_COHERENCE = 3, 10, 0.3


def utterance(n):
    """The samples [S] f32 of utterance n (from 0): stretches of integer noise, each smoothed over its own width and with
    its own level, around which a hum as loud as the domain has it."""
    domain = sum(n >= boundary for boundary in BOUNDARIES)
    loudness, period = [(0, 100), (1, 37), (8, 211)][domain]
    count = 4000 + 400 * (n % 5)
    state = (n + 1) * 0x9E3779B97F4A7C15 & MASK
    samples = np.zeros(count, dtype=np.int64)
    width = level = 1
    sum_, window = 0, []
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        noise = (state >> 43) - (1 << 20)
        if i % 800 == 0:
            width, level = 1 << (state >> 33) % 6, 1 + (state >> 40) % 8
            sum_, window = 0, []
        window.append(noise)
        sum_ += noise
        if len(window) > width:
            sum_ -= window[-width - 1]
        hum = (i * 4 // period % 4 in (0, 1)) * 2 - 1
        samples[i] = sum_ // width * level + (hum * loudness << 20)
    return (samples / float(1 << 25)).astype(np.float32)


class Draws:
    """wyrand (Wang Yi's wyhash 4.2) as the fastrand crate has it, seeded as aurist's policies do."""

    def __init__(self, seed, purpose, turn):
        self.state = (seed ^ turn * 0x9E3779B97F4A7C15 ^ purpose * 0xD1B54A32D192ED03) & MASK

    def number(self):
        """In [0, 1)."""
        self.state = (self.state + 0x2D358DCCAA6C78A5) & MASK
        product = self.state * (self.state ^ 0x8BB84B93962EACC9)
        value = ((product & MASK) ^ (product >> 64)) >> 1
        return value * 2.0**-63 if value * 2.0**-63 < 1.0 else self.number()


class Continual:
    """The model, its adapted parameters, one AdamW."""

    def __init__(self, model, choose, lr):
        self.model = copy.deepcopy(model)
        self.dtype = next(self.model.parameters()).dtype
        self.model.requires_grad_(False)
        self.listed = choose(self.model)
        self.parameters = dict(self.listed)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW([p for _, p in self.listed], lr=lr, weight_decay=0.0, foreach=False)
        self.source = self.snapshot()

    def snapshot(self):
        values = {name: p.detach().clone() for name, p in self.parameters.items()}
        return values, copy.deepcopy(self.optimizer.state_dict())

    @torch.no_grad()
    def restore(self, snapshot, optimizer=True):
        values, state = snapshot
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
            parameter.grad = None
        if optimizer:
            self.optimizer.load_state_dict(copy.deepcopy(state))

    def logits(self, x):
        return self.model(x[None].to(self.dtype)).logits[0]

    def loss(self, x):
        terms = objective(self.logits(x), TEMPERATURE)
        assert terms is not None, "an all-blank utterance"
        return terms[0]

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def text(self, x):
        return greedy_text(self.logits(x))


def unique(model):
    return list(dict(listed_parameters(model)).items())


def dsuta_list(model):
    """DSUTA's own list walks norms only where the feature walk has not been: projection's norm twice, not three times."""
    seen, listed = {}, listed_parameters(model)
    for name, parameter in listed:
        seen[name] = seen.get(name, 0) + 1
        if not (name.startswith("wav2vec2.feature_projection.layer_norm") and seen[name] > 2):
            yield name, parameter


def bias_and_norms(model):
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    return [(name, p) for name, p in model.named_parameters()
            if name.rpartition(".")[0] in norms or ".encoder." in name and name.endswith("bias")]


def csuta(model, stream, lr):
    run, texts, losses = Continual(model, unique, lr), [], []
    for x in stream:
        loss = run.loss(x)
        losses.append(loss.item())
        run.step(loss)
        texts.append(run.text(x))
    return run, texts, losses, [], []


def ctc(logits, target):
    """CTC of [T, V] towards a target, summed over its symbols."""
    assert target, "an empty pseudo-label"
    lengths = torch.tensor([len(logits)]), torch.tensor([len(target)])
    log_probabilities = logits.log_softmax(-1)[:, None]
    return nn.functional.ctc_loss(log_probabilities, torch.tensor([target]), *lengths, blank=BLANK, reduction="sum")


@torch.no_grad()
def restore_some(run, turn):
    """Each value back to the source model's with a probability, in the order of aurist's store: a convolution's kernel
    before its input channels."""
    draws = Draws(0, 0, turn)
    for name, parameter in run.parameters.items():
        source = run.source[0][name]
        order = (0, 2, 1) if parameter.dim() == 3 else tuple(range(parameter.dim()))
        shape = [parameter.shape[axis] for axis in order]
        chosen = torch.tensor([draws.number() < RESTORED for _ in range(parameter.numel())]).reshape(shape)
        chosen = chosen.permute(order)  # the permutation is its own inverse
        parameter.copy_(torch.where(chosen, source, parameter))


class Reservoir:
    """Algorithm R over the confident utterances of full buffers that were stepped on."""

    def __init__(self):
        self.offered, self.kept = 0, []

    def offer(self, x, logits):
        labels = greedy_labels(logits)
        p, best = logits.softmax(-1).max(-1)
        if not labels or p[best != BLANK].double().mean() < CONFIDENCE:
            return
        self.offered += 1
        if len(self.kept) < RESERVOIR:
            self.kept.append((x, labels))
            return
        place = int(Draws(0, 1, self.offered).number() * self.offered)
        if place < RESERVOIR:
            self.kept[place] = x, labels

    def draw(self, turn):
        draws, order = Draws(0, 2, turn), list(range(len(self.kept)))
        count = min(BUFFER, len(order))
        for place in range(count):
            other = place + int(draws.number() * (len(order) - place))
            order[place], order[other] = order[other], order[place]
        return [self.kept[index] for index in order[:count]]


def dsuta(model, stream, lr, reset, choose=unique, window=100, restores=False, reservoir=None):
    run = Continual(model, lambda m: list(choose(m)), lr)
    start = domain = run.snapshot()
    texts, losses, resets, deviations = [], [], [], []
    buffer, gathered, model_of_loss, failures, last, due, average = [], [], None, 0, 0, PERIOD, None
    understood, averages = [], []

    @torch.no_grad()
    def improvement(x):
        run.restore(domain, optimizer=False)
        adapted = run.loss(x).item()
        run.restore(run.source, optimizer=False)
        return adapted - run.loss(x).item()

    for n, x in enumerate(stream, 1):
        run.restore(start)
        for step in range(FAST_STEPS):
            loss = run.loss(x)
            if step == 0:
                losses.append(loss.item())
            run.step(loss)
        texts.append(run.text(x))
        buffer.append(x)
        if reservoir is not None:
            understood.append(run.logits(x).detach())
        if n % BUFFER == 0:
            fire = reset == "fixed" and n >= due or reset == "oracle" and n in BOUNDARIES
            if fire and reset == "fixed":
                due += PERIOD
            if reset == "dynamic":
                if model_of_loss is None:
                    failures = 0
                else:
                    mean, deviation = model_of_loss
                    values = [improvement(x) for x in buffer]
                    deviations.append((statistics.mean(values) - mean) / (deviation / math.sqrt(len(values))))
                    failures = failures + 1 if deviations[-1] > 2.0 else 0
                fire = failures == PATIENCE
            if reset == "collapse":
                run.restore(start)
                with torch.no_grad():
                    entropy = statistics.mean(objective(run.logits(x_i), TEMPERATURE)[1].item() for x_i in buffer)
                average = entropy if average is None else 0.9 * average + 0.1 * entropy
                averages.append(average)
                fire = average < COLLAPSED
            if fire:
                average = None
                start, gathered, model_of_loss, failures, last = run.source, [], None, 0, n
                resets.append(n)
            else:
                run.restore(start)
                run.optimizer.zero_grad()
                earlier = reservoir.draw(n) if reservoir else []
                for x_i in buffer:
                    (run.loss(x_i) / (len(buffer) + len(earlier))).backward()
                for x_i, labels in earlier:
                    (ctc(run.logits(x_i), labels) / len(labels) / (len(buffer) + len(earlier))).backward()
                run.optimizer.step()
                if restores:
                    restore_some(run, n)
                start = run.snapshot()
                for x_i, logits in zip(buffer, understood):
                    reservoir.offer(x_i, logits)
            buffer, understood = [], []
        if reset == "dynamic":
            if n == last + window // 2:
                domain = start
            elif last + window // 2 < n < last + window:
                gathered.append(improvement(x))
            if n == last + window:
                assert len(gathered) == window // 2 - 1
                model_of_loss, gathered = (statistics.mean(gathered), statistics.stdev(gathered)), []
    if averages:
        print(f"  averages {min(averages):.4f} .. {max(averages):.4f}, {[round(a, 3) for a in averages]}")
    if reservoir is not None:
        print(f"  {reservoir.offered} of {len(stream)} offered to the reservoir")
    run.restore(start)
    return run, texts, losses, resets, deviations


def awmc(model, stream, lr, steps=3):
    run = Continual(model, bias_and_norms, lr)
    source = run.source[0]
    moved = None  # the leader's distance from the source: an average that starts at zero and is not corrected for it
    texts, losses = [], []

    @torch.no_grad()
    def labels(values, x):
        run.restore((values, None), optimizer=False)
        return greedy_labels(run.logits(x))

    for x in stream:
        chaser = run.snapshot()[0]
        anchor = labels(source, x)
        for step in range(steps):
            leader = source if moved is None else {name: source[name] + moved[name] for name in source}
            target = labels(leader, x)
            run.restore((chaser, None), optimizer=False)
            logits = run.logits(x)
            loss = (ctc(logits, anchor) + ctc(logits, target)) / 2
            if step == 0:
                losses.append(loss.item())
            run.step(loss)
            chaser = run.snapshot()[0]
            step_away = {name: (1 - ALPHA) * (chaser[name] - source[name]) for name in source}
            moved = step_away if moved is None else {k: ALPHA * moved[k] + step_away[k] for k in source}
        texts.append(run.text(x))
    return run, texts, losses, [], []


def coherence(features, spoken):
    """[T, C]: the mean distance of attended features from one frame to the next, over spoken frames."""
    attended = (features @ features.T).softmax(-1) @ features + features
    return (attended[1:] - attended[:-1]).norm(dim=-1)[spoken[1:]].mean()


def cea(model, stream, lr):
    """Each utterance from the source model, both optimizers new."""
    run, texts, losses = Continual(model, unique, lr), [], []
    norms = {name for name, m in run.model.named_modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))}
    second_list = [p for name, p in run.parameters.items() if name.rpartition(".")[0] in norms]
    for x in stream:
        run.restore(run.source)
        second = torch.optim.AdamW(second_list, lr=CEA_SECOND_RATE * lr, weight_decay=0.0, foreach=False)
        for step in range(2 * CEA_STEPS):
            logits = run.logits(x)
            spoken = logits.argmax(-1) != BLANK
            entropy = frame_entropy(logits / TEMPERATURE)
            if step < CEA_STEPS:
                term, rest = (entropy.sigmoid() * entropy)[spoken].mean(), 0.0
            else:
                features = run.model.wav2vec2.feature_extractor(x[None].to(run.dtype))[0].T
                term, rest = entropy.mean(), CEA_COHERENCE * coherence(features, spoken)
            loss = ENTROPY_WEIGHT * term + (1 - ENTROPY_WEIGHT) * class_confusion(logits / TEMPERATURE) + rest
            if step == 0:
                losses.append(loss.item())
            optimizer = run.optimizer if step < CEA_STEPS else second
            run.model.zero_grad()
            loss.backward()
            optimizer.step()
        texts.append(run.text(x))
    return run, texts, losses, [], []


POLICIES = {
    "csuta": lambda m, s, lr: csuta(m, s, lr),
    "dsuta": lambda m, s, lr: dsuta(m, s, lr, "none"),
    "dsuta-fixed": lambda m, s, lr: dsuta(m, s, lr, "fixed"),
    "dsuta-oracle": lambda m, s, lr: dsuta(m, s, lr, "oracle"),
    "dsuta-dynamic": lambda m, s, lr: dsuta(m, s, lr, "dynamic"),
    "dsuta-dynamic-30": lambda m, s, lr: dsuta(m, s, lr, "dynamic", window=30),
    "dsuta-compat": lambda m, s, lr: dsuta(m, s, lr, "none", dsuta_list),
    "dsuta-collapse": lambda m, s, lr: dsuta(m, s, lr, "collapse"),
    "dsuta-restore": lambda m, s, lr: dsuta(m, s, lr, "none", restores=True),
    "replay": lambda m, s, lr: dsuta(m, s, lr, "none", reservoir=Reservoir()),
    "cea": lambda m, s, lr: cea(m, s, lr),
    "awmc": lambda m, s, lr: awmc(m, s, lr),
}


@torch.no_grad()
def balance(model, stream):
    """The output layer's bias [V] at which the stream's frames spread over the symbols, a third of them blank."""
    bias = model.lm_head.bias
    logits = torch.cat([model(x[None]).logits[0] for x in stream])
    bias -= logits.mean(dim=0)
    bias[BLANK] += leads_over_blank(logits - logits.mean(dim=0)).quantile(0.35)
    return bias.clone()


def main():
    root = Path(__file__).resolve().parents[2] / "tests/data/goldens"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate (AWMC's is 10 times smaller)")
    parser.add_argument("--check", action="store_true", help="that f64 gives the same texts and resets; twice the time")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument("policies", nargs="*", default=list(POLICIES), metavar="POLICY")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="optimizer contains a parameter group with duplicate parameters")

    model = load(root / "wav2vec2-base")
    stream = [normalise(torch.from_numpy(utterance(n)).double()) for n in range(UTTERANCES)]
    golden = {"lm_head.bias": balance(model, stream)}
    metadata = {"collapsed": str(COLLAPSED), "restored": str(RESTORED), "reservoir": str(RESERVOIR),
                "confidence": str(CONFIDENCE), "cea_steps": str(CEA_STEPS), "torch": torch.__version__, "transformers": transformers.__version__, "learning_rate": str(arguments.lr),
                "utterances": str(UTTERANCES), "boundaries": json.dumps(BOUNDARIES)}
    for name in arguments.policies:
        lr = arguments.lr / 10 if name == "awmc" else arguments.lr
        run, texts, losses, resets, deviations = POLICIES[name](model, stream, lr)
        moved = max((run.source[0][k] - v).abs().max().item() for k, v in run.parameters.items())
        print(f"{name}: {len(set(texts))} texts, loss {np.mean(losses[:20]):.4f} -> {np.mean(losses[-20:]):.4f}, resets "
              f"{resets}, deviations {[round(d, 2) for d in deviations]}, moved {moved:.1e}", flush=True)
        if arguments.check:
            # What f32's rounding alone would change is no oracle: f64 must give the same.
            exact, *others = POLICIES[name](copy.deepcopy(model).double(), stream, lr)
            # The keys' biases shift a row's scores alike, which softmax cancels: their gradient is rounding.
            drift = max((run.parameters[k] - v).abs().max().item() for k, v in exact.parameters.items()
                        if "k_proj.bias" not in k)
            if others[0] != texts or others[2] != resets or drift > 1e-4:
                raise SystemExit(f"{name}: f32's rounding decides ({drift:.1e}); choose another learning rate")
            print(f"  f64 agrees, parameters within {drift:.1e}", flush=True)
        golden[f"{name}.losses"] = torch.tensor(losses)
        if deviations:
            golden[f"{name}.deviations"] = torch.tensor(deviations)
        golden |= {f"{name}.final.{k}": p for k, p in run.parameters.items()}
        metadata |= {f"{name}.texts": json.dumps(texts), f"{name}.resets": json.dumps(resets)}
    if not arguments.dry_run:
        directory = root / "continual"
        directory.mkdir(exist_ok=True)
        save_golden(golden, directory / "golden.safetensors", metadata)
        print(f"{(directory / 'golden.safetensors').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
