#!/usr/bin/env python3
"""SUTA on a model of the wav2vec2 family in PyTorch, timed: what benches/paired.py measures aurist beside.

The algorithm is wav2vec2_ctc.py's, the authors'; attention is PyTorch's fused one here, its fastest. Each clip is timed
from samples to text, the model's loading and the file's reading are not. At the end it says at what rate PyTorch
multiplies matrices in this process, with these threads.
"""

import argparse
import json
import time

import torch
import transformers

from suta import sgemm_gflops
from wav2vec2_ctc import CHOICES, FamilySuta, greedy_text, normalise
from whisper_ctc import RATE, read_audio


def recognise(model, samples, suta):
    start = time.perf_counter()
    values = normalise(torch.as_tensor(samples, dtype=torch.float64))
    if suta is None:
        with torch.no_grad():
            logits, guard = model(values[None]).logits[0], None
    else:
        result = suta.adapt(values)
        logits, guard = result.after, result.guard
    text = greedy_text(logits)
    seconds = time.perf_counter() - start
    return {"text": text, "guard": guard, "duration": len(samples) / RATE, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="16 kHz recordings")
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("--adapt", choices=["none", "suta"], default="suta")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--parameters", choices=CHOICES, default="layer-norm+feature")
    parser.add_argument("--loop", choices=["reference", "minimal"], default="reference",
                        help="the authors' 21 forwards and 10 backwards, or 11 and 10 with the same result")
    parser.add_argument("--threads", type=int, metavar="N", help="PyTorch's threads (default: its own choice)")
    parser.add_argument("--json", required=True, metavar="OUT", help="write the report here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(arguments.model)
    architecture = getattr(transformers, config.architectures[0])
    # data2vec and WavLM have no fused attention, and say so.
    try:
        model = architecture.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    except ValueError:
        model = architecture.from_pretrained(arguments.model, attn_implementation="eager").eval()
    suta = None
    if arguments.adapt == "suta":
        suta = FamilySuta(model, arguments.parameters, arguments.steps, arguments.lr, loop=arguments.loop)
    clips = [{"path": path} | recognise(model, read_audio(path), suta) for path in arguments.paths]
    report = {
        "settings": vars(arguments) | {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "sgemm_gflops": sgemm_gflops(),
        "clips": clips,
    }
    with open(arguments.json, "w") as out:
        out.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
