"""Plants bugs in copies of the kernels, one at a time, and demands that the checks notice each: a check that cannot fail
shows nothing. Run by kernels/check, which builds what it needs before:

    mutants.py WORK_DIRECTORY LAUNCHES OPERATIONS_TEST DESCENT_TEST PADDING_TEST SPANS_TEST APART_TEST DECODER_TEST
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent

# name: (file, original, planted, test that must fail (of cuda_operations, or of cuda_descent, cuda_padding, cuda_spans, cuda_apart or cuda_decoder where it says so), check). A check is `plain` (results against the CPU's, and what the
# emulator refuses), `address` (the same under the sanitizers) or `thread` (the replayed launches).
MUTANTS = {
    "a row's sum without its last lanes": (
        "layer_norm.cu", "for (int col = lane; col < cols; col += 32) sum += x[col];",
        "for (int col = lane; col < cols - 1; col += 32) sum += x[col];", "layer_norms", "plain"),
    "a missing barrier before the warps' sums are read": (
        "layer_norm.cu", "    biases[warp][lane] = db;\n    __syncthreads();\n    if (warp == 0 && col < cols) {\n        for (int other = 1; other < 16; other++) {",
        "    biases[warp][lane] = db;\n    if (warp == 0 && col < cols) {\n        for (int other = 1; other < 16; other++) {", "layer_norms", "plain"),
    "a barrier that some threads never reach": (
        "channel_norm.cu", "    means[warp][lane] = mean;\n", "    if (warp == 7) return;\n    means[warp][lane] = mean;\n", "channel_norm", "plain"),
    "a shuffle that names half the lanes": (
        "common.cuh", "value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));",
        "value = fmaxf(value, __shfl_xor_sync(0xffffu, value, offset));", "attention", "plain"),
    "shared memory that is read before it is written": (
        "weight_norm.cu", "squares = block_sum<8>(squares, partial);", "squares = partial[3];", "grouped_convolutions", "plain"),
    "a write one row past the end": (
        "layer_norm.cu", "    if (row >= rows) return;\n    const long long utterance", "    if (row > rows) return;\n    const long long utterance", "layer_norms", "plain"),
    "accumulation that forgets what was there": (
        "convolution.cu", "y[at] = accumulate ? y[at] + value : value;", "y[at] = value;", "grouped_convolutions", "plain"),
    "taps that are not reversed": (
        "convolution.cu", "(long long)(tap + k) * tap_stride +", "(long long)(tap + k) * (tap_stride < 0 ? 0 : tap_stride) +", "grouped_convolutions", "plain"),
    "a softmax without its running maximum": (
        "attention.cu", "best = fmaxf(half_warp_max(best), highest[a]);", "best = half_warp_max(best);", "attention", "plain"),
    "a row term of the wrong head": (
        "attention.cu", "terms[(long long)(index % heads) * frames + index / heads] = sum;", "terms[index] = sum;", "attention", "plain"),
    "the blank frames' entropies counted too": (
        "objective.cu", "if (non_blank && p > 0.0)", "if (p > 0.0)", "the_objective", "plain"),
    "a read past the signal's end": (
        "convolution.cu", "signal[index] = index < len ? x[(long long)first * stride + index] : 0.0f;\n    }\n    float w",
        "signal[index] = x[(long long)first * stride + index];\n    }\n    float w", "strided_convolutions", "address"),
    "shared memory a row too short": (
        "convolution.cu", "__shared__ float gradient[DEPTH][TILE], signal[DEPTH][TILE];",
        "__shared__ float gradient[DEPTH - 1][TILE], signal[DEPTH][TILE];", "grouped_convolutions", "address"),
    "a sum from several blocks without an atomic": (
        "attention.cu", "atomicAdd(dtable + (long long)head * distances + distance, sum);",
        "dtable[(long long)head * distances + distance] += sum;", "attention", "thread"),
    "a tile overwritten while others read it": (
        "attention.cu", "        __syncthreads();\n        load_tile<dims>(kv, qkv + 2 * width,", "        load_tile<dims>(kv, qkv + 2 * width,", "attention", "thread"),
    "a step along a gradient that is not finite": (
        "descent.cu", "    ledger[SOUND] = 0.0;\n    ledger[MOVE] = 0.0;\n", "    ledger[SOUND] = 0.0;\n", "descent each_verdict", "plain"),
    "a descent that goes on after its end": (
        "descent.cu", "(record - RECORD)[4] > GOES_ON;", "(record - RECORD)[4] > SPOILED;", "descent each_verdict", "plain"),
    "a learning rate that does not shrink": (
        "descent.cu", "rate = learning_rate * ledger[FACTOR];", "rate = learning_rate;", "descent an_update", "plain"),
    "the blank between equal symbols skipped": (
        "ctc.cu", " && !(next % 2 == 1 && target[next / 2] != target[next / 2 - 1])", " && next % 2 == 0", "ctc", "plain"),
    "a frame's paths begun before the last frame's are done": (
        "ctc.cu", "            own[(long long)frame * states + state] = value;\n        }\n        __syncthreads();",
        "            own[(long long)frame * states + state] = value;\n        }", "ctc", "plain"),
    "a signal not mirrored before its start": (
        "log_mel.cu", "position = position < 0 ? -position : position;", "position = max(position, 0);", "log_mel", "plain"),
    "keys of the padding looked at": (
        "attention.cu", "if (col >= frames) score[a][b] = MINUS_INFINITY;", "if (col >= all) score[a][b] = MINUS_INFINITY;", "padding attention", "plain"),
    "padded rows of attention left as they were": (
        "attention.cu", "        if (row >= all) continue;\n", "        if (row >= frames) continue;\n", "padding attention", "plain"),
    "gradients of padded keys left as they were": (
        "attention.cu", "            if (row < all && d < head_dim) {\n                // A padded", "            if (row < frames && d < head_dim) {\n                // A padded", "padding attention", "plain"),
    "gradients of padded queries left as they were": (
        "attention.cu", "            if (row < all && d < head_dim) {\n                dqkv[(long long)row * stride + head", "            if (row < frames && d < head_dim) {\n                dqkv[(long long)row * stride + head", "padding attention", "plain"),
    "a padded gate's gradient left as it was": (
        "attention.cu", "if (dgate && tx == 0 && row < all)", "if (dgate && tx == 0 && row < frames)", "padding attention", "plain"),
    "distances counted from the padded length in one place only": (
        "attention.cu", "distance = table[(long long)head * distances + col - row + all - 1];", "distance = table[(long long)head * distances + col - row + frames - 1];", "padding attention", "plain"),
    "padding in a channel's moments": (
        "channel_norm.cu", "end = min(rows_that_count(counted, blockIdx.z, all), first + chunk);", "end = min(all, first + chunk);", "padding channel_norms", "plain"),
    "a channel's mean over the padded length": (
        "channel_norm.cu", "rows = rows_that_count(counted, blockIdx.y, all);\n    if (col >= cols) return;\n    partial += 2 * (long long)blockIdx.y * ((all",
        "rows = all;\n    if (col >= cols) return;\n    partial += 2 * (long long)blockIdx.y * ((all", "padding channel_norms", "plain"),
    "a gradient's mean over the padded length": (
        "channel_norm.cu", "rows = rows_that_count(counted, blockIdx.y, all);\n    if (col >= cols) return;\n    partial += 2 * (long long)blockIdx.y * chunks",
        "rows = all;\n    if (col >= cols) return;\n    partial += 2 * (long long)blockIdx.y * chunks", "padding channel_norms", "plain"),
    "a gradient that leaks into the padding": (
        "channel_norm.cu", "d[at] = row < rows ?", "d[at] = row < all ?", "padding channel_norms", "plain"),
    "padded frames in the objective": (
        "objective.cu", "const int frames = span.rows;", "const int frames = span.all;", "padding objective", "plain"),
    "a padded frame's gradient left as it was": (
        "objective.cu", "        dlogits[index] = 0.0f;\n", "", "padding objective", "plain"),
    "padding cleared a row too late": (
        "elementwise.cu", "= (long long)rows_that_count(counted, blockIdx.y, rows) * cols;", "= (long long)(rows_that_count(counted, blockIdx.y, rows) + 1) * cols;", "padding cleared", "plain"),
    "a norm without the GELU that should follow": (
        "layer_norm.cu", "y[col] = activate ? gelu(value) : value;", "y[col] = value;", "layer_norms", "plain"),
    "a slope that GELU has without the norm's scale and shift": (
        "layer_norm.cu", "gelu_slope(normalised * weight + bias[col])", "gelu_slope(normalised)", "layer_norms", "plain"),
    "a norm's parameters that know of no GELU": (
        "layer_norm.cu", "before_gelu(dy[at], normalised, bias ? weight[col] : 0.0f, bias, col)", "dy[at]", "layer_norms", "plain"),
    "a shift's gradient through a GELU at the mean": (
        "layer_norm.cu", "dweight || bias ? (x[at]", "dweight ? (x[at]", "layer_norms", "plain"),
    "a GELU behind the first utterance's shift for all": (
        "layer_norm.cu", "    if (bias) bias += utterance * bias_stride;\n", "", "spans layer_norms", "plain"),
    "parameters' GELU behind the first utterance's shift for all": (
        "layer_norm.cu", "        bias += (long long)blockIdx.y * bias_stride;\n", "", "apart layer_norms", "plain"),
    "an utterance's last row with its neighbour's values": (
        "layer_norm.cu", "row >= (int)starts[utterance + 1]) utterance++", "row + 1 >= (int)starts[utterance + 1]) utterance++", "spans layer_norms", "plain"),
    "a norm's gradient over all utterances": (
        "layer_norm.cu", "const int rows = span.rows;", "const int rows = all - span.first;", "spans layer_norms", "plain"),
    "utterances that share their norms' gradients": (
        "layer_norm.cu", "if (dbias) dbias += (long long)blockIdx.y * stride;", "", "spans layer_norms", "plain"),
    "attention to the first utterance's rows": (
        "attention.cu", "qkv += (long long)span.first * stride + head * head_dim;\n    out +=", "qkv += head * head_dim;\n    out +=", "spans attention", "plain"),
    "attention up to the next utterance's end": (
        "common.cuh", "return Span{first, end - first,", "return Span{first, end - first + (utterance + 1 < count ? 1 : 0),", "spans attention", "plain"),
    "padding behind the last utterance left as it was": (
        "common.cuh", "(utterance + 1 == count ? rows : end) - first", "end - first", "spans attention", "plain"),
    "row terms of the first utterance for all": (
        "attention.cu", "    out += (long long)span.first * heads * head_dim;\n", "", "spans attention", "plain"),
    "utterances that share the classes' sums": (
        "objective.cu", "    class_terms += 2 * (long long)blockIdx.x * classes;\n", "", "spans entropy_mcc", "thread"),
    "one utterance's objective for all": (
        "objective.cu", "        result += 4 * blockIdx.x;\n", "", "spans descents", "plain"),
    "a descent that follows the first one's ledger": (
        "descent.cu", "if (ledger[(long long)blockIdx.y * words + word] == 0.0) return;", "if (ledger[word] == 0.0) return;", "spans descents", "plain"),
    "a bad gradient told to the first descent": (
        "descent.cu", "bad[blockIdx.x] == 0", "bad[0] == 0", "spans descents", "plain"),
    "steps along the first descent's gradient": (
        "descent.cu", "    gradients += blockIdx.y * share;\n", "", "spans descents", "plain"),
    "every utterance convolved by the first one's weights": (
        "convolution.cu", "    weight += utterance * weight_apart;\n", "", "apart convolutions_with", "plain"),
    "every utterance's first convolution of the first one's signal": (
        "convolution.cu", "    x += utterance * x_apart;\n", "", "apart convolutions_with", "plain"),
    "all utterances' chunks added to the first one's gradient": (
        "convolution.cu", "    sum += (long long)blockIdx.y * sum_apart;\n", "", "apart convolutions_with", "plain"),
    "utterances that write each other's chunks": (
        "convolution.cu", "    partial += (long long)blockIdx.z * gridDim.x * outputs * window;\n", "", "apart convolutions_with", "plain"),
    "biases' gradients that all go to the first utterance": (
        "layer_norm.cu", "    dbias += blockIdx.y * dbias_stride;\n", "", "apart convolutions_with", "plain"),
    "a grouped convolution of the first utterance's frames": (
        "convolution.cu", "    x += (long long)utterance * frames * channels;\n", "", "apart grouped", "plain"),
    "rows of even utterances normed as the first one's": (
        "layer_norm.cu", "if (!starts) return row / (rows / utterances);", "if (!starts) return 0;", "apart layer_norms", "plain"),
    "even utterances' gradients over all rows": (
        "common.cuh", "return Span{utterance * (rows / count), rows / count, rows / count};", "return Span{0, rows, rows};", "apart layer_norms", "plain"),
    "the first utterance's count for all": (
        "common.cuh", "counted ? counted + utterance : counted", "counted", "apart channel_norms", "plain"),
    "channels' moments of the first utterance for all": (
        "channel_norm.cu", "    partial += 2 * (long long)blockIdx.y * ((all + chunk - 1) / chunk) * cols;\n", "", "apart channel_norms", "plain"),
    "channels' sums of the first utterance for all": (
        "channel_norm.cu", "    partial += 2 * (long long)blockIdx.y * chunks * cols;\n", "", "apart channel_norms", "plain"),
    "a channel norm's gradients that all go to the first utterance": (
        "channel_norm.cu", "    if (dweight) dweight += (long long)blockIdx.y * stride;\n", "", "apart channel_norms", "plain"),
    "a division by nobody's rows": (
        "channel_norm.cu", "const int count = max(rows, 1);", "const int count = rows;", "apart channel_norms", "plain"),
    "a query that sees a key too many": (
        "cross_attention.cu", "return causal ? keys - queries + query + 1 : keys;", "return causal ? min(keys - queries + query + 2, keys) : keys;", "decoder attention", "plain"),
    "a last turn's warps that count the last key again": (
        "cross_attention.cu", "probability = counts ? expf(score - best) : 0.0f;", "probability = expf(score - best);", "decoder attention", "plain"),
    "a running sum that does not shrink": (
        "cross_attention.cu", "total = total * shrink + probability;", "total = total + probability;", "decoder attention", "plain"),
    "warps joined as if they had one maximum": (
        "cross_attention.cu", "value += sums[other][d] * expf(highest[other] - best);", "value += sums[other][d];", "decoder attention", "plain"),
    "sums read before all warps have theirs": (
        "cross_attention.cu", "    keep_row(dv_sums[warp], dv);\n    __syncthreads();", "    keep_row(dv_sums[warp], dv);", "decoder attention", "plain"),
    "a key's gradient of queries that do not see it": (
        "cross_attention.cu", "const int first = causal ? max(0, key - (keys - queries)) : 0;", "const int first = 0;", "decoder attention", "plain"),
    "keys' gradients without the row's term": (
        "cross_attention.cu", "(product(down, v) - terms[row])", "product(down, v)", "decoder attention", "plain"),
    "a row's gradient of the last that asked": (
        "gather.cu", "sum += dy[(long long)other * cols + col];", "sum = dy[(long long)other * cols + col];", "decoder embeddings", "plain"),
    "a row's gradient from everyone that asked": (
        "gather.cu", "if (rows[before] == row) return;", "", "decoder embeddings", "plain"),
    "padding behind joined rows left as it was": (
        "elementwise.cu", "y[(long long)row * cols + col] = counts ? x[from * cols + col] : 0.0f;", "if (counts) y[(long long)row * cols + col] = x[from * cols + col];", "spans rows_move", "plain"),
    "a neighbour's rows in an utterance's padding": (
        "elementwise.cu", "from < (long long)starts[blockIdx.y + 1];", "from < (long long)starts[gridDim.y];", "spans rows_move", "plain"),
    "padding cleared after the first one's count": (
        "elementwise.cu", "rows_that_count(counted, blockIdx.y, rows) * cols;", "rows_that_count(counted, rows) * cols;", "spans rows_move", "plain"),
    "positions added to the first utterance alone": (
        "elementwise.cu", "    y += blockIdx.y * y_stride;\n", "", "spans rows_move", "plain"),
    "a spectrum read before it is whole": (
        "log_mel.cu", "    __syncthreads();\n    float top = MINUS_INFINITY;\n    for (int band", "    float top = MINUS_INFINITY;\n    for (int band", "log_mel", "plain"),
}


def main() -> None:
    work, launches = Path(sys.argv[1]), Path(sys.argv[2])
    tests = {"operations": sys.argv[3], "descent": sys.argv[4], "padding": sys.argv[5], "spans": sys.argv[6], "apart": sys.argv[7],
             "decoder": sys.argv[8]}
    missed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {name: pool.submit(is_caught, index, mutant, work, launches, tests) for index, (name, mutant) in enumerate(MUTANTS.items())}
        for name, caught in running.items():
            print(f"{'caught' if caught.result() else 'MISSED':7} {MUTANTS[name][4]:8} {name}", flush=True)
            if not caught.result():
                missed.append(name)
    if missed:
        raise SystemExit(f"{len(missed)} planted bugs went unnoticed")


def is_caught(index: int, mutant: tuple[str, ...], work: Path, launches: Path, tests: dict[str, str]) -> bool:
    file, original, planted, filter, check = mutant
    directory, kernels = work / f"mutant-{index}", work / f"kernels-{index}"
    text = (KERNELS / file).read_text()
    if text.count(original) < 1:
        raise SystemExit(f"mutants.py: {file} no longer has {original!r}")
    shutil.rmtree(kernels, ignore_errors=True)
    # With the originals' times, so that only what is planted is compiled again.
    shutil.copytree(KERNELS, kernels, ignore=shutil.ignore_patterns("ptx", "emulation", "__pycache__"))
    (kernels / file).write_text(text.replace(original, planted, 1))
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(work / f"base-{check}", directory, copy_function=shutil.copy2)
    built = subprocess.run([HERE / "build.sh", directory, check, kernels], capture_output=True, text=True)
    if built.returncode:
        raise SystemExit(f"{file}: {built.stderr}")
    test, _, name = filter.rpartition(" ")
    caught = not passes(check, directory, tests[test or "operations"], name, launches)
    shutil.rmtree(directory)
    shutil.rmtree(kernels)
    return caught


def passes(check: str, directory: Path, test: str, filter: str, launches: Path) -> bool:
    environment = dict(os.environ, LD_LIBRARY_PATH=str(directory), AURIST_GPU_TESTS="emulated")
    if check == "thread":
        command = [directory / "race", *sorted(launches.glob(f"{filter}*.launch"))]
        environment["TSAN_OPTIONS"] = "exitcode=66 halt_on_error=1 report_signal_unsafe=0"
    else:
        command = [test, filter, "--test-threads=1"]
        if check == "address":
            libraries = [printed(f"-print-file-name={name}") for name in ("libasan.so", "libubsan.so")]
            environment["LD_PRELOAD"] = ":".join(libraries)
            environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return False
    # A filter that matches nothing would pass whatever is planted.
    if check != "thread" and done.returncode == 0 and "running 0 tests" in done.stdout:
        raise SystemExit(f"mutants.py: no test {filter!r} in {test}")
    return done.returncode == 0


def printed(option: str) -> str:
    return subprocess.run(["g++", option], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
