#!/usr/bin/env python3
"""A live stream for as long as one likes: whether memory stays flat and captions in time.

Starts a server, plays a test set's clips to it in a loop, in real time, and prints a Markdown table with a row every five
minutes, then how memory and lag went from the fifth minute on. Memory is the server's resident size, looked at every five
seconds to the end of the stream. Needs what live.py needs, and Linux's /proc.

    python benches/soak.py set.jsonl --minutes 30 --adapt csuta
"""

import argparse
import asyncio
import re
import subprocess
import time
from pathlib import Path

import numpy as np

from live import RATE, recording, speech_ends, stream

ROOT = Path(__file__).resolve().parents[1]
# Seconds of a row, and between looks at memory.
ROW, LOOK = 300, 5


def serve(aurist):
    """A server on a port of its own, and its address."""
    command = [aurist, "serve", "--port", "0", "--rate", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if found := re.match("listening on http://(.*)", line):
            return server, f"ws://{found[1].strip()}/v1/stream"
    raise SystemExit("the server did not start")


def resident(pid):
    """MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def slope(times, values):
    """A straight line's rise in an hour."""
    return 3600 * np.polyfit(times, values, 1)[0] if len(times) > 1 else float("nan")


def print_row(from_, to, memory, lags, skipped):
    at = [value for time, value in memory if from_ <= time < to]
    cells = [f"{from_ // 60:.0f} to {to / 60:.0f}"]
    for kind in ("final", "revision"):
        values = [lag for time, lag in lags[kind] if from_ <= time < to]
        cells += [f"{np.median(values):.1f}, {max(values):.1f}"] if values else ["-"]
    utterances = sum(from_ <= time < to for time, _ in lags["revision"])
    cells += [f"{sum(from_ <= time < to for time in skipped)} of {utterances}"]
    cells += [f"{min(at):.0f} to {max(at):.0f}"] if at else ["-"]
    print("| " + " | ".join(cells) + " |", flush=True)


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("set")
    add("--minutes", type=float, default=31)
    add("--adapt", default="csuta", metavar="METHOD")
    add("--loop", type=float, default=240, metavar="S", help="seconds of clips that are repeated (default 240)")
    add("--pause", type=float, default=1.2, metavar="S", help="after each clip (default 1.2)")
    add("--aurist", default=ROOT / "target/release/aurist", type=Path, metavar="PATH")
    typed = parser.parse_args()
    audio, _, loud = recording(typed.set, typed.loop, 0, typed.pause)
    times = int(np.ceil(60 * typed.minutes * RATE / len(audio)))
    audio, loud = np.tile(audio, times), np.tile(loud, times)
    server, address = serve(typed.aurist)
    begun, memory = time.monotonic(), []
    lags, skipped, finals = {"final": [], "revision": []}, [], {}

    def heard(event):
        if event["type"] == "final":
            # As if another followed at once, so that its end is known already.
            finals.update(speech_ends([event], loud))
        if event["type"] in lags and event["utterance"] in finals:
            lags[event["type"]].append((event["at"], event["at"] - finals[event["utterance"]]))
        if event.get("skipped") == "behind":
            skipped.append(event["at"])

    async def look():
        done = 0
        while True:
            memory.append((time.monotonic() - begun, resident(server.pid)))
            if memory[-1][0] >= done + ROW:
                print_row(done, done + ROW, memory, lags, skipped)
                done += ROW
            await asyncio.sleep(LOOK)

    print("| minutes | speech's end to final | to revision | not adapted to | memory in MiB |\n|---|---|---|---|---|", flush=True)
    looking = asyncio.create_task(look())
    try:
        events, late = await stream(address, audio, typed.adapt, heard)
        end = events[-1]["at"]
        memory.append((time.monotonic() - begun, resident(server.pid)))
        looking.cancel()
        if end % ROW > LOOK:
            print_row(end // ROW * ROW, end + LOOK, memory, lags, skipped)
        played = len(audio) / RATE
        print(f"\n{played:.0f} s played, done {end - played:.1f} s after the last sample; this client late by {late:.2f} s at worst.")
        memory = [(at, value) for at, value in memory if at >= ROW]
        lag = [(at, value) for at, value in lags["final"] if at >= ROW]
        if memory and lag:
            print(
                f"From the fifth minute on, a straight line through memory rises {slope(*zip(*memory)):.2f} MiB in an hour, "
                f"one through the lag of finals {slope(*zip(*lag)):.2f} s."
            )
    finally:
        looking.cancel()
        server.terminate()
        server.wait()


if __name__ == "__main__":
    asyncio.run(main())
