"""Hostile clients against a server of this script's own, while one real stream and `/healthz` go on.

Starts `aurist serve` on 127.0.0.1, and for each kind of hostility says what became of it, how long `/healthz` took
meanwhile (median, 95th percentile, the longest), how late the real stream's finals and partials were (its `delay`s), and
the server's resident memory. Nothing but this machine is called, and everything is bounded. Linux; needs `websockets`,
`numpy` and `soundfile`; prints one Markdown table, or JSON with `--json`.

    python benches/hostile.py target/release/aurist tests/data/librivox/*.wav
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import socket
import statistics
import subprocess
import time

import numpy as np
import soundfile
import websockets

RATE = 16000
PIECE = RATE // 25
UPGRADE = ("GET /v1/{} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


class Server:
    """`aurist serve` at a free port."""

    def __init__(self, binary):
        command = [binary, "serve", "--port", "0", "--rate", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for line in self.process.stderr:
            if found := re.match(r"listening on http://([\d.]+):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise RuntimeError("the server did not start")
        asyncio.get_running_loop().run_in_executor(None, lambda: [None for _ in self.process.stderr])

    def resident(self):
        """MiB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def connect(self):
        return asyncio.open_connection(self.host, self.port)

    async def get(self, path):
        """An answer's status and body."""
        reader, writer = await self.connect()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()

    async def metric(self, name):
        _, text = await self.get("/metrics")
        return sum(float(value) for value in re.findall(rf"^aurist_{name}(?:{{.*}})? (\S+)$", text, re.M))


async def quietly(awaitable, seconds):
    """An outcome, or what went wrong."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, websockets.WebSocketException) as error:
        return error


async def rapid(server):
    """10,000 connections as fast as they go, a third of them with half a head; 200 at a time."""
    gate, refused = asyncio.Semaphore(200), 0

    async def one(n):
        nonlocal refused
        async with gate:
            opened = await quietly(server.connect(), 20)
            if isinstance(opened, BaseException):
                refused += 1
                return
            if n % 3 == 0:
                opened[1].write(b"GET /he")
            opened[1].close()
            await quietly(opened[1].wait_closed(), 5)

    begun = time.monotonic()
    before = await server.metric("connections_refused_total")
    await asyncio.gather(*(one(n) for n in range(10_000)))
    closed = await server.metric("connections_refused_total") - before
    return f"10,000 in {time.monotonic() - begun:.0f} s: {refused} not accepted, {closed:.0f} closed at once (over 512)"


async def half_open(server):
    """400 connections that say nothing, or half a head, and wait."""
    opened = [await server.connect() for _ in range(400)]
    for _, writer in opened[::2]:
        writer.write(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    begun = time.monotonic()
    ends = await asyncio.gather(*(quietly(reader.read(), 40) for reader, _ in opened))
    closed = sum(isinstance(end, (bytes, ConnectionError)) for end in ends)
    for _, writer in opened:
        writer.close()
    return f"400: {closed} closed by the server, the last after {time.monotonic() - begun:.0f} s"


def form(audio, *fields):
    parts = [f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields]
    parts += [b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n', audio, b"\r\n--b--\r\n"]
    body = b"".join(parts)
    head = ("POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


async def slow_readers(server, audio):
    """40 clients that ask for much and read nothing, or a byte a second; half of them with a transcription at the end."""
    asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40
    asked += form(audio, ("model", "aurist"), ("adapt", "none"), ("stream", "true"))
    begun, over = time.monotonic(), asyncio.Event()
    before = await server.metric("connections_slow_total")

    async def one(n):
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=1)
        writer.write(asked)
        while not over.is_set():
            if n % 2 and isinstance(await quietly(reader.read(1), 5), BaseException):
                break
            await asyncio.sleep(1)
        writer.close()

    clients = asyncio.gather(*(one(n) for n in range(40)))
    while (gone := await server.metric("connections_slow_total") - before) < 40 and time.monotonic() - begun < 60:
        await asyncio.sleep(0.5)
    took = time.monotonic() - begun
    over.set()
    await clients
    return f"40: {gone:.0f} let go, the last after {took:.0f} s"


async def slow_uploads(server, audio):
    """100 uploads of a byte a second, and what a good client's are told meanwhile."""
    asked = form(audio, ("model", "aurist"), ("adapt", "none"))
    good, over = [], asyncio.Event()

    async def slow():
        reader, writer = await server.connect()
        writer.write(asked[:400])
        answer = asyncio.create_task(quietly(reader.read(12), 60))
        for at in range(400, 460):
            if answer.done():
                break
            writer.write(asked[at : at + 1])
            await asyncio.sleep(1)
        status = await answer
        writer.close()
        return status[9:12].decode() if isinstance(status, bytes) else "nothing"

    async def well():
        while not over.is_set():
            reader, writer = await server.connect()
            writer.write(asked)
            answer = await quietly(reader.read(12), 60)
            good.append(answer[9:12].decode() if isinstance(answer, bytes) else repr(answer))
            writer.close()
            await asyncio.sleep(1)

    begun, others = time.monotonic(), asyncio.create_task(well())
    statuses = await asyncio.gather(*(slow() for _ in range(100)))
    took = time.monotonic() - begun
    over.set()
    await others
    return f"100: {counted(statuses)}, all within {took:.0f} s; good uploads meanwhile: {counted(good)}"


def counted(statuses):
    return ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))


async def garbage(server):
    """2,000 connections of random bytes, as HTTP and as frames of a WebSocket."""
    draw, gate = random.Random(7), asyncio.Semaphore(50)
    statuses = []

    async def one(n):
        async with gate:
            opened = await quietly(server.connect(), 20)
            if isinstance(opened, BaseException):
                statuses.append("not accepted")
                return
            reader, writer = opened
            if n % 2:
                writer.write(UPGRADE.format("stream" if n % 4 == 1 else "realtime").encode())
            writer.write(draw.randbytes(draw.randrange(1, 4000)))
            answer = await quietly(reader.read(12), 3)
            statuses.append(answer[9:12].decode("latin-1") if isinstance(answer, bytes) and answer else "closed")
            writer.close()

    await asyncio.gather(*(one(n) for n in range(2000)))
    return f"2,000: {counted(statuses)}"


def frame(kind, payload):
    """A WebSocket frame as clients send them, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([0x80 | kind]) + length + bytes(4) + payload


async def deaf_streams(server, audio):
    """8 live streams that send sound as fast as it is taken, or settings to be answered, and read nothing."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    async def one(n):
        with socket.socket() as deaf:
            # So that its own system, too, keeps little of what it does not read.
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, (server.host, server.port))
            await loop.sock_sendall(deaf, UPGRADE.format("stream").encode())
            await loop.sock_recv(deaf, 1024)
            await loop.sock_sendall(deaf, frame(1, b'{"type":"start","adapt":{"method":"none"}}'))
            said = frame(2, audio) if n % 2 else frame(1, b'{"type":"reset"}')
            while not over.is_set():
                await loop.sock_sendall(deaf, said)

    begun = time.monotonic()
    clients = [asyncio.create_task(quietly(one(n), 150)) for n in range(8)]
    await asyncio.sleep(2)
    held = left = await server.metric("streams") - 1
    while left > 0 and time.monotonic() - begun < 140:
        await asyncio.sleep(0.5)
        left = await server.metric("streams") - 1
    took = time.monotonic() - begun
    over.set()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return f"8: {held - left:.0f} of {held:.0f} let go, the last after {took:.0f} s"


async def watch(server, times):
    """`/healthz`, ten times a second, on a connection of its own each time."""
    while True:
        begun = time.monotonic()
        answer = await quietly(server.get("/healthz"), 30)
        ok = isinstance(answer, tuple) and answer[0] == 200
        times.append(time.monotonic() - begun if ok else float("inf"))
        await asyncio.sleep(0.1)


async def speak(server, audio, delays, ended):
    """A real stream, in real time, again and again until it is to end."""
    async with websockets.connect(f"ws://{server.host}:{server.port}/v1/stream", max_size=None) as stream:
        await stream.send('{"type":"start","adapt":{"method":"none"}}')

        async def play():
            begun, at = time.monotonic(), 0
            while not ended.is_set():
                await asyncio.sleep(max(0, begun + at / RATE - time.monotonic()))
                first = at % (len(audio) // PIECE * PIECE)
                await stream.send((audio[first : first + PIECE] * 32767).astype("<i2").tobytes())
                at += PIECE
            await stream.send('{"type":"finish"}')

        playing = asyncio.create_task(play())
        async for message in stream:
            event = json.loads(message)
            if event["type"] in ("final", "partial"):
                delays[event["type"]].append(event["delay"])
            elif event["type"] == "done":
                break
        await playing


def summary(values):
    if len(values) < 2:
        return "-"
    cut = statistics.quantiles(values, n=20, method="inclusive")
    return " / ".join(f"{value:.3f}" for value in (cut[9], cut[18], max(values)))


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--only", default="", help="of rapid, half_open, slow_readers, slow_uploads, garbage, deaf_streams")
    parser.add_argument("--json", action="store_true")
    typed = parser.parse_args()
    parts = []
    for path in typed.recordings:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == RATE, path
        parts += [samples.mean(axis=1), np.zeros(int(1.2 * RATE), "float32")]
    audio = np.concatenate(parts)
    second = (audio[:RATE] * 32767).astype("<i2").tobytes()
    wav = pathlib.Path(typed.recordings[0]).read_bytes()
    server = Server(typed.binary)
    times, delays, ended = [], {"final": [], "partial": []}, asyncio.Event()
    speaking = asyncio.create_task(speak(server, audio, delays, ended))
    watching = asyncio.create_task(watch(server, times))
    rows = []

    async def during(name, hostility):
        times.clear()
        delays["final"].clear()
        delays["partial"].clear()
        before = server.resident()
        result = await hostility
        # What the last of them left undone shows in the figures too.
        await asyncio.sleep(2)
        failed = sum(value == float("inf") for value in times)
        answered = [value for value in times if value != float("inf")]
        rows.append({"hostility": name, "result": result, "healthz": summary(answered), "healthz_failed": failed,
                     "partials": summary(delays["partial"]), "finals": summary(delays["final"]),
                     "memory": f"{before:.0f} to {server.resident():.0f}"})

    kinds = [("nobody else", lambda: asyncio.sleep(20, "")), ("rapid", lambda: rapid(server)),
             ("half_open", lambda: half_open(server)), ("slow_readers", lambda: slow_readers(server, wav)),
             ("slow_uploads", lambda: slow_uploads(server, wav)), ("garbage", lambda: garbage(server)),
             ("deaf_streams", lambda: deaf_streams(server, second))]
    try:
        for name, begin in kinds:
            if not typed.only or name in typed.only.split(",") or name == "nobody else":
                await during(name, begin())
        ended.set()
        await asyncio.wait_for(speaking, 60)
    finally:
        watching.cancel()
        server.process.terminate()
        code = await asyncio.to_thread(server.process.wait, 60)
    assert code == 0, f"the server ended with {code}"
    if typed.json:
        print(json.dumps(rows))
        return
    print("| | became of it | `/healthz`, s | partials, s | finals, s | memory, MiB |\n|---|---|---|---|---|---|")
    for row in rows:
        healthz = row["healthz"] + (f", {row['healthz_failed']} failed" if row["healthz_failed"] else "")
        print(f"| {row['hostility']} | {row['result']} | {healthz} | {row['partials']} | {row['finals']} | {row['memory']} |")


if __name__ == "__main__":
    asyncio.run(main())
