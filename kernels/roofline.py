"""What each kernel must move and compute, and the least time that takes on an H100 (SXM): the table in docs/kernels.md.

    python3 kernels/roofline.py

Sizes of wav2vec2-base on ten seconds: 499 frames, width 768, 12 heads of 64, convolutions of 512 channels over 31,999
frames and fewer, 32 symbols. `moved` counts what the kernel asks of device memory, each tile as often as it is read;
`floor` counts every input and output once. Neither is a measurement.
"""

BANDWIDTH = 3.35e12
F32 = 67e12
F64 = 34e12

T, D, HEADS, DIM, FFN, VOCABULARY, LAYERS = 499, 768, 12, 64, 3072, 32, 12
FRAMES, CHANNELS, WINDOW = 31_999, 512, 10
GROUPS, TAPS = 16, 128
N = D // GROUPS
STATES = 301
# Whisper tiny.en's width, and the rows of 30 s that its decoder looks at.
STATE, KEYS = 384, 1500
# Of layer-norm+feature: 25 layer norms, the convolutions with their norm, the projection with its.
ADAPTED = 25 * 2 * D + 4_200_448 + 395_008
TILES = -(-T // 32)


def attention(reads_own: int, reads_other: int, writes: int, products: int) -> tuple[float, float, float]:
    """Matrices of the own rows, of the other side (read by every tile of own rows), written; products of T by T by DIM."""
    one = T * D
    moved = reads_own * one + reads_other * one * TILES + writes * one
    return moved, (reads_own + reads_other + writes) * one, 2 * products * T * T * D


def by_value(values: int, passes: int, flops: int) -> tuple[float, float, float]:
    return passes * values, passes * values, flops * values


# values moved, values at least, floating-point operations; how often a step launches it (forward and backward of a step
# that adapts the layer norms), where that is not once.
CONVOLVED = FRAMES * CHANNELS
TILE_READS = -(-T // 64)
KERNELS = {
    "narrow_convolution_forward": (CONVOLVED + 5 * FRAMES * 4, CONVOLVED + 5 * FRAMES, 2 * CONVOLVED * WINDOW),
    "narrow_convolution_backward_weight": (CONVOLVED + 5 * FRAMES * 4, CONVOLVED + 5 * FRAMES, 2 * CONVOLVED * WINDOW),
    "channel_norm_moments": by_value(CONVOLVED, 1, 6),
    "channel_norm_gelu_apply": by_value(CONVOLVED, 2, 30),
    "channel_norm_gelu_gradient": by_value(CONVOLVED, 3, 40),
    "channel_norm_backward_apply": by_value(CONVOLVED, 3, 6),
    "gelu_forward (FFN)": by_value(T * FFN, 2, 25),
    "gelu_backward (FFN)": by_value(T * FFN, 3, 35),
    "add": by_value(T * D, 3, 1),
    "join_rows (an utterance's share)": by_value(T * D, 2, 0),
    "part_rows (an utterance's share)": by_value(T * D, 2, 0),
    "layer_norm_forward": by_value(T * D, 2, 8),
    "layer_norm_forward (with GELU, first convolution of a large model)": by_value(CONVOLVED, 2, 33),
    "layer_norm_backward_input": by_value(T * D, 4, 12),
    "layer_norm_backward_parameters": by_value(T * D, 2, 5),
    "layer_norm_backward_input (through GELU, first convolution of a large model)": by_value(CONVOLVED, 3, 85),
    "layer_norm_backward_parameters (through GELU, the same)": by_value(CONVOLVED, 2, 42),
    "bias_backward": by_value(T * D, 1, 1),
    "grouped_convolution": (
        T * D * -(-TAPS // 4) * 67 / 64 + D * TAPS * N * TILE_READS + T * D,
        2 * T * D + D * TAPS * N,
        2 * T * D * TAPS * N,
    ),
    "grouped_convolution_backward_weight": (2 * T * D * TAPS + 2 * D * TAPS * N, 2 * T * D + 2 * D * TAPS * N, 2 * T * D * TAPS * N),
    "weight_norm_forward": by_value(D * TAPS * N, 3, 4),
    "attention_forward_64": attention(1, 2, 1, 2),
    "attention_row_terms": by_value(T * D, 2, 2),
    "attention_backward_keys_64": attention(2, 2, 2, 4),
    "attention_backward_queries_64": attention(2, 2, 1, 3),
    "cross_attention_forward (a decoding step of tiny.en, 1500 keys)": (2 * KEYS * STATE + 2 * STATE, 2 * KEYS * STATE + 2 * STATE, 4 * KEYS * STATE),
    "cross_attention_forward (a text of 60 tokens)": (60 * 2 * KEYS * STATE, 2 * KEYS * STATE + 120 * STATE, 60 * 4 * KEYS * STATE),
    "cross_attention_backward_queries (60 tokens)": (60 * 2 * KEYS * STATE, 2 * KEYS * STATE + 180 * STATE, 60 * 6 * KEYS * STATE),
    "cross_attention_backward_keys (60 tokens)": (KEYS * (120 + 4) * STATE, 4 * KEYS * STATE + 120 * STATE, 60 * 8 * KEYS * STATE),
    "entropy_mcc": (4 * T * VOCABULARY, 2 * T * VOCABULARY, 60 * T * VOCABULARY),
    "find_not_finite": by_value(ADAPTED, 1, 1),
    "adamw_update": by_value(ADAPTED, 7, 12),
    "descent_copy (one of seven a step)": by_value(ADAPTED, 2, 0),
    "descent_adamw": by_value(ADAPTED, 7, 12),
    # f64, which is two values each: of a transcript of 150 symbols, its 301 states; about 60 operations a sum of two
    # exponentials, two of them a state and frame in each direction.
    "ctc_log_softmax": (4 * T * VOCABULARY, 3 * T * VOCABULARY, 40 * T * VOCABULARY),
    "ctc_paths": (2 * T * (5 * STATES + VOCABULARY), 2 * T * (2 * STATES + VOCABULARY), 2 * 120 * T * STATES),
    "ctc_occupancy": (T * VOCABULARY * (2 * STATES + 2), 2 * T * (2 * STATES + VOCABULARY), 20 * T * STATES),
    "ctc_gradient": (5 * T * VOCABULARY, 5 * T * VOCABULARY, 25 * T * VOCABULARY),
    # 1,000 frames of 400 samples, 201 frequencies and 80 bands, in f64.
    "log_mel_bands": (1_000 * (400 + 800 + 2 * 80 * 201 + 80), 160_000 + 2 * 80 * 201 + 80_000, 1_000 * (4 * 400 * 201 + 2 * 80 * 201)),
    "log_mel_scale": by_value(80_000, 2, 3),
}
IN_F64 = ("ctc_", "log_mel_bands")


def microseconds(values: float, flops: float, rate: float) -> float:
    return max(4 * values / BANDWIDTH, flops / rate) * 1e6


def main() -> None:
    print("| kernel | MB moved | MB floor | MFLOP | FLOP/byte | bound by | least µs |")
    print("|---|---:|---:|---:|---:|---|---:|")
    for name, (moved, floor, flops) in KERNELS.items():
        intensity, rate = flops / (4 * floor), F64 if name.startswith(IN_F64) else F32
        bound = "arithmetic" if flops / rate > 4 * floor / BANDWIDTH else "memory"
        print(
            f"| `{name}` | {4e-6 * moved:.1f} | {4e-6 * floor:.1f} | {1e-6 * flops:.0f} | {intensity:.1f} "
            f"| {bound} | {microseconds(floor, flops, rate):.1f} |"
        )
    products = {
        "convolutions 2 to 7": sum(2 * frames * 512 * 512 * taps for frames, taps in ((15_999, 3), (7_999, 3), (3_999, 3), (1_999, 3), (999, 2), (499, 2))),
        "projection": 2 * T * 512 * D,
        "linear layers": LAYERS * 2 * T * (4 * D * D + 2 * D * FFN),
    }
    print()
    print("| cuBLASLt products, forward | GFLOP | least µs in f32 | in TF32 | in bf16 |")
    print("|---|---:|---:|---:|---:|")
    for name, flops in products.items():
        times = " | ".join(f"{flops / rate * 1e6:.0f}" for rate in (F32, 495e12, 989e12))
        print(f"| {name} | {flops * 1e-9:.1f} | {times} |")


if __name__ == "__main__":
    main()
