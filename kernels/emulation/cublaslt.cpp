// A stand-in for libcublasLt.so.12 over the emulated driver, for tests only: column-major f32 products, one or a
// strided batch, with a bias epilogue. Refuses what cuBLASLt's documentation refuses: leading dimensions below a matrix's rows (they must not
// overlap), descriptors that do not fit together, pointers less aligned than the preference promised.
#include "driver.h"

#include <cstdlib>
#include <cstring>
#include <vector>

enum { OK = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };
enum { COMPUTE_32F = 68, COMPUTE_32F_FAST_16BF = 75, COMPUTE_32F_FAST_TF32 = 77 };

struct Layout { uint64_t rows, cols; int64_t ld; int32_t batch = 1; int64_t apart = 0; };
struct Description { int compute, trans_a = 0, trans_b = 0, epilogue = EPILOGUE_DEFAULT; const float* bias = nullptr; int64_t bias_apart = 0; };
struct Preference { uint64_t workspace = 0; uint32_t alignment[4] = {256, 256, 256, 256}; };
// What an algorithm was chosen for.
struct Algorithm { uint64_t magic, m, n, k; uint32_t alignment[4]; uint64_t rest[2]; };
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");
struct Result { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

#define API extern "C" __attribute__((visibility("default"))) int
API cublasLtCreate(void** h) { *h = malloc(1); return OK; }
API cublasLtDestroy(void* h) { free(h); return OK; }
API cublasLtMatrixLayoutCreate(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (type != 0) return NOT_SUPPORTED;
    if (ld < (int64_t)rows) return INVALID;
    *l = new Layout{rows, cols, ld};
    return OK;
}
API cublasLtMatrixLayoutSetAttribute(Layout* l, int attribute, const void* value, size_t size) {
    if (attribute == 5 && size == 4) memcpy(&l->batch, value, 4);
    else if (attribute == 6 && size == 8) memcpy(&l->apart, value, 8);
    else return INVALID;
    return OK;
}
API cublasLtMatrixLayoutDestroy(Layout* l) { delete l; return OK; }
API cublasLtMatmulDescCreate(Description** d, int compute, int scale) {
    if (scale != 0 || (compute != COMPUTE_32F && compute != COMPUTE_32F_FAST_16BF && compute != COMPUTE_32F_FAST_TF32)) return NOT_SUPPORTED;
    *d = new Description{compute};
    return OK;
}
API cublasLtMatmulDescDestroy(Description* d) { delete d; return OK; }
API cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* value, size_t size) {
    void* to = attribute == 3 ? (void*)&d->trans_a : attribute == 4 ? (void*)&d->trans_b : attribute == 7 ? (void*)&d->epilogue
             : attribute == 8 ? (void*)&d->bias : attribute == 10 ? (void*)&d->bias_apart : nullptr;
    if (!to || size != (attribute >= 8 ? 8 : 4)) return INVALID;
    memcpy(to, value, size);
    return d->epilogue == EPILOGUE_DEFAULT || d->epilogue == EPILOGUE_BIAS ? OK : NOT_SUPPORTED;
}
API cublasLtMatmulPreferenceCreate(Preference** p) { *p = new Preference; return OK; }
API cublasLtMatmulPreferenceDestroy(Preference* p) { delete p; return OK; }
API cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t size) {
    if (attribute == 1 && size == 8) memcpy(&p->workspace, value, 8);
    else if (attribute >= 5 && attribute <= 8 && size == 4) memcpy(&p->alignment[attribute - 5], value, 4);
    else return INVALID;
    return OK;
}
static int fits(const Description* d, const Layout* a, const Layout* b, const Layout* c, uint64_t& m, uint64_t& n, uint64_t& k) {
    m = d->trans_a ? a->cols : a->rows;
    k = d->trans_a ? a->rows : a->cols;
    n = d->trans_b ? b->rows : b->cols;
    const bool ok = k == (d->trans_b ? b->cols : b->rows) && c->rows == m && c->cols == n && m && n && k;
    // Results of a batch must not overlap.
    const bool batch = a->batch == b->batch && b->batch == c->batch && c->batch > 0 && (c->batch == 1 || c->apart >= (int64_t)((n - 1) * c->ld + m));
    return ok && batch ? OK : INVALID;
}
API cublasLtMatmulAlgoGetHeuristic(void*, const Description* d, const Layout* a, const Layout* b, const Layout* c, const Layout* out,
                                   const Preference* p, int asked, Result* results, int* count) {
    uint64_t m, n, k;
    if (asked < 1 || c->ld != out->ld || c->batch != out->batch || c->apart != out->apart || fits(d, a, b, c, m, n, k)) return INVALID;
    *results = Result{};
    results->algorithm = Algorithm{0x617572697374, m, n, k, {p->alignment[0], p->alignment[1], p->alignment[2], p->alignment[3]}, {}};
    results->workspace = 0;
    *count = 1;
    return OK;
}
// A factor as a tensor core takes it: 10 bits of mantissa for TF32, 7 for bfloat16, to the nearest, ties to even.
static float rounded(float value, int compute) {
    const int dropped = compute == COMPUTE_32F_FAST_TF32 ? 13 : compute == COMPUTE_32F_FAST_16BF ? 16 : 0;
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (!dropped || (bits & 0x7f800000u) == 0x7f800000u) return value;
    bits += (1u << (dropped - 1)) - 1 + (bits >> dropped & 1);
    bits &= ~((1u << dropped) - 1);
    memcpy(&value, &bits, 4);
    return value;
}
static uint64_t extent(const Layout& l) { return 4 * ((l.cols - 1) * l.ld + l.rows); }

static int multiply(const Description& d, float alpha, float beta, const float* a, Layout la, const float* b, Layout lb,
                    const float* c, Layout lc, float* out, Layout lo, uint64_t m, uint64_t n, uint64_t k) {
    if (!emulated_inside((uint64_t)a, extent(la)) || !emulated_inside((uint64_t)b, extent(lb)) || !emulated_inside((uint64_t)c, extent(lc)) ||
        !emulated_inside((uint64_t)out, extent(lo)) || (d.epilogue == EPILOGUE_BIAS && !emulated_inside((uint64_t)d.bias, 4 * m))) {
        return emulated_complaint("a product reads or writes outside an allocation");
    }
    // op(A) with k side by side, then dot products.
    const bool exact = d.compute == COMPUTE_32F, pack = !d.trans_a || !exact;
    std::vector<float> packed(pack ? m * k : 0);
    for (uint64_t l = 0; l < k && pack; l++) {
        for (uint64_t i = 0; i < m; i++) packed[i * k + l] = rounded(d.trans_a ? a[i * la.ld + l] : a[l * la.ld + i], d.compute);
    }
    std::vector<float> column(k);
    for (uint64_t j = 0; j < n; j++) {
        for (uint64_t l = 0; l < k; l++) column[l] = rounded(d.trans_b ? b[l * lb.ld + j] : b[j * lb.ld + l], d.compute);
        for (uint64_t i = 0; i < m; i++) {
            const float* row = pack ? packed.data() + i * k : a + i * la.ld;
            float lanes[16] = {};
            uint64_t l = 0;
            for (; l + 16 <= k; l += 16) for (int lane = 0; lane < 16; lane++) lanes[lane] += row[l + lane] * column[l + lane];
            double sum = 0;
            for (; l < k; l++) sum += row[l] * column[l];
            for (float lane : lanes) sum += lane;
            if (d.epilogue == EPILOGUE_BIAS) sum = alpha * sum + d.bias[i];
            else sum *= alpha;
            out[j * lo.ld + i] = (float)(sum + (beta == 0 ? 0 : beta * c[j * lc.ld + i]));
        }
    }
    return 0;
}
API cublasLtMatmul(void*, const Description* d, const float* alpha, const float* a, const Layout* la, const float* b, const Layout* lb,
                   const float* beta, const float* c, const Layout* lc, float* out, const Layout* lo, const Algorithm* algorithm,
                   void*, size_t, CUstream stream) {
    uint64_t m, n, k;
    if (fits(d, la, lb, lo, m, n, k) || lc->rows != lo->rows || lc->cols != lo->cols || lc->ld != lo->ld || lc->batch != lo->batch) return INVALID;
    if (algorithm->magic != 0x617572697374 || algorithm->m != m || algorithm->n != n || algorithm->k != k) return INVALID;
    const void* pointers[4] = {a, b, c, out};
    const Layout* layouts[4] = {la, lb, lc, lo};
    for (int i = 0; i < 4; i++) {
        const bool apart = layouts[i]->batch > 1;
        if (((uint64_t)pointers[i] | (apart ? 4 * (uint64_t)layouts[i]->apart : 0)) % algorithm->alignment[i]) return INVALID;
    }
    const int error = emulated_enqueue(stream, [=, d = *d, alpha = *alpha, beta = *beta, la = *la, lb = *lb, lc = *lc, lo = *lo] {
        int failed = 0;
        for (int64_t i = 0; i < lo.batch && !failed; i++) {
            Description own = d;
            if (own.bias) own.bias += i * d.bias_apart;
            failed = multiply(own, alpha, beta, a + i * la.apart, la, b + i * lb.apart, lb, c + i * lc.apart, lc, out + i * lo.apart, lo, m, n, k);
        }
        return failed;
    });
    return error ? 13 : OK;                           // CUBLAS_STATUS_EXECUTION_FAILED
}
