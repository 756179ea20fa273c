/* Kernels of the codec for a CPU with AVX-512 VNNI (for bf16 also AVX-512 BF16): conformer, linear layer, code look-up.

Frames of all clips lie one after the other. In the conformer each thread keeps its share of them from the first layer
to the last and meets the others twice a layer: when keys and values are there, and when the gates beside its share are.
Matrices are multiplied in fp32, bf16, int16 or int8, each as its struct says. Weights lie in panels of 64 outputs,
(inputs / g, 64, g) with g = 1, 2 or 4 inputs in a 32-bit word; sums are fp32, or int32 for integers. Integer weights
have a step per output, integer inputs a step per frame (int8: a zero point too), so a frame's result depends on neither
calibration nor batch nor number of threads. int16 steps keep the norms of a frame and of an output's weights below
2^15.5: no sum can overflow (Cauchy-Schwarz), and a typical value has 11 of the 16 bits, where bf16 has 8.

Shapes: N rows (frames of all clips), D width, F hidden width, C head width. D, F and C are multiples of 16.
Compiled and called by cpu_kernels.py. Test: tests/codec/fast/test_cpu_kernels.py. */

#include <immintrin.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define ROWS 6   /* of a register tile: 6 x 4 sums, 4 weights, 1 input in 32 registers */
#define LANES 16
#define PANEL 64
#define BLOCK 48 /* rows whose hidden layer stays in the second-level cache */
#define MAX_HEAD 256
#define LOG2E 1.44269504088896340736f

enum { FP32, BF16, INT16, INT8 };
enum { STORE, GELU, ADD, GLU };

typedef struct {
    int32_t kind, inputs, outputs, reserved;
    const uint32_t *weight; /* panels */
    const float *scale;     /* (outputs): step of a weight; int16 and int8 */
    const float *offset;    /* (outputs): sum of the weights; int8 */
    const float *bias;      /* (outputs) */
} Matrix;

typedef struct {
    const float *weight, *bias; /* (D) */
} Norm;

typedef struct {
    Norm before_ffn1, before_attention, before_convolution, before_ffn2, final;
    Matrix up1, down1, qkv, out, pointwise1, pointwise2, up2, down2;
    const float *taps;      /* (D / 16, kernel, 16): batch norm inside */
    const float *taps_bias; /* (D) */
} Layer;

typedef struct {
    int32_t num_layers, width, hidden, head_dim, kernel;
    int32_t past;        /* taps before a frame's own */
    int32_t back, ahead; /* frames that a frame sees */
    int32_t attention;   /* kind of queries and keys */
    int32_t values;      /* FP32 or BF16: the values and their weights */
    float eps;
    const Layer *layers;
    Norm last;
} Conformer;

typedef struct {
    float *x;              /* (N, D), overwritten */
    int64_t num_clips;
    const int64_t *starts; /* (num_clips + 1): first row of a clip */
    const int64_t *padded; /* (num_clips + 1): the same where each clip takes whole panels */
    const float *cosines, *sines; /* (T, C), each angle twice; sines with the signs -, + */
    uint32_t *queries, *keys, *values; /* words of the padded rows; values are zero at first */
    float *query_steps, *key_steps, *key_offsets; /* integers: (N, heads), and (heads, columns) of each clip */
    float *gated;          /* (N, D) */
    uint8_t *scratch;      /* scratch_bytes a thread */
} Batch;

/* PyTorch's own OpenMP, found by cpu_kernels.py: its threads are there already, and may still be spinning on every core. */
typedef struct {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */
    int (*threads)(void), (*thread)(void);                         /* omp_get_num_threads, omp_get_thread_num */
} OpenMP;

/* One thread, without OpenMP: a forked process has lost the others. */
static void directly(void (*work)(void *), void *task, unsigned threads, unsigned flags) {
    (void)threads, (void)flags;
    work(task);
}
static int one(void) { return 1; }
static int first_one(void) { return 0; }
static const OpenMP ALONE = {directly, one, first_one};

static const OpenMP *team_of(int threads, const OpenMP *openmp) { return threads == 1 ? &ALONE : openmp; }

/* What the threads of one call share. */
typedef struct {
    const Conformer *model;
    const Batch *batch;
    const OpenMP *openmp;
    atomic_int arrived, round;
} Team;

/* Working memory of a thread. `inputs` holds BLOCK rows of what a matrix reads, with step and zero point of each. */
typedef struct {
    uint32_t *inputs;
    float *values, *mixed, *scores, *window;
    uint32_t *weights;
    float step[BLOCK], shift[BLOCK];
    int64_t keys;
} Scratch;

/* x W^T + b. */
typedef struct {
    const OpenMP *openmp;
    const Matrix *matrix;
    const float *x; /* (N, inputs) */
    int64_t rows;
    float *out;        /* (N, outputs) */
    uint32_t *scratch; /* BLOCK * inputs words a thread */
} Linear;

/* The code with the largest dot product for each query; the first of equals. codes: a multiple of 16. */
typedef struct {
    const OpenMP *openmp;
    const uint32_t *queries; /* (N rounded up to ROWS, inputs), floats */
    const uint32_t *panels;  /* codes as the outputs of an FP32 matrix */
    int64_t rows, inputs, codes;
    int64_t *found; /* (N) */
} LookUp;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
static inline int64_t group(int kind) { return kind == INT8 ? 4 : kind == FP32 ? 1 : 2; }

/* ---- elementary functions ---- */

/* 2^x for x in [-126, 126], relative error below 2e-7; the polynomial for [-.5, .5] is that of Cephes' exp2f. */
static inline __m512 exp2_of(__m512 x) {
    __m512 whole_part = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole_part);
    __m512 y = _mm512_set1_ps(1.5353362e-4f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.3398874e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6184373e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5503324e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022648e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314720e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole_part);
}

/* The same within 8e-5, for what is rounded to bf16; our own fit to the largest relative error. */
static inline __m512 rough_exp2_of(__m512 x) {
    __m512 whole_part = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole_part);
    __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(5.5171670e-2f), f, _mm512_set1_ps(2.4261114e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9326101e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.9992807e-1f));
    return _mm512_scalef_ps(y, whole_part);
}

static inline __m512 reciprocal(__m512 x) {
    __m512 guess = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(x, guess, _mm512_set1_ps(2.0f)));
}

/* 1 / (1 + 2^-x); rough: within 1e-4, for what is rounded to 8 bits. */
static inline __m512 sigmoid2(__m512 x, const int rough) {
    __m512 power = _mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(100.0f));
    power = _mm512_max_ps(power, _mm512_set1_ps(-100.0f));
    if (rough) return _mm512_rcp14_ps(_mm512_add_ps(rough_exp2_of(power), _mm512_set1_ps(1.0f)));
    return reciprocal(_mm512_add_ps(exp2_of(power), _mm512_set1_ps(1.0f)));
}

/* tanh-approximated GELU: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) */
static inline __m512 gelu(__m512 x, const int rough) {
    const float slope = 2.0f * 0.79788456080286535588f * LOG2E;
    __m512 inner = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(slope * 0.044715f), _mm512_set1_ps(slope));
    return _mm512_mul_ps(x, sigmoid2(_mm512_mul_ps(x, inner), rough));
}

/* 16 floats -> bf16. In assembler: not every processor has it, and only those that do come here. */
static inline __m256i halves(__m512 x) {
    __m256i y;
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(y) : "v"(x));
    return y;
}

/* ---- matrices ---- */

/* sum += input * weight, 16 words each. In assembler: GCC 12 copies the sums of intrinsics through the stack. */
static inline __attribute__((always_inline)) __m512i dot(const int kind, __m512i sum, __m512i input, __m512i weight) {
    if (kind == INT8) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(input), "v"(weight));
    else if (kind == INT16) __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(input), "v"(weight));
    else if (kind == BF16) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(input), "v"(weight));
    else __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(input), "v"(weight));
    return sum;
}

/* The sums of ROWS x 16 nv products, a0 ... d5: names instead of an array, which compilers would keep in memory.
   row: words of the inputs, `stride` apart; panel: `width` words a step. Both are moved on. */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define ZERO(r) __m512i a##r = _mm512_setzero_si512(), b##r = a##r, c##r = a##r, d##r = a##r;
#define DOT(r)                                                    \
    {                                                             \
        __m512i input = _mm512_set1_epi32((int)row[r * stride]);  \
        a##r = dot(kind, a##r, input, a);                         \
        if (nv > 1) b##r = dot(kind, b##r, input, b);             \
        if (nv > 2) c##r = dot(kind, c##r, input, c);             \
        if (nv > 3) d##r = dot(kind, d##r, input, d);             \
    }
#define SUMS(row, stride, panel, width, count)                    \
    EACH_ROW(ZERO)                                                \
    for (int64_t steps = count;;) {                               \
        __m512i a = _mm512_loadu_si512(panel), b = a, c = a, d = a;      \
        if (nv > 1) b = _mm512_loadu_si512(panel + LANES);        \
        if (nv > 2) c = _mm512_loadu_si512(panel + 2 * LANES);    \
        if (nv > 3) d = _mm512_loadu_si512(panel + 3 * LANES);    \
        EACH_ROW(DOT)                                             \
        panel += width, row++;                                    \
        if (!--steps) break;                                      \
    }

static inline __attribute__((always_inline)) __m512 floats(const int kind, __m512i sum) {
    return kind == INT8 || kind == INT16 ? _mm512_cvtepi32_ps(sum) : _mm512_castsi512_ps(sum);
}

/* ROWS x 16 nv results. */
static inline __attribute__((always_inline)) void multiply(
    const int kind, const int nv, const uint32_t *row, int64_t stride, const uint32_t *panel, int64_t width,
    int64_t count, float *out, int64_t out_stride) {
#define KEEP(r)                                                                            \
    _mm512_storeu_ps(out + r * out_stride, floats(kind, a##r));                            \
    if (nv > 1) _mm512_storeu_ps(out + r * out_stride + LANES, floats(kind, b##r));        \
    if (nv > 2) _mm512_storeu_ps(out + r * out_stride + 2 * LANES, floats(kind, c##r));    \
    if (nv > 3) _mm512_storeu_ps(out + r * out_stride + 3 * LANES, floats(kind, d##r));
    SUMS(row, stride, panel, width, count)
    EACH_ROW(KEEP)
}

typedef void (*Multiply)(const uint32_t *, int64_t, const uint32_t *, int64_t, int64_t, float *, int64_t);

#define KERNEL(kind, nv)                                                                                      \
    static __attribute__((noinline)) void multiply_##kind##_##nv(                                              \
        const uint32_t *row, int64_t stride, const uint32_t *panel, int64_t width, int64_t steps, float *out,  \
        int64_t out_stride) {                                                                                  \
        multiply(kind, nv, row, stride, panel, width, steps, out, out_stride);                                 \
    }
KERNEL(FP32, 1) KERNEL(FP32, 2) KERNEL(FP32, 3) KERNEL(FP32, 4)
KERNEL(BF16, 1) KERNEL(BF16, 2) KERNEL(BF16, 3) KERNEL(BF16, 4)
KERNEL(INT16, 1) KERNEL(INT16, 2) KERNEL(INT16, 3) KERNEL(INT16, 4)
KERNEL(INT8, 1) KERNEL(INT8, 2) KERNEL(INT8, 3) KERNEL(INT8, 4)

static const Multiply KERNELS[4][4] = {
    {multiply_FP32_1, multiply_FP32_2, multiply_FP32_3, multiply_FP32_4},
    {multiply_BF16_1, multiply_BF16_2, multiply_BF16_3, multiply_BF16_4},
    {multiply_INT16_1, multiply_INT16_2, multiply_INT16_3, multiply_INT16_4},
    {multiply_INT8_1, multiply_INT8_2, multiply_INT8_3, multiply_INT8_4},
};

/* A raw score -> a score: integers have a step of the query and of each key (INT8: and an offset of each key). */
static inline __attribute__((always_inline)) __m512 scaled(
    const int kind, __m512 raw, float step, const float *steps, const float *offsets) {
    if (kind == INT16) raw = _mm512_mul_ps(raw, _mm512_loadu_ps(steps));
    if (kind == INT8) raw = _mm512_fmsub_ps(raw, _mm512_loadu_ps(steps), _mm512_loadu_ps(offsets));
    return kind == INT16 || kind == INT8 ? _mm512_mul_ps(raw, _mm512_set1_ps(step)) : raw;
}

/* Scores of ROWS queries with whole panels of keys that all of them see, and the largest of each query. */
static inline __attribute__((always_inline)) void score(
    const int kind, const uint32_t *query, int64_t stride, const uint32_t *keys, int64_t panels, int64_t words,
    const float *step, const float *steps, const float *offsets, float *out, int64_t out_stride, __m512 *top) {
    const int nv = 4;
#define SCORE_OF(r, v, sum)                                                                             \
    {                                                                                                   \
        __m512 x = scaled(kind, floats(kind, sum), step[r], steps + v * LANES, offsets + v * LANES);    \
        _mm512_storeu_ps(out + r * out_stride + v * LANES, x);                                          \
        highest = _mm512_max_ps(highest, x);                                                            \
    }
#define SCORE(r)                                                                                        \
    {                                                                                                   \
        __m512 highest = top[r];                                                                        \
        SCORE_OF(r, 0, a##r) SCORE_OF(r, 1, b##r) SCORE_OF(r, 2, c##r) SCORE_OF(r, 3, d##r)             \
        top[r] = highest;                                                                               \
    }
    for (; panels > 0; panels--, steps += PANEL, offsets += PANEL, out += PANEL) {
        const uint32_t *row = query;
        SUMS(row, stride, keys, PANEL, words)
        EACH_ROW(SCORE)
    }
}

typedef void (*Score)(const uint32_t *, int64_t, const uint32_t *, int64_t, int64_t, const float *, const float *,
                      const float *, float *, int64_t, __m512 *);

#define SCORES(kind)                                                                                     \
    static __attribute__((noinline)) void score_##kind(                                                  \
        const uint32_t *query, int64_t stride, const uint32_t *keys, int64_t panels, int64_t words,      \
        const float *step, const float *steps, const float *offsets, float *out, int64_t out_stride,     \
        __m512 *top) {                                                                                   \
        score(kind, query, stride, keys, panels, words, step, steps, offsets, out, out_stride, top);     \
    }
SCORES(FP32) SCORES(BF16) SCORES(INT16) SCORES(INT8)

static const Score SCORINGS[4] = {score_FP32, score_BF16, score_INT16, score_INT8};

#define NOT_FINITE 0x99 /* of _mm512_fpclass_ps_mask: NaN of both kinds, infinity of both signs */

/* One row of floats -> what a matrix of this kind reads. Integers: its step, and its zero point times the step; both are
   NaN, and so all results, where the row is not finite. */
static void take(int kind, const float *row, int64_t count, uint32_t *out, float *step, float *shift) {
    if (kind == FP32) {
        memcpy(out, row, (size_t)count * sizeof(float));
    } else if (kind == BF16) {
        for (int64_t i = 0; i < count; i += LANES)
            _mm256_storeu_si256((__m256i *)((uint16_t *)out + i), halves(_mm512_loadu_ps(row + i)));
    } else if (kind == INT16) {
        __m512 top = _mm512_setzero_ps(), square = _mm512_setzero_ps();
        for (int64_t i = 0; i < count; i += LANES) {
            __m512 x = _mm512_loadu_ps(row + i);
            top = _mm512_max_ps(top, _mm512_abs_ps(x)), square = _mm512_fmadd_ps(x, x, square);
        }
        float norm = __builtin_sqrtf(_mm512_reduce_add_ps(square)) / (46340.0f - __builtin_sqrtf((float)count));
        float largest = _mm512_reduce_max_ps(top) / 32767.0f;
        *step = norm > largest ? norm : largest, *shift = 0.0f;
        *step = *step > 1e-24f ? *step : 1e-24f;
        if (!(norm < __builtin_inff())) *step = __builtin_nanf("");
        for (int64_t i = 0; i < count; i += LANES) {
            __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(1.0f / *step)));
            _mm256_storeu_si256((__m256i *)((int16_t *)out + i), _mm512_cvtsepi32_epi16(code));
        }
    } else {
        __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
        __mmask16 odd = 0;
        for (int64_t i = 0; i < count; i += LANES) {
            __m512 x = _mm512_loadu_ps(row + i);
            low = _mm512_min_ps(low, x), high = _mm512_max_ps(high, x);
            odd |= _mm512_fpclass_ps_mask(x, NOT_FINITE);
        }
        float bottom = _mm512_reduce_min_ps(low), span = _mm512_reduce_max_ps(high) - bottom;
        span = span > 1e-20f ? span : 1e-20f;
        float inverse = 255.0f / span, zero = odd ? 0.0f : (float)(int)(0.5f - bottom * inverse);
        *step = odd ? __builtin_nanf("") : span / 255.0f, *shift = zero * *step;
        for (int64_t i = 0; i < count; i += LANES) {
            __m512 x = _mm512_fmadd_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(inverse), _mm512_set1_ps(zero));
            __m512i code = _mm512_max_epi32(_mm512_cvtps_epi32(x), _mm512_setzero_si512());
            _mm_storeu_si128((__m128i *)((uint8_t *)out + i), _mm512_cvtusepi32_epi8(code));
        }
    }
}

static void take_rows(int kind, const float *rows, int64_t count, int64_t width, Scratch *scratch) {
    for (int64_t r = 0; r < count; r++)
        take(kind, rows + r * width, width, scratch->inputs + r * width / group(kind), scratch->step + r,
             scratch->shift + r);
}

static void norm_row(const float *row, int64_t width, Norm norm, float eps, float *out) {
    __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(row + i));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 x = _mm512_sub_ps(_mm512_loadu_ps(row + i), mean);
        square = _mm512_fmadd_ps(x, x, square);
    }
    float deviation = __builtin_sqrtf(_mm512_reduce_add_ps(square) / (float)width + eps);
    __m512 scale = _mm512_set1_ps(1.0f / deviation);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + i), mean), scale);
        x = _mm512_fmadd_ps(x, _mm512_loadu_ps(norm.weight + i), _mm512_loadu_ps(norm.bias + i));
        _mm512_storeu_ps(out + i, x);
    }
}

static void take_normed(
    int kind, const float *rows, int64_t count, int64_t width, Norm norm, float eps, Scratch *scratch) {
    for (int64_t r = 0; r < count; r++) {
        float *normed = scratch->values; /* free before a product */
        norm_row(rows + r * width, width, norm, eps, normed);
        take(kind, normed, width, scratch->inputs + r * width / group(kind), scratch->step + r, scratch->shift + r);
    }
}

/* A tile of raw sums -> out, as `then` says. kind: FP32 stands for both floats. */
static inline __attribute__((always_inline)) void finish(
    const int then, const int kind, const float *tile, const Matrix *matrix, int64_t column, int nv, int64_t rows,
    const float *step, const float *shift, float *out, int64_t out_stride) {
    for (int64_t r = 0; r < rows; r++) {
        __m512 gate = _mm512_setzero_ps();
        for (int v = nv - 1; v >= 0; v--) {
            int64_t c = column + v * LANES;
            __m512 x = _mm512_load_ps(tile + r * PANEL + v * LANES), bias = _mm512_loadu_ps(matrix->bias + c);
            if (kind != FP32) {
                x = _mm512_mul_ps(x, _mm512_mul_ps(_mm512_loadu_ps(matrix->scale + c), _mm512_set1_ps(step[r])));
                if (kind == INT8)
                    bias = _mm512_fnmadd_ps(_mm512_loadu_ps(matrix->offset + c), _mm512_set1_ps(shift[r]), bias);
            }
            x = _mm512_add_ps(x, bias);
            float *place = out + r * out_stride + c;
            if (then == STORE) {
                _mm512_storeu_ps(place, x);
            } else if (then == GELU) {
                _mm512_storeu_ps(place, gelu(x, kind == INT8));
            } else if (then == ADD) {
                _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), x));
            } else if (v & 1) { /* GLU: values and gates alternate, 16 by 16 */
                gate = sigmoid2(_mm512_mul_ps(x, _mm512_set1_ps(LOG2E)), kind == INT8);
            } else {
                _mm512_storeu_ps(out + r * out_stride + c / 2, _mm512_mul_ps(x, gate));
            }
        }
    }
}

/* The rows in scratch->inputs through a matrix. */
static inline __attribute__((always_inline)) void product(
    const int then, const Matrix *matrix, int64_t rows, const Scratch *scratch, float *out, int64_t out_stride) {
    _Alignas(64) float tile[ROWS * PANEL];
    int64_t steps = matrix->inputs / group(matrix->kind);
    const uint32_t *panel = matrix->weight;
    for (int64_t column = 0; column < matrix->outputs; column += PANEL) {
        int nv = (int)(least(PANEL, matrix->outputs - column) / LANES);
        Multiply kernel = KERNELS[matrix->kind][nv - 1];
        for (int64_t r = 0; r < rows; r += ROWS) {
            kernel(scratch->inputs + r * steps, steps, panel, nv * LANES, steps, tile, PANEL);
            int64_t count = least(ROWS, rows - r);
            float *place = out + r * out_stride;
            const float *step = scratch->step + r, *shift = scratch->shift + r;
            if (matrix->kind == INT8)
                finish(then, INT8, tile, matrix, column, nv, count, step, shift, place, out_stride);
            else if (matrix->kind == INT16)
                finish(then, INT16, tile, matrix, column, nv, count, step, shift, place, out_stride);
            else
                finish(then, FP32, tile, matrix, column, nv, count, step, shift, place, out_stride);
        }
        panel += steps * nv * LANES;
    }
}

static __attribute__((noinline)) void product_store(const Matrix *m, int64_t rows, const Scratch *s, float *out) {
    product(STORE, m, rows, s, out, m->outputs);
}
static __attribute__((noinline)) void product_gelu(const Matrix *m, int64_t rows, const Scratch *s, float *out) {
    product(GELU, m, rows, s, out, m->outputs);
}
static __attribute__((noinline)) void product_add(const Matrix *m, int64_t rows, const Scratch *s, float *out) {
    product(ADD, m, rows, s, out, m->outputs);
}
static __attribute__((noinline)) void product_glu(const Matrix *m, int64_t rows, const Scratch *s, float *out) {
    product(GLU, m, rows, s, out, m->outputs / 2);
}

/* ---- the parts of a layer, on `count` rows from `first` ---- */

static void feed_forward(const Conformer *model, Norm norm, const Matrix *up, const Matrix *down, float *x,
                         int64_t count, Scratch *scratch) {
    take_normed(up->kind, x, count, model->width, norm, model->eps, scratch);
    product_gelu(up, count, scratch, scratch->values);
    take_rows(down->kind, scratch->values, count, model->hidden, scratch);
    product_add(down, count, scratch, x);
}

static int64_t clip_of(const Batch *batch, int64_t row) {
    int64_t low = 0, high = batch->num_clips;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (batch->starts[middle] <= row) low = middle;
        else high = middle;
    }
    return low;
}

static void turn(const float *x, const float *cosines, const float *sines, float scale, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += LANES) {
        __m512 one = _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(scale));
        __m512 other = _mm512_permute_ps(one, 0xB1); /* the pair's other half */
        __m512 y = _mm512_mul_ps(other, _mm512_loadu_ps(sines + i));
        _mm512_storeu_ps(out + i, _mm512_fmadd_ps(one, _mm512_loadu_ps(cosines + i), y));
    }
}

/* Hadamard transform over 16 values, and over 2^n registers: spreads what one channel holds, and keeps dot products
   (times 16, or the number of values). After QuaRot, arXiv 2404.00456. */
static void spread(float *x, int64_t count) {
    const __mmask16 odd[4] = {0xAAAA, 0xCCCC, 0xF0F0, 0xFF00};
    int64_t registers = count / LANES;
    for (int64_t i = 0; i < count; i += LANES) {
        __m512 y = _mm512_loadu_ps(x + i);
        __m512 other = _mm512_permute_ps(y, 0xB1);
        y = _mm512_add_ps(other, _mm512_mask_sub_ps(y, odd[0], _mm512_setzero_ps(), y));
        other = _mm512_permute_ps(y, 0x4E);
        y = _mm512_add_ps(other, _mm512_mask_sub_ps(y, odd[1], _mm512_setzero_ps(), y));
        other = _mm512_shuffle_f32x4(y, y, 0xB1);
        y = _mm512_add_ps(other, _mm512_mask_sub_ps(y, odd[2], _mm512_setzero_ps(), y));
        other = _mm512_shuffle_f32x4(y, y, 0x4E);
        y = _mm512_add_ps(other, _mm512_mask_sub_ps(y, odd[3], _mm512_setzero_ps(), y));
        _mm512_storeu_ps(x + i, y);
    }
    if (registers & (registers - 1)) return;
    for (int64_t far = LANES; far < count; far *= 2)
        for (int64_t i = 0; i < count; i += LANES)
            if (!(i & far)) {
                __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + far);
                _mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
                _mm512_storeu_ps(x + i + far, _mm512_sub_ps(a, b));
            }
}

/* Symmetric int8 of one row, its step, and the sum of its codes. raised: plus 128, as the kernel wants its inputs. */
static float take_signed(const float *row, int64_t count, int raised, uint32_t *out, float *sum) {
    __m512 top = _mm512_set1_ps(1e-20f);
    __mmask16 odd = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        __m512 x = _mm512_loadu_ps(row + i);
        top = _mm512_max_ps(top, _mm512_abs_ps(x));
        odd |= _mm512_fpclass_ps_mask(x, NOT_FINITE);
    }
    float step = odd ? __builtin_nanf("") : _mm512_reduce_max_ps(top) / 127.0f;
    const __mmask16 finite = odd ? 0 : 0xffff; /* else all codes are 0: sums of what NaN becomes would overflow */
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        __m512 steps = _mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(1.0f / step));
        __m512i code = _mm512_maskz_cvtps_epi32(finite, steps);
        total = _mm512_add_epi32(total, code);
        __m128i bytes = _mm512_cvtsepi32_epi8(code);
        if (raised) bytes = _mm_xor_si128(bytes, _mm_set1_epi8((char)0x80));
        _mm_storeu_si128((__m128i *)((int8_t *)out + i), bytes);
    }
    *sum = (float)_mm512_reduce_add_epi32(total);
    return step;
}

/* Queries, keys and values of the rows: queries row by row, keys and values as panels of their clip and head. */
static void project_qkv(const Conformer *model, const Layer *layer, const Batch *batch, int64_t first, int64_t count,
                        Scratch *scratch) {
    const int kind = model->attention, value = model->values;
    const int64_t width = model->width, head_dim = model->head_dim, heads = width / head_dim;
    const int64_t words = head_dim / group(kind), g = group(value);
    take_normed(layer->qkv.kind, batch->x + first * width, count, width, layer->before_attention, model->eps, scratch);
    product_store(&layer->qkv, count, scratch, scratch->values);
    const int64_t mixed = kind != INT8 ? 1 : (head_dim / LANES) & (head_dim / LANES - 1) ? LANES : head_dim;
    const float scale = LOG2E / (__builtin_sqrtf((float)head_dim) * (float)mixed); /* `spread` times `mixed` */
    int64_t clip = clip_of(batch, first);
    for (int64_t r = 0; r < count; r++) {
        int64_t row = first + r;
        while (row >= batch->starts[clip + 1]) clip++;
        int64_t t = row - batch->starts[clip], columns = batch->padded[clip + 1] - batch->padded[clip];
        const float *cosines = batch->cosines + t * head_dim, *sines = batch->sines + t * head_dim;
        const float *qkv = scratch->values + r * 3 * width;
        for (int64_t head = 0; head < heads; head++) {
            float query[MAX_HEAD], key[MAX_HEAD];
            uint32_t codes[MAX_HEAD], *into = batch->queries + (row * heads + head) * words;
            turn(qkv + head * head_dim, cosines, sines, scale, head_dim, query);
            turn(qkv + width + head * head_dim, cosines, sines, 1.0f, head_dim, key);
            const int64_t place = row * heads + head, column = batch->padded[clip] * heads + head * columns + t;
            float sum;
            if (kind == INT8) {
                spread(query, head_dim), spread(key, head_dim);
                batch->query_steps[place] = take_signed(query, head_dim, 1, into, &sum);
                batch->key_steps[column] = take_signed(key, head_dim, 0, codes, &sum);
                batch->key_offsets[column] = 128.0f * sum * batch->key_steps[column];
            } else {
                take(kind, query, head_dim, into, batch->query_steps + place, &sum);
                take(kind, key, head_dim, codes, batch->key_steps + column, &sum);
            }
            uint32_t *keys = batch->keys + (batch->padded[clip] * heads + head * columns) * words;
            keys += t / PANEL * PANEL * words + t % PANEL;
            for (int64_t s = 0; s < words; s++) keys[s * PANEL] = codes[s];
            take(value, qkv + 2 * width + head * head_dim, head_dim, codes, NULL, NULL);
            uint32_t *values = batch->values + (batch->padded[clip] * heads + head * columns) * (head_dim / g);
            for (int64_t c = 0; c < head_dim; c += PANEL) {
                int64_t wide = least(PANEL, head_dim - c);
                uint32_t *place = values + c * (columns / g) + t / g * wide;
                if (g == 1)
                    memcpy(place, codes + c, (size_t)wide * sizeof(float));
                else
                    for (int64_t i = 0; i < wide; i++)
                        ((uint16_t *)place)[2 * i + t % 2] = ((uint16_t *)codes)[c + i];
            }
        }
    }
}

/* Which of keys [i, i + 16) lie in [low, high). */
static inline __mmask16 seen(int64_t i, int64_t low, int64_t high) {
    if (__builtin_expect(i >= low && i + LANES <= high, 1)) return 0xffff;
    return (__mmask16)((0xffffu << most(0, least(16, low - i))) & (0xffffu >> most(0, least(16, i + LANES - high))));
}

/* Softmax of one row of scores (in powers of 2) over keys [low, high), zero elsewhere in `count`; gives the sum of the
   weights. Scores in [done, scored) are finished and their largest are in `top`; the others are raw. */
static inline __attribute__((always_inline)) float soften(
    const int kind, const int value, float *scores, int64_t count, int64_t low, int64_t high, float step,
    const float *steps, const float *offsets, int64_t done, int64_t scored, __m512 top, uint32_t *weights) {
    __m512 total = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += LANES) {
        if (i == done) i = scored;
        if (i >= count) break;
        __m512 x = scaled(kind, _mm512_loadu_ps(scores + i), step, steps + i, offsets + i);
        _mm512_storeu_ps(scores + i, x);
        top = _mm512_mask_max_ps(top, seen(i, low, high), top, x);
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int64_t i = 0; i < count; i += LANES) {
        __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + i), top);
        x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x); /* in this order NaN stays NaN */
        x = _mm512_maskz_mov_ps(seen(i, low, high), value == FP32 ? exp2_of(x) : rough_exp2_of(x));
        total = _mm512_add_ps(total, x);
        if (value == FP32) _mm512_storeu_ps((float *)weights + i, x);
        else _mm256_storeu_si256((__m256i *)((uint16_t *)weights + i), halves(x));
    }
    return _mm512_reduce_add_ps(total);
}

typedef float (*Soften)(float *, int64_t, int64_t, int64_t, float, const float *, const float *, int64_t, int64_t,
                        __m512, uint32_t *);

#define SOFTEN(kind, value)                                                                                     \
    static __attribute__((noinline)) float soften_##kind##_##value(                                             \
        float *scores, int64_t count, int64_t low, int64_t high, float step, const float *steps,                \
        const float *offsets, int64_t done, int64_t scored, __m512 top, uint32_t *weights) {                    \
        return soften(kind, value, scores, count, low, high, step, steps, offsets, done, scored, top, weights); \
    }
SOFTEN(FP32, FP32) SOFTEN(BF16, FP32) SOFTEN(INT16, FP32) SOFTEN(INT8, FP32)
SOFTEN(FP32, BF16) SOFTEN(BF16, BF16) SOFTEN(INT16, BF16) SOFTEN(INT8, BF16)

static const Soften SOFTENINGS[2][4] = {
    {soften_FP32_FP32, soften_BF16_FP32, soften_INT16_FP32, soften_INT8_FP32},
    {soften_FP32_BF16, soften_BF16_BF16, soften_INT16_BF16, soften_INT8_BF16},
};

/* Rows of one clip, [t, t + count): mixed values of all heads into scratch->mixed from its row `into`. */
static void attend(const Conformer *model, const Batch *batch, int64_t clip, int64_t t, int64_t count, int64_t into,
                   Scratch *scratch) {
    const int kind = model->attention, value = model->values;
    const int64_t width = model->width, head_dim = model->head_dim, heads = width / head_dim;
    const int64_t words = head_dim / group(kind), g = group(value);
    const int64_t start = batch->starts[clip], length = batch->starts[clip + 1] - start;
    const int64_t columns = batch->padded[clip + 1] - batch->padded[clip], stride = scratch->keys;
    for (int64_t head = 0; head < heads; head++) {
        const int64_t column = batch->padded[clip] * heads + head * columns;
        const uint32_t *keys = batch->keys + column * words, *values = batch->values + column * (head_dim / g);
        for (int64_t r = 0; r < count; r += ROWS) {
            const int64_t now = t + r, rows = least(ROWS, count - r);
            const int64_t low = most(0, now - model->back) / LANES * LANES;
            const int64_t high = least(length, now + rows + model->ahead), edge = whole(high, LANES);
            const uint32_t *query = batch->queries + ((start + now) * heads + head) * words;
            const float *steps = batch->key_steps + column + low, *offsets = batch->key_offsets + column + low;
            float step[ROWS];
            __m512 top[ROWS];
            for (int i = 0; i < ROWS; i++) {
                step[i] = batch->query_steps[(start + now + i) * heads + head];
                top[i] = _mm512_set1_ps(-3e38f);
            }
            /* Panels [done, scored) are seen by all rows; the others are masked row by row. */
            const int64_t done = whole(most(low, now + rows - 1 - model->back), PANEL);
            const int64_t scored = most(done, least(length, now + model->ahead + 1) / PANEL * PANEL);
            SCORINGS[kind](query, heads * words, keys + done * words, (scored - done) / PANEL, words, step,
                           steps + done - low, offsets + done - low, scratch->scores + done - low, stride, top);
            for (int64_t key = low; key < edge;) {
                if (key == done && scored > done) {
                    key = scored;
                    continue;
                }
                int64_t inside = key % PANEL;
                int nv = (int)(least(PANEL - inside, edge - key) / LANES);
                KERNELS[kind][nv - 1](query, heads * words, keys + (key - inside) * words + inside, PANEL, words,
                                      scratch->scores + key - low, stride);
                key += nv * LANES;
            }
            float total[ROWS];
            for (int64_t i = 0; i < rows; i++) {
                const int64_t from = most(0, now + i - model->back) - low;
                const int64_t to = least(length, now + i + model->ahead + 1) - low;
                total[i] = SOFTENINGS[value][kind](
                    scratch->scores + i * stride, edge - low, from, to, step[i], steps, offsets, done - low,
                    scored - low, top[i], scratch->weights + i * (stride / g));
            }
            for (int64_t c = 0; c < head_dim; c += PANEL) {
                _Alignas(64) float tile[ROWS * PANEL];
                int64_t panel = least(PANEL, head_dim - c);
                KERNELS[value][panel / LANES - 1](scratch->weights, stride / g,
                                                  values + c * (columns / g) + low / g * panel, panel,
                                                  whole(high - low, g) / g, tile, PANEL);
                for (int64_t i = 0; i < rows; i++) {
                    float *out = scratch->mixed + (into + r + i) * width + head * head_dim + c;
                    __m512 inverse = _mm512_set1_ps(1.0f / total[i]);
                    for (int64_t j = 0; j < panel; j += LANES)
                        _mm512_storeu_ps(out + j, _mm512_mul_ps(_mm512_load_ps(tile + i * PANEL + j), inverse));
                }
            }
        }
    }
}

/* Attention, then the first half of the convolution module up to its gates. */
static void attend_and_gate(const Conformer *model, const Layer *layer, const Batch *batch, int64_t first,
                            int64_t count, Scratch *scratch) {
    const int64_t width = model->width;
    float *x = batch->x + first * width;
    int64_t clip = clip_of(batch, first);
    for (int64_t r = 0; r < count; clip++) {
        int64_t rows = least(first + count, batch->starts[clip + 1]) - (first + r);
        attend(model, batch, clip, first + r - batch->starts[clip], rows, r, scratch);
        r += rows;
    }
    take_rows(layer->out.kind, scratch->mixed, count, width, scratch);
    product_add(&layer->out, count, scratch, x);
    take_normed(layer->pointwise1.kind, x, count, width, layer->before_convolution, model->eps, scratch);
    product_glu(&layer->pointwise1, count, scratch, batch->gated + first * width);
}

/* Depthwise convolution over time and GELU of rows [t, t + count) of one clip, into scratch->mixed from row `into`. */
static void convolve(const Conformer *model, const Layer *layer, const float *gated, int64_t length, int64_t t,
                     int64_t count, int64_t into, Scratch *scratch) {
    const int64_t width = model->width, kernel = model->kernel;
    const int rough = layer->pointwise2.kind == INT8;
    const int64_t padded = whole(count, 8), reach = padded + kernel - 1, from = t - model->past;
    for (int64_t c = 0; c < width; c += LANES) {
        const float *taps = layer->taps + c * kernel;
        for (int64_t i = 0; i < reach; i++) {
            int64_t frame = from + i;
            _mm512_store_ps(scratch->window + i * LANES, frame < 0 || frame >= length
                                                             ? _mm512_setzero_ps()
                                                             : _mm512_loadu_ps(gated + frame * width + c));
        }
        for (int64_t i = 0; i < padded; i += 8) {
            __m512 sum[8];
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) sum[j] = _mm512_loadu_ps(layer->taps_bias + c);
            for (int64_t k = 0; k < kernel; k++) {
                __m512 tap = _mm512_loadu_ps(taps + k * LANES);
#pragma GCC unroll 8
                for (int j = 0; j < 8; j++)
                    sum[j] = _mm512_fmadd_ps(tap, _mm512_load_ps(scratch->window + (i + j + k) * LANES), sum[j]);
            }
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                if (i + j < count)
                    _mm512_storeu_ps(scratch->mixed + (into + i + j) * width + c, gelu(sum[j], rough));
        }
    }
}

/* The second half of the convolution module, the second feed-forward and the layer's norm. */
static void finish_layer(const Conformer *model, const Layer *layer, const Batch *batch, int64_t first, int64_t count,
                         Scratch *scratch) {
    const int64_t width = model->width;
    float *x = batch->x + first * width;
    int64_t clip = clip_of(batch, first);
    for (int64_t r = 0; r < count; clip++) {
        int64_t start = batch->starts[clip], end = batch->starts[clip + 1];
        int64_t rows = least(first + count, end) - (first + r);
        convolve(model, layer, batch->gated + start * width, end - start, first + r - start, rows, r, scratch);
        r += rows;
    }
    take_rows(layer->pointwise2.kind, scratch->mixed, count, width, scratch);
    product_add(&layer->pointwise2, count, scratch, x);
    feed_forward(model, layer->before_ffn2, &layer->up2, &layer->down2, x, count, scratch);
    for (int64_t r = 0; r < count; r++) norm_row(x + r * width, width, layer->final, model->eps, x + r * width);
}

/* ---- threads ---- */

/* Returns when all threads have come here. */
static void meet(Team *team, int threads) {
    int round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->arrived, 1) == threads - 1) {
        atomic_store(&team->arrived, 0);
        atomic_fetch_add(&team->round, 1);
        return;
    }
    for (int spins = 0; atomic_load(&team->round) == round; spins++) {
        if (spins < 4096) _mm_pause();
        else sched_yield();
    }
}

static int64_t longest(const Batch *batch) {
    int64_t keys = 0;
    for (int64_t i = 0; i < batch->num_clips; i++) keys = most(keys, batch->padded[i + 1] - batch->padded[i]);
    return keys;
}

/* Places of a thread's arrays; with scratch NULL only their size. */
static int64_t lay_out(const Conformer *model, int64_t keys, uint8_t *memory, Scratch *scratch) {
    const int64_t wide = most(model->hidden, 3 * (int64_t)model->width);
    const int64_t sizes[] = {BLOCK * wide, BLOCK * wide, (BLOCK + 8) * (int64_t)model->width, ROWS * keys, ROWS * keys,
                             (BLOCK + 8 + model->kernel) * LANES};
    int64_t at[7] = {0};
    for (int i = 0; i < 6; i++) at[i + 1] = at[i] + whole(sizes[i] * 4, 64);
    if (scratch) {
        scratch->inputs = (uint32_t *)(memory + at[0]);
        scratch->values = (float *)(memory + at[1]);
        scratch->mixed = (float *)(memory + at[2]);
        scratch->scores = (float *)(memory + at[3]);
        scratch->weights = (uint32_t *)(memory + at[4]);
        scratch->window = (float *)(memory + at[5]);
        scratch->keys = keys;
    }
    return at[6];
}

static void work(void *argument) {
    Team *team = argument;
    const Conformer *model = team->model;
    const Batch *batch = team->batch;
    const int threads = team->openmp->threads(), thread = team->openmp->thread();
    const int64_t rows = batch->starts[batch->num_clips], width = model->width;
    const int64_t part = whole((rows + threads - 1) / threads, ROWS);
    const int64_t first = least(rows, thread * part), end = least(rows, first + part);
    const int64_t keys = longest(batch), bytes = lay_out(model, keys, NULL, NULL);
    const int64_t blocks = (end - first + BLOCK - 1) / BLOCK; /* of nearly equal size */
    const int64_t block = blocks ? whole((end - first + blocks - 1) / blocks, ROWS) : BLOCK;
    Scratch scratch;
    lay_out(model, keys, batch->scratch + thread * bytes, &scratch);
    for (int32_t i = 0; i < model->num_layers; i++) {
        const Layer *layer = model->layers + i;
        for (int64_t row = first; row < end; row += block) {
            int64_t count = least(block, end - row);
            float *x = batch->x + row * width;
            feed_forward(model, layer->before_ffn1, &layer->up1, &layer->down1, x, count, &scratch);
            project_qkv(model, layer, batch, row, count, &scratch);
        }
        meet(team, threads);
        for (int64_t row = first; row < end; row += block)
            attend_and_gate(model, layer, batch, row, least(block, end - row), &scratch);
        meet(team, threads);
        for (int64_t row = first; row < end; row += block)
            finish_layer(model, layer, batch, row, least(block, end - row), &scratch);
    }
    for (int64_t row = first; row < end; row++)
        norm_row(batch->x + row * width, width, model->last, model->eps, batch->x + row * width);
}

/* ---- one linear layer ---- */

static void apply(void *argument) {
    const Linear *task = argument;
    const Matrix *matrix = task->matrix;
    const int threads = task->openmp->threads(), thread = task->openmp->thread();
    const int64_t part = whole((task->rows + threads - 1) / threads, ROWS), inputs = matrix->inputs;
    const int64_t first = least(task->rows, thread * part), end = least(task->rows, first + part);
    Scratch scratch = {.inputs = task->scratch + thread * BLOCK * inputs};
    for (int64_t row = first; row < end; row += BLOCK) {
        const int64_t count = least(BLOCK, end - row);
        take_rows(matrix->kind, task->x + row * inputs, count, inputs, &scratch);
        product_store(matrix, count, &scratch, task->out + row * matrix->outputs);
    }
}

/* ---- code look-up ---- */

static void look_up(void *argument) {
    const LookUp *task = argument;
    const int threads = task->openmp->threads(), thread = task->openmp->thread();
    const int64_t part = whole((task->rows + threads - 1) / threads, ROWS), inputs = task->inputs;
    const int64_t first = least(task->rows, thread * part), end = least(task->rows, first + part);
    for (int64_t row = first; row < end; row += BLOCK) {
        const int64_t count = least(BLOCK, end - row);
        __m512 best[BLOCK];
        __m512i where[BLOCK];
        for (int64_t r = 0; r < count; r++) best[r] = _mm512_set1_ps(-3e38f), where[r] = _mm512_setzero_si512();
        for (int64_t code = 0; code < task->codes; code += PANEL) {
            const int nv = (int)(least(PANEL, task->codes - code) / LANES);
            for (int64_t r = 0; r < count; r += ROWS) {
                _Alignas(64) float tile[ROWS * PANEL];
                KERNELS[FP32][nv - 1](task->queries + (row + r) * inputs, inputs, task->panels + code * inputs,
                                      nv * LANES, inputs, tile, PANEL);
                for (int64_t i = 0; i < least(ROWS, count - r); i++)
                    for (int v = 0; v < nv; v++) {
                        __m512 x = _mm512_load_ps(tile + i * PANEL + v * LANES);
                        __mmask16 better = _mm512_cmp_ps_mask(x, best[r + i], _CMP_GT_OQ);
                        best[r + i] = _mm512_mask_mov_ps(best[r + i], better, x);
                        where[r + i] = _mm512_mask_mov_epi32(where[r + i], better,
                                                             _mm512_set1_epi32((int)(code + v * LANES)));
                    }
            }
        }
        const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        for (int64_t r = 0; r < count; r++) {
            __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(best[r]));
            __mmask16 equal = _mm512_cmp_ps_mask(best[r], top, _CMP_EQ_OQ);
            task->found[row + r] = _mm512_mask_reduce_min_epi32(equal, _mm512_add_epi32(where[r], lane));
        }
    }
}

/* ---- what cpu_kernels.py calls ---- */

const int32_t llmcodec_sizes[] = {LANES, PANEL, ROWS, BLOCK, MAX_HEAD}; /* cpu_kernels.py has the same */

int32_t llmcodec_supported(void) {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Bytes of scratch that a thread needs. */
int64_t llmcodec_scratch_bytes(const Conformer *model, const Batch *batch) {
    return lay_out(model, longest(batch), NULL, NULL);
}

/* All layers and the last norm over batch->x. OpenMP may give fewer threads than asked for. */
void llmcodec_conformer(const Conformer *model, const Batch *batch, int32_t threads, const OpenMP *openmp) {
    Team team = {.model = model, .batch = batch, .openmp = team_of(threads, openmp)};
    team.openmp->parallel(work, &team, (unsigned)threads, 0);
}

void llmcodec_linear(Linear *task, int32_t threads) {
    task->openmp = team_of(threads, task->openmp);
    task->openmp->parallel(apply, task, (unsigned)threads, 0);
}

void llmcodec_look_up(LookUp *task, int32_t threads) {
    task->openmp = team_of(threads, task->openmp);
    task->openmp->parallel(look_up, task, (unsigned)threads, 0);
}
