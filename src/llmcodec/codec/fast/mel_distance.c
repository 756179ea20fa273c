/* Distance of mel spectra, for the search (codec/mel_distance.py): compiled behind cpu_kernels.c, as one file with it.

Sixteen frames at a time, one in each lane of a register: no step needs a shuffle but the transposition at the start.
A real transform of N samples is a complex one of N / 2 (Stockham, radix 4: N / 2 is a power of 4), then the halves are
taken apart. Shapes: X versions, S samples, F analysis frames, N window, M bands. Test: tests/codec/test_mel_distance.py. */

typedef struct {
    const OpenMP *openmp;
    const float *wav;        /* (X, S) */
    int64_t rows, samples, frames, hop, size, bands;
    const float *window;     /* (N) */
    const float *turns;      /* (N, 2): cosine and sine of -2 pi k / N */
    const int32_t *starts;   /* (M + 1): where the weights of a band begin */
    const int32_t *bins;     /* (M): the first bin of each band */
    const float *weights;    /* all bands', one after the other */
    const float *wanted;     /* (M, F padded to 16): the reference, at least the floor in the second */
    const float *wanted_log; /* its log2 */
    float linear, floor;     /* what the linear part is multiplied by; the least that has a logarithm */
    float *out;              /* (X, F) */
    float *mel;              /* (M, F padded) of the one version, or none: then no distance is taken */
    float *scratch;          /* 5 N / 2 + 1 registers a thread */
} MelDistance;

/* log2 of positive normal numbers, to 2e-7: 2 / ln 2 * artanh((m - 1) / (m + 1)), m in [.75, 1.5). */
static inline __m512 log2_of(__m512 x) {
    const __m512 one_ = _mm512_set1_ps(1.f);
    __m512 power = _mm512_getexp_ps(x), m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const __mmask16 high = _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.5f), _CMP_GE_OQ);
    m = _mm512_mask_mul_ps(m, high, m, _mm512_set1_ps(.5f));
    power = _mm512_mask_add_ps(power, high, power, one_);
    const __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one_), _mm512_add_ps(m, one_)), s2 = _mm512_mul_ps(s, s);
    __m512 y = _mm512_set1_ps(2.f / 9);
    y = _mm512_fmadd_ps(y, s2, _mm512_set1_ps(2.f / 7));
    y = _mm512_fmadd_ps(y, s2, _mm512_set1_ps(2.f / 5));
    y = _mm512_fmadd_ps(y, s2, _mm512_set1_ps(2.f / 3));
    y = _mm512_fmadd_ps(y, s2, _mm512_set1_ps(2.f));
    return _mm512_fmadd_ps(_mm512_mul_ps(y, s), _mm512_set1_ps(LOG2E), power);
}

/* Rows and columns of 16 registers. */
static inline void transpose(__m512 *r) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 2)
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
#define PAIRS(which, a, b) _mm512_castpd_ps(which(_mm512_castps_pd(a), _mm512_castps_pd(b)))
    for (int i = 0; i < 16; i += 4) {
        r[i] = PAIRS(_mm512_unpacklo_pd, t[i], t[i + 2]), r[i + 1] = PAIRS(_mm512_unpackhi_pd, t[i], t[i + 2]);
        r[i + 2] = PAIRS(_mm512_unpacklo_pd, t[i + 1], t[i + 3]);
        r[i + 3] = PAIRS(_mm512_unpackhi_pd, t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        const __m512 even = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), odd = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
        const __m512 more = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
        const __m512 most_ = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_f32x4(even, more, 0x88), t[4 + j] = _mm512_shuffle_f32x4(odd, most_, 0x88);
        t[8 + j] = _mm512_shuffle_f32x4(even, more, 0xdd), t[12 + j] = _mm512_shuffle_f32x4(odd, most_, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* Windowed samples of 16 frames, (N, 16); zero before the first sample and behind the last. */
static void take_frames(const MelDistance *task, const float *wav, int64_t frame, float *out) {
    for (int64_t n = 0; n < task->size; n += LANES) {
        __m512 r[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            const int64_t at = (frame + i) * task->hop + n - task->size / 2, left = task->samples - at;
            const __mmask16 before = at >= 0 ? 0xffff : at <= -LANES ? 0 : (__mmask16)(0xffff << -at);
            const __mmask16 behind = left >= LANES ? 0xffff : left <= 0 ? 0 : (__mmask16)(0xffff >> (LANES - left));
            r[i] = _mm512_maskz_loadu_ps(before & behind, wav + at);
        }
        transpose(r);
        for (int64_t i = 0; i < LANES; i++)
            _mm512_store_ps(out + (n + i) * LANES, _mm512_mul_ps(r[i], _mm512_set1_ps(task->window[n + i])));
    }
}

/* One step of the transform: count numbers in sequences `apart` from each other, x -> y. */
static void combine(const float *x, float *y, int64_t count, int64_t apart, const float *turns, int64_t stride) {
    const int64_t quarter = count / 4, step = 2 * LANES;
    for (int64_t p = 0; p < quarter; p++) {
        const float *w = turns + 2 * p * stride, *w2 = turns + 4 * p * stride, *w3 = turns + 6 * p * stride;
        const __m512 c1 = _mm512_set1_ps(w[0]), s1 = _mm512_set1_ps(w[1]), c2 = _mm512_set1_ps(w2[0]);
        const __m512 s2 = _mm512_set1_ps(w2[1]), c3 = _mm512_set1_ps(w3[0]), s3 = _mm512_set1_ps(w3[1]);
        for (int64_t q = 0; q < apart; q++) {
            const float *a = x + (q + apart * p) * step, *b = a + apart * quarter * step;
            const float *c = b + apart * quarter * step, *d = c + apart * quarter * step;
            float *out = y + (q + apart * 4 * p) * step;
#define RE(z) _mm512_load_ps(z)
#define IM(z) _mm512_load_ps((z) + LANES)
            const __m512 sum_r = _mm512_add_ps(RE(a), RE(c)), sum_i = _mm512_add_ps(IM(a), IM(c));
            const __m512 gap_r = _mm512_sub_ps(RE(a), RE(c)), gap_i = _mm512_sub_ps(IM(a), IM(c));
            const __m512 odd_r = _mm512_add_ps(RE(b), RE(d)), odd_i = _mm512_add_ps(IM(b), IM(d));
            const __m512 side_r = _mm512_sub_ps(RE(b), RE(d)), side_i = _mm512_sub_ps(IM(b), IM(d));
            _mm512_store_ps(out, _mm512_add_ps(sum_r, odd_r));
            _mm512_store_ps(out + LANES, _mm512_add_ps(sum_i, odd_i));
#define TURN(place, re, im, cosine, sine)                                                              \
    _mm512_store_ps(place, _mm512_fmsub_ps(re, cosine, _mm512_mul_ps(im, sine)));                      \
    _mm512_store_ps((place) + LANES, _mm512_fmadd_ps(re, sine, _mm512_mul_ps(im, cosine)))
            const __m512 r1 = _mm512_add_ps(gap_r, side_i), i1 = _mm512_sub_ps(gap_i, side_r);
            const __m512 r2 = _mm512_sub_ps(sum_r, odd_r), i2 = _mm512_sub_ps(sum_i, odd_i);
            const __m512 r3 = _mm512_sub_ps(gap_r, side_i), i3 = _mm512_add_ps(gap_i, side_r);
            TURN(out + apart * step, r1, i1, c1, s1);
            TURN(out + 2 * apart * step, r2, i2, c2, s2);
            TURN(out + 3 * apart * step, r3, i3, c3, s3);
        }
    }
}

/* Magnitudes (N / 2 + 1, 16) of the spectra of what `z` holds (N, 16); `spare` is as large as z. */
static void magnitudes(const MelDistance *task, float *z, float *spare, float *out) {
    const int64_t half = task->size / 2;
    for (int64_t count = half, apart = 1; count > 1; count /= 4, apart *= 4) {
        combine(z, spare, count, apart, task->turns, 2 * apart);
        float *other = z;
        z = spare, spare = other;
    }
    const __m512 first = _mm512_load_ps(z), second = _mm512_load_ps(z + LANES), one_half = _mm512_set1_ps(.5f);
    _mm512_store_ps(out, _mm512_abs_ps(_mm512_add_ps(first, second)));
    _mm512_store_ps(out + half * LANES, _mm512_abs_ps(_mm512_sub_ps(first, second)));
    for (int64_t k = 1; k <= half / 2; k++) {
        const float *a = z + 2 * k * LANES, *b = z + 2 * (half - k) * LANES;
        const __m512 even_r = _mm512_mul_ps(one_half, _mm512_add_ps(RE(a), RE(b)));
        const __m512 even_i = _mm512_mul_ps(one_half, _mm512_sub_ps(IM(a), IM(b)));
        const __m512 odd_r = _mm512_mul_ps(one_half, _mm512_add_ps(IM(a), IM(b)));
        const __m512 odd_i = _mm512_mul_ps(one_half, _mm512_sub_ps(RE(b), RE(a)));
        const __m512 c = _mm512_set1_ps(task->turns[2 * k]), s = _mm512_set1_ps(task->turns[2 * k + 1]);
        const __m512 turned_r = _mm512_fmsub_ps(odd_r, c, _mm512_mul_ps(odd_i, s));
        const __m512 turned_i = _mm512_fmadd_ps(odd_r, s, _mm512_mul_ps(odd_i, c));
        for (int side = 0; side < 2; side++) {
            const __m512 re = side ? _mm512_sub_ps(even_r, turned_r) : _mm512_add_ps(even_r, turned_r);
            const __m512 im = side ? _mm512_sub_ps(even_i, turned_i) : _mm512_add_ps(even_i, turned_i);
            const __m512 power = _mm512_fmadd_ps(re, re, _mm512_mul_ps(im, im));
            _mm512_store_ps(out + (side ? half - k : k) * LANES, _mm512_sqrt_ps(power));
        }
    }
}

static void mel_distance(void *argument) {
    const MelDistance *task = argument;
    const int threads = task->openmp->threads(), thread = task->openmp->thread();
    const int64_t groups = (task->frames + LANES - 1) / LANES, all = task->rows * groups, padded = groups * LANES;
    float *z = task->scratch + thread * (5 * task->size / 2 + 1) * LANES, *spare = z + task->size * LANES;
    float *heard = spare + task->size * LANES;
    for (int64_t item = thread * all / threads; item < (thread + 1) * all / threads; item++) {
        const int64_t row = item / groups, frame = item % groups * LANES;
        take_frames(task, task->wav + row * task->samples, frame, z);
        magnitudes(task, z, spare, heard);
        __m512 logs = _mm512_setzero_ps(), lines = _mm512_setzero_ps();
        for (int64_t band = 0; band < task->bands; band++) {
            const float *weight = task->weights + task->starts[band], *bin = heard + task->bins[band] * LANES;
            const int64_t count = task->starts[band + 1] - task->starts[band];
            __m512 mel = _mm512_setzero_ps();
            for (int64_t i = 0; i < count; i++)
                mel = _mm512_fmadd_ps(_mm512_set1_ps(weight[i]), _mm512_load_ps(bin + i * LANES), mel);
            if (task->mel) {
                _mm512_storeu_ps(task->mel + band * padded + frame, mel);
                continue;
            }
            const __m512 wanted = _mm512_loadu_ps(task->wanted + band * padded + frame);
            const __m512 wanted_log = _mm512_loadu_ps(task->wanted_log + band * padded + frame);
            const __m512 level = log2_of(_mm512_max_ps(mel, _mm512_set1_ps(task->floor)));
            logs = _mm512_add_ps(logs, _mm512_abs_ps(_mm512_sub_ps(level, wanted_log)));
            lines = _mm512_add_ps(lines, _mm512_abs_ps(_mm512_sub_ps(mel, wanted)));
        }
        if (task->mel) continue;
        const float to_log10 = 2 * .30102999566f / (float)task->bands, to_linear = task->linear / (float)task->bands;
        const __m512 sum = _mm512_fmadd_ps(lines, _mm512_set1_ps(to_linear), _mm512_mul_ps(logs, _mm512_set1_ps(to_log10)));
        const int64_t left = least(LANES, task->frames - frame);
        _mm512_mask_storeu_ps(task->out + row * task->frames + frame, (__mmask16)(0xffff >> (LANES - left)), sum);
    }
}

void llmcodec_mel_distance(MelDistance *task, int32_t threads) {
    task->openmp = team_of(threads, task->openmp);
    task->openmp->parallel(mel_distance, task, (unsigned)threads, 0);
}
