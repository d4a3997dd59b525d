#!/usr/bin/env python3
"""Ten steps of SUTA on 10 s of audio by PyTorch on a GPU, beside what benches/gpu.rs measures of the same model.

    gpu.py REPORT [--model DIR]

Adds `pytorch` to the JSON that `cargo bench --bench gpu -- --out REPORT` wrote: seconds for 1, 8 and 32 utterances, one
after the other (the reference has no batches with parameters of their own), in f32 with and without TF32. Without a GPU,
or a PyTorch that has CUDA, it says so and changes nothing.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seconds(torch, suta, features, utterances):
    def run():
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(utterances):
            suta.adapt(features)
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    run()
    return statistics.median(run() for _ in range(3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models/whisper-tiny.en-ctc", metavar="DIR")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("no PyTorch here: nothing to compare with")
        return
    if not torch.cuda.is_available():
        print("this PyTorch finds no GPU: nothing to compare with")
        return
    from suta import Suta
    from whisper_ctc import RATE, load_model, log_mel

    model = load_model(arguments.model).cuda()
    samples = torch.rand(10 * RATE, generator=torch.Generator().manual_seed(7)) - 0.5
    features = torch.as_tensor(log_mel(samples.numpy(), model.config.num_mel_bins)).float().cuda()
    rows = []
    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        for choice in ("layer-norm+feature", "layer-norm"):
            for loop in ("reference", "minimal"):
                suta = Suta(model, choice=choice, steps=10, lr=2e-5, loop=loop)
                for utterances in (1, 8, 32):
                    took = seconds(torch, suta, features, utterances)
                    rows.append({
                        "utterances": utterances, "parameters": choice, "passes": loop, "tf32": tf32, "seconds": took,
                        "audio_seconds_per_second": 10 * utterances / took,
                    })
    report = json.loads(arguments.report.read_text())
    report["pytorch"] = {"version": torch.__version__, "gpu": torch.cuda.get_device_name(), "ten_steps_of_suta": rows}
    arguments.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
