// A descent that the device decides by itself: whether a step is kept, taken back or the last, so that the host need not
// wait at each. The rules are those of `Descent::run` (src/adapt/episode.rs); here they are without branches of the
// host's: everything is launched every turn, and does nothing where the ledger says so.
//
// A turn: the objective of the last forward pass; descent_judge; the logits kept, or the last good state put back;
// gradients to zero, backward pass; descent_check; the state and its gradients become the last good ones; AdamW along the
// last good gradients; forward pass. After the planned steps another turn's first half.
//
// Several descents are decided at once: their ledgers, of `words` words each, lie behind each other, a grid row each (of
// single blocks a block each).
//
// The ledger (src/engine/ledger.rs) is [8 + 5 turns] of f64: a head, then loss, entropy, class confusion, non-blank frames
// and verdict of each turn.
#include "common.cuh"

// The head. `KEEP`, `RESTORE`, `SOUND` and `MOVE` say what this turn does; 0 is no.
#define TURN 0
#define KEPT 1
#define FACTOR 2
#define LAST_LOSS 3
#define KEEP 4
#define RESTORE 5
#define SOUND 6
#define MOVE 7
#define HEAD 8
#define RECORD 5

// Verdicts. What is above GOES_ON ends the descent.
#define TAKES_BACK 1.0
#define GOES_ON 2.0
#define LAST_STEP 3.0
#define ALL_BLANK 4.0
#define SPOILED 5.0
#define BAD_GRADIENT 6.0

// What to make of the objective's `value` (loss, entropy, class confusion, non-blank frames). `KEPT` counts the steps that
// stand, `FACTOR` is what the learning rate has shrunk to. One thread. Grid: descents.
KERNEL __launch_bounds__(32)
descent_judge(const double* __restrict__ value, double* __restrict__ ledger, int steps, int safeguard) {
    if (threadIdx.x > 0) return;
    value += 4 * blockIdx.x;
    ledger += (long long)blockIdx.x * (HEAD + RECORD * (steps + 1));
    const int turn = (int)ledger[TURN];
    double* record = ledger + HEAD + RECORD * turn;
    const bool ended = turn > 0 && (record - RECORD)[4] > GOES_ON;
    const double loss = value[0], non_blank = value[3];
    const bool is_nan = loss != loss;
    // The difference of an infinity with itself is NaN.
    const bool is_finite = loss - loss == 0.0;
    double verdict;
    bool keep = false, restore = false;
    if (ended) {
        verdict = (record - RECORD)[4];
    } else if (safeguard && turn > 0 && (is_nan || loss > ledger[LAST_LOSS] || non_blank == 0.0)) {
        verdict = TAKES_BACK;
        restore = true;
        ledger[FACTOR] *= 0.5;
    } else if (is_finite) {
        ledger[LAST_LOSS] = loss;
        keep = turn > 0;
        ledger[KEPT] += keep ? 1.0 : 0.0;
        verdict = turn == steps ? LAST_STEP : non_blank == 0.0 ? ALL_BLANK : GOES_ON;
    } else {
        verdict = SPOILED;
        restore = turn > 0;
    }
    for (int index = 0; index < 4; index++) record[index] = value[index];
    record[4] = verdict;
    ledger[KEEP] = keep;
    ledger[RESTORE] = restore;
    ledger[SOUND] = verdict == GOES_ON;
    ledger[MOVE] = verdict == GOES_ON || verdict == TAKES_BACK;
    ledger[TURN] = turn + 1;
}

// The last turn's verdict again, its gradients being known: `bad` is raised where one is not finite. One thread.
// Grid: descents.
KERNEL __launch_bounds__(32) descent_check(const unsigned* __restrict__ bad, double* __restrict__ ledger, int words) {
    ledger += (long long)blockIdx.x * words;
    if (threadIdx.x > 0 || ledger[SOUND] == 0.0 || bad[blockIdx.x] == 0) return;
    ledger[HEAD + RECORD * ((int)ledger[TURN] - 1) + 4] = BAD_GRADIENT;
    ledger[SOUND] = 0.0;
    ledger[MOVE] = 0.0;
}

// to = from where the ledger's word says so: `len` values of each descent, or with `starts` its rows of so many columns.
// Grid: (any, descents).
KERNEL __launch_bounds__(256)
descent_copy(const double* __restrict__ ledger, int words, int word, const unsigned* OPTIONAL starts, int cols,
             const float* __restrict__ from, float* __restrict__ to, long long len) {
    if (ledger[(long long)blockIdx.y * words + word] == 0.0) return;
    const long long first = starts ? (long long)starts[blockIdx.y] * cols : blockIdx.y * len;
    if (starts) len = (long long)starts[blockIdx.y + 1] * cols - first;
    from += first;
    to += first;
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < len;
         index += (long long)gridDim.x * blockDim.x) {
        to[index] = from[index];
    }
}

// AdamW, as in adamw.cu, where the turn moves: the learning rate times `FACTOR`, at step number
// (first + KEPT) · multiplicity + repeat. Seven passes over the stretch; another descent's is `share` values further. Grid:
// (any, descents).
KERNEL __launch_bounds__(256)
descent_adamw(const double* __restrict__ ledger, int words, long long share, float* __restrict__ values, const float* __restrict__ gradients,
              float* __restrict__ first_moment, float* __restrict__ second_moment, double beta1, double beta2,
              double learning_rate, double weight_decay, float epsilon, const double* __restrict__ first,
              int multiplicity, int repeat, long long len) {
    __shared__ float factors[3];
    ledger += (long long)blockIdx.y * words;
    values += blockIdx.y * share;
    gradients += blockIdx.y * share;
    first_moment += blockIdx.y * share;
    second_moment += blockIdx.y * share;
    if (ledger[MOVE] == 0.0) return;
    if (threadIdx.x == 0) {
        const double step = (*first + ledger[KEPT]) * multiplicity + repeat, rate = learning_rate * ledger[FACTOR];
        factors[0] = (float)(1.0 - rate * weight_decay);
        factors[1] = (float)(rate / (1.0 - pow(beta1, step)));
        factors[2] = (float)sqrt(1.0 - pow(beta2, step));
    }
    __syncthreads();
    const float b1 = (float)beta1, rest1 = (float)(1.0 - beta1), b2 = (float)beta2, rest2 = (float)(1.0 - beta2);
    const float decay = factors[0], step_size = factors[1], root_correction = factors[2];
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < len;
         index += (long long)gridDim.x * blockDim.x) {
        const float g = gradients[index];
        const float m = first_moment[index] * b1 + rest1 * g;
        const float v = second_moment[index] * b2 + rest2 * g * g;
        first_moment[index] = m;
        second_moment[index] = v;
        values[index] = values[index] * decay - step_size * (m / (sqrtf(v) / root_correction + epsilon));
    }
}
