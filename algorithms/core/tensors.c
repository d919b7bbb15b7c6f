/* What lies between products in C: rounding to binary16, sums of two tensors, N:M selection, batch normalisation.
 *
 * Every line is one operation with its own rounding (-ffp-contract=off) in the order of the NumPy code beside it; sums
 * over rows run in ascending order, channels side by side. binary16 tensors are rows x channels, without gaps.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef uint16_t half;
#define BLOCK 64 /* channels, or elements, at once */

static inline float widen(half h) {
#ifdef __F16C__
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    union { uint32_t u; float f; } x, scale = {0x77800000u}; /* 2^112 */
    uint32_t rest = (uint32_t)(h & 0x7fff) << 13;
    if ((h & 0x7c00) == 0x7c00) x.u = rest | 0x7f800000u;
    else if (rest < 0x00800000u) x.f = (float)(rest >> 13) * 5.9604644775390625e-8f; /* whole numbers of 2^-24 */
    else x.u = rest, x.f *= scale.f;
    x.u |= (uint32_t)(h & 0x8000) << 16;
    return x.f;
#endif
}

/* Nearest even, overflow to infinity, subnormals kept, one NaN. */
static inline half narrow(float value) {
    union { float f; uint32_t u; } x = {value}, y;
    uint32_t sign = x.u >> 16 & 0x8000, u = x.u & 0x7fffffffu;
    if (u > 0x7f800000u) return 0x7e00;
    if (u >= 0x47800000u) return (half)(sign | 0x7c00);
    if (u < 0x38800000u) { /* below 2^-14: adding 1/2 rounds to whole numbers of 2^-24 */
        y.u = u;
        y.f += 0.5f;
        return (half)(sign | (y.u - 0x3f000000u));
    }
    u += 0xfff + (u >> 13 & 1);
    return (half)(sign | (u - 0x38000000u) >> 13);
}

static void widen_row(float *to, const half *from, ptrdiff_t count) {
    ptrdiff_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < count; i++) to[i] = widen(from[i]);
}

typedef float single __attribute__((vector_size(32), aligned(4)));
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS void narrow8(half *to, single x) {
#ifdef __F16C__
    const __m128i all = _mm_set1_epi16(0x7fff), top = _mm_set1_epi16(0x7c00), nan = _mm_set1_epi16(0x7e00);
    __m128i h = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
    h = _mm_blendv_epi8(h, nan, _mm_cmpgt_epi16(_mm_and_si128(h, all), top));
    _mm_storeu_si128((__m128i *)to, h);
#else
    for (int i = 0; i < 8; i++) to[i] = narrow(x[i]);
#endif
}

static void narrow_row(half *to, const float *from, ptrdiff_t count) {
    ptrdiff_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8) narrow8(to + i, *(const single *)(from + i));
#endif
    for (; i < count; i++) to[i] = narrow(from[i]);
}

/* One rounding from binary64: to binary32 first with the last bit set if anything was lost, which cannot become a tie. */
static void narrow_wide(half *to, const double *from, ptrdiff_t count) {
    float odd[BLOCK];
    for (ptrdiff_t i = 0; i < count; i++) {
        uint64_t u;
        double d;
        memcpy(&u, from + i, 8);
        uint64_t lost = (u & 0x1fffffffu) ? (uint64_t)1 << 29 : 0;
        u = (u & ~(uint64_t)0x1fffffffu) | lost;
        memcpy(&d, &u, 8);
        odd[i] = (float)d;
    }
    narrow_row(to, odd, count);
}

static ptrdiff_t least(ptrdiff_t x, ptrdiff_t y) { return x < y ? x : y; }

void nmsat_to_half(half *to, const float *from, ptrdiff_t count) { narrow_row(to, from, count); }

void nmsat_to_single(float *to, const half *from, ptrdiff_t count) { widen_row(to, from, count); }

void nmsat_wide_to_half(half *to, const double *from, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += BLOCK) narrow_wide(to + i, from + i, least(BLOCK, count - i));
}

/* to = round16(round32(x + y)). */
void nmsat_add(half *to, const half *x, const half *y, ptrdiff_t count) {
    float a[BLOCK], b[BLOCK];
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        ptrdiff_t size = least(BLOCK, count - i);
        widen_row(a, x + i, size);
        widen_row(b, y + i, size);
        for (ptrdiff_t j = 0; j < size; j++) a[j] += b[j];
        narrow_row(to + i, a, size);
    }
}

typedef double wide __attribute__((vector_size(64), aligned(8)));
typedef int64_t whole __attribute__((vector_size(64), aligned(8)));
#define LANES 8 /* channels of a vector in binary64 */

/* The compiler's own conversions of whole vectors go by halves of them. */
ALWAYS wide to_wide(single x) {
#ifdef __AVX512F__
    return (wide)_mm512_cvtps_pd((__m256)x);
#else
    return __builtin_convertvector(x, wide);
#endif
}

ALWAYS single to_single(wide x) {
#ifdef __AVX512F__
    return (single)_mm512_cvtpd_ps((__m512d)x);
#else
    return __builtin_convertvector(x, single);
#endif
}

ALWAYS wide read_halves(const half *x, ptrdiff_t count) {
    half part[LANES] = {0};
    if (count < LANES) memcpy(part, x, (size_t)count * 2), x = part;
#ifdef __F16C__
    single f = (single)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#else
    single f;
    for (int i = 0; i < LANES; i++) f[i] = widen(x[i]);
#endif
    return to_wide(f);
}

ALWAYS wide read_wide(const double *x, ptrdiff_t count) {
    double part[LANES] = {0};
    if (count < LANES) memcpy(part, x, (size_t)count * 8), x = part;
    return *(const wide *)x;
}

ALWAYS void write_wide(double *to, wide x, ptrdiff_t count) {
    double part[LANES];
    if (count == LANES) *(wide *)to = x;
    else *(wide *)part = x, memcpy(to, part, (size_t)count * 8);
}

/* One rounding from binary64, as `narrow_wide`. */
ALWAYS void write_halves(half *to, wide x, ptrdiff_t count) {
    whole u = (whole)x, low = (whole){0} + 0x1fffffff;
    whole lost = ((u & low) != 0) & ((whole){0} + 0x20000000);
    single odd = to_single((wide)((u & ~low) | lost));
    half part[LANES];
    narrow8(count == LANES ? to : part, odd);
    if (count < LANES) memcpy(to, part, (size_t)count * 2);
}

/* Calls body(first channel, vectors, channels of the last vector) for all channels: `most` vectors at once, then one. */
#define BY_CHANNELS(channels, most, body)                                                          \
    do {                                                                                           \
        ptrdiff_t c_ = 0;                                                                          \
        for (; c_ + (most) * LANES <= (channels); c_ += (most) * LANES) body(c_, most, LANES);     \
        for (; c_ + LANES <= (channels); c_ += LANES) body(c_, 1, LANES);                          \
        if (c_ < (channels)) body(c_, 1, (channels) - c_);                                         \
    } while (0)

/* mean and variance of every channel of x[rows, channels]; 1 if all are finite. */
int nmsat_statistics(double *mean, double *variance, const half *x, ptrdiff_t rows, ptrdiff_t channels) {
#define BODY(c, vectors, last)                                                                     \
    {                                                                                              \
        wide sum[vectors], square[vectors];                                                        \
        for (int v = 0; v < vectors; v++) sum[v] = square[v] = (wide){0};                          \
        for (ptrdiff_t r = 0; r < rows; r++)                                                       \
            for (int v = 0; v < vectors; v++)                                                      \
                sum[v] += read_halves(x + r * channels + c + v * LANES, last);                     \
        for (int v = 0; v < vectors; v++) sum[v] /= (double)rows;                                  \
        for (ptrdiff_t r = 0; r < rows; r++)                                                       \
            for (int v = 0; v < vectors; v++) {                                                    \
                wide d = read_halves(x + r * channels + c + v * LANES, last) - sum[v];             \
                square[v] += d * d;                                                                \
            }                                                                                      \
        for (int v = 0; v < vectors; v++) {                                                        \
            write_wide(mean + c + v * LANES, sum[v], last);                                        \
            write_wide(variance + c + v * LANES, square[v] / (double)rows, last);                  \
        }                                                                                          \
    }
    BY_CHANNELS(channels, 4, BODY);
#undef BODY
    double none = 0; /* stays 0: a number that is not finite times 0 is a NaN */
    for (ptrdiff_t c = 0; c < channels; c++) none += mean[c] * 0.0 + variance[c] * 0.0;
    return none == 0;
}

/* y = round16(normal * gain + offset), normal = (x - mean) * inverse. */
void nmsat_normalise(half *y, const half *x, const double *mean, const double *inverse, const half *gain,
                     const half *offset, ptrdiff_t rows, ptrdiff_t channels) {
#define BODY(c, vectors, last)                                                                     \
    {                                                                                              \
        wide m[vectors], i[vectors], g[vectors], o[vectors];                                       \
        for (int v = 0; v < vectors; v++) {                                                        \
            ptrdiff_t at = c + v * LANES;                                                          \
            m[v] = read_wide(mean + at, last), i[v] = read_wide(inverse + at, last);               \
            g[v] = read_halves(gain + at, last), o[v] = read_halves(offset + at, last);            \
        }                                                                                          \
        for (ptrdiff_t r = 0; r < rows; r++)                                                       \
            for (int v = 0; v < vectors; v++) {                                                    \
                ptrdiff_t at = r * channels + c + v * LANES;                                       \
                wide normal = (read_halves(x + at, last) - m[v]) * i[v];                           \
                write_halves(y + at, normal * g[v] + o[v], last);                                  \
            }                                                                                      \
    }
    BY_CHANNELS(channels, 4, BODY);
#undef BODY
}

/* Gradients of a normalisation over the rows, normal = (x - mean) * inverse:
 * gains = round16(sum of dy * normal), offsets = round16(sum of dy), and dx = round16((dy * gain - middle - normal *
 * slope) * inverse) with the means over the rows of dy * gain and of dy * gain * normal. */
void nmsat_norm_gradients(half *dx, half *gains, half *offsets, const half *dy, const half *x, const double *mean,
                          const double *inverse, const half *gain, ptrdiff_t rows, ptrdiff_t channels) {
#define BODY(c, vectors, last)                                                                     \
    {                                                                                              \
        wide m[vectors], i[vectors], g[vectors], sums[vectors][4];                                 \
        for (int v = 0; v < vectors; v++) {                                                        \
            ptrdiff_t at = c + v * LANES;                                                          \
            m[v] = read_wide(mean + at, last), i[v] = read_wide(inverse + at, last);               \
            g[v] = read_halves(gain + at, last);                                                   \
            for (int s = 0; s < 4; s++) sums[v][s] = (wide){0};                                    \
        }                                                                                          \
        for (ptrdiff_t r = 0; r < rows; r++)                                                       \
            for (int v = 0; v < vectors; v++) {                                                    \
                ptrdiff_t at = r * channels + c + v * LANES;                                       \
                wide d = read_halves(dy + at, last), inner = d * g[v];                             \
                wide normal = (read_halves(x + at, last) - m[v]) * i[v];                           \
                sums[v][0] += d * normal;                                                          \
                sums[v][1] += d;                                                                   \
                sums[v][2] += inner;                                                               \
                sums[v][3] += inner * normal;                                                      \
            }                                                                                      \
        for (int v = 0; v < vectors; v++) {                                                        \
            write_halves(gains + c + v * LANES, sums[v][0], last);                                 \
            write_halves(offsets + c + v * LANES, sums[v][1], last);                               \
            sums[v][2] /= (double)rows;                                                            \
            sums[v][3] /= (double)rows;                                                            \
        }                                                                                          \
        for (ptrdiff_t r = 0; r < rows; r++)                                                       \
            for (int v = 0; v < vectors; v++) {                                                    \
                ptrdiff_t at = r * channels + c + v * LANES;                                       \
                wide inner = read_halves(dy + at, last) * g[v];                                    \
                wide normal = (read_halves(x + at, last) - m[v]) * i[v];                           \
                write_halves(dx + at, (inner - sums[v][2] - normal * sums[v][3]) * i[v], last);    \
            }                                                                                      \
    }
    BY_CHANNELS(channels, 4, BODY);
#undef BODY
}

/* +0 for what is not above 0; a NaN stays. As int16 the NaNs with a sign are -1023 to -1, -0 and below are lower. */
void nmsat_relu(int16_t *to, const int16_t *x, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) to[i] = x[i] > -1024 ? x[i] : 0;
}

/* The gradient passes where the output y is not +0. */
void nmsat_relu_gradient(int16_t *to, const int16_t *y, const int16_t *dy, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) to[i] = y[i] ? dy[i] : 0;
}

/* 1 if no element is infinite or NaN. */
int nmsat_finite(const half *x, ptrdiff_t count) {
    half top = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        half size = x[i] & 0x7fff;
        top = size > top ? size : top;
    }
    return top < 0x7c00;
}

/* The first largest of each size x size window of x[batch, height, width, channels] and its place; NaN is above all. */
void nmsat_max_pool(half *y, uint8_t *place, const half *x, ptrdiff_t batch, ptrdiff_t height, ptrdiff_t width,
                    ptrdiff_t channels, ptrdiff_t size) {
    typedef int16_t shorts __attribute__((vector_size(32), aligned(2)));
    const shorts all = (shorts){0} + 0x7fff, top = (shorts){0} + 0x7c00;
    for (ptrdiff_t b = 0; b < batch; b++, x += height * width * channels)
        for (ptrdiff_t i = 0; i < height / size; i++)
            for (ptrdiff_t j = 0; j < width / size; j++, y += channels, place += channels)
                for (ptrdiff_t c0 = 0; c0 < channels; c0 += 16) {
                    ptrdiff_t count = least(16, channels - c0);
                    shorts most = (shorts){0} + INT16_MIN, at = {0}, best = {0};
                    for (ptrdiff_t p = 0; p < size * size; p++) {
                        const half *from = x + ((i * size + p / size) * width + j * size + p % size) * channels + c0;
                        shorts bits = {0};
                        if (count == 16) bits = *(const shorts *)from;
                        else memcpy(&bits, from, (size_t)count * 2);
                        shorts low = bits & all, nan = low > top, below = bits < 0;
                        shorts key = (nan & all) | (~nan & ((below & -low) | (~below & low))), more = key > most;
                        most = (more & key) | (~more & most);
                        at = (more & (int16_t)p) | (~more & at);
                        best = (more & bits) | (~more & best);
                    }
                    for (ptrdiff_t c = 0; c < count; c++) y[c0 + c] = (half)best[c], place[c0 + c] = (uint8_t)at[c];
                }
}

/* dx[batch, height, width, channels], all zeros: what was chosen gets the gradient. */
void nmsat_max_pool_gradient(half *dx, const half *dy, const uint8_t *place, ptrdiff_t batch, ptrdiff_t height,
                             ptrdiff_t width, ptrdiff_t channels, ptrdiff_t size) {
    for (ptrdiff_t b = 0; b < batch; b++, dx += height * width * channels)
        for (ptrdiff_t i = 0; i < height / size; i++)
            for (ptrdiff_t j = 0; j < width / size; j++, dy += channels, place += channels)
                for (ptrdiff_t p = 0; p < size * size; p++) {
                    half *to = dx + ((i * size + p / size) * width + j * size + p % size) * channels;
                    for (ptrdiff_t c = 0; c < channels; c++) to[c] = place[c] == p ? dy[c] : 0;
                }
}

/* to[t, j, i] = w[taps[t], i, j]: what the backward product of a convolution multiplies. */
void nmsat_turn_taps(half *to, const half *w, const int64_t *taps, ptrdiff_t count, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t t = 0; t < count; t++, to += rows * columns) {
        const half *from = w + taps[t] * rows * columns;
        for (ptrdiff_t i0 = 0; i0 < rows; i0 += 16)
            for (ptrdiff_t j = 0; j < columns; j++)
                for (ptrdiff_t i = i0; i < least(i0 + 16, rows); i++) to[j * rows + i] = from[i * columns + j];
    }
}

static void clean(float *x, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        u = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u;
        memcpy(x + i, &u, 4);
    }
}

/* Momentum SGD line by line (docs/arithmetic.md, "Weight update"); constants: lr, mu, wd, lam, 2^-s; keep: mask or none. */
void nmsat_sgd(float *restrict w2, float *restrict v2, const float *restrict w, const float *restrict v, const half *g,
               const uint8_t *keep, ptrdiff_t count, const float *constants) {
    float f[BLOCK], t2[BLOCK];
    float lr = constants[0], mu = constants[1], wd = constants[2], lam = constants[3], scale = constants[4];
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        ptrdiff_t size = least(BLOCK, count - i);
        widen_row(f, g + i, size);
        for (ptrdiff_t j = 0; j < size; j++) t2[j] = keep && !keep[i + j] ? lam * w[i + j] : 0.0f;
        for (ptrdiff_t j = 0; j < size; j++) {
            float t1 = wd * w[i + j], g1 = f[j] * scale + t1, g2 = g1 + t2[j], v1 = mu * v[i + j];
            v2[i + j] = v1 + g2;
            float d = lr * v2[i + j];
            w2[i + j] = w[i + j] - d;
        }
        clean(v2 + i, size);
        clean(w2 + i, size);
    }
}

#define SIDE 32 /* columns at once */
typedef int16_t line __attribute__((vector_size(2 * SIDE)));
typedef uint8_t bytes __attribute__((vector_size(SIDE), aligned(1)));

/* to[i][c] = from[i * wk + c * wc] of depth x width. */
static inline void read_lines(line *to, const half *from, ptrdiff_t wk, ptrdiff_t wc, ptrdiff_t depth, ptrdiff_t width) {
    if (wc == 1 && width == SIDE) {
        for (ptrdiff_t i = 0; i < depth; i++) memcpy(to + i, from + i * wk, sizeof *to);
    } else if (wc == 1) {
        for (ptrdiff_t i = 0; i < depth; i++) memcpy(to + i, from + i * wk, (size_t)width * 2);
    } else {
        half columns[16][SIDE];
        for (ptrdiff_t c = 0; c < width; c++)
            for (ptrdiff_t i = 0; i < depth; i++) columns[i][c] = from[i * wk + c * wc];
        for (ptrdiff_t i = 0; i < depth; i++) memcpy(to + i, columns[i], (size_t)width * 2);
    }
}

/* to[c * step] = x[c], as bytes. */
static inline void write_bytes(uint8_t *to, ptrdiff_t step, line x, ptrdiff_t width) {
    bytes narrow = __builtin_convertvector(x, bytes);
    if (step == 1 && width == SIDE) memcpy(to, &narrow, sizeof narrow);
    else
        for (ptrdiff_t c = 0; c < width; c++) to[c * step] = narrow[c];
}

/* The n largest of each group of m along k of w[k, columns] (strides wk, wc), lower places first among equals.
 * keep[k, columns] (strides kk, kc) and the pairs [groups, n, columns] are written where they are wanted. */
void nmsat_select(const half *w, ptrdiff_t wk, ptrdiff_t wc, ptrdiff_t k, ptrdiff_t columns, ptrdiff_t n, ptrdiff_t m,
                  uint8_t *keep, ptrdiff_t kk, ptrdiff_t kc, half *values, uint8_t *index, uint8_t *filler) {
    line bits[16], size[16], stays[16], slot[16];
    const line all = (line){0} + 0x7fff, one = (line){0} + 1;
    memset(bits, 0, sizeof bits);
    for (ptrdiff_t k0 = 0; k0 < k; k0 += m)
        for (ptrdiff_t c0 = 0; c0 < columns; c0 += SIDE) {
            ptrdiff_t depth = least(m, k - k0), width = least(SIDE, columns - c0);
            read_lines(bits, w + k0 * wk + c0 * wc, wk, wc, depth, width);
            for (ptrdiff_t i = 0; i < depth; i++) size[i] = bits[i] & all;
            for (ptrdiff_t i = 0; i < depth; i++) {
                line above = {0}; /* minus how many stand above element i */
                for (ptrdiff_t j = 0; j < i; j++) above += size[j] >= size[i];
                for (ptrdiff_t j = i + 1; j < depth; j++) above += size[j] > size[i];
                stays[i] = -above < (int16_t)n;
            }
            for (ptrdiff_t i = 0; i < depth; i++) {
                ptrdiff_t at = (k0 + i) * kk + c0 * kc;
                if (keep) write_bytes(keep + at, kc, stays[i] & one, width);
            }
            if (!values) continue;
            line used = {0}; /* slot of a kept element: kept ones before it in its group; -1 of one that goes */
            for (ptrdiff_t i = 0; i < depth; i++) {
                slot[i] = (stays[i] & used) | ~stays[i];
                used -= stays[i];
            }
            for (ptrdiff_t t = 0; t < n; t++) {
                ptrdiff_t at = (k0 / m * n + t) * columns + c0;
                line value = {0}, place = {0}, full = {0};
                for (ptrdiff_t i = t; i < depth; i++) {
                    line hit = slot[i] == (int16_t)t;
                    value |= hit & bits[i];
                    place |= hit & (int16_t)i;
                    full |= hit;
                }
                if (width == SIDE) memcpy(values + at, &value, sizeof value);
                else memcpy(values + at, &value, (size_t)width * 2);
                write_bytes(index + at, 1, place, width);
                write_bytes(filler + at, 1, ~full & one, width);
            }
        }
}

/* Copy a run of bytes: short ones, for which a call costs more than the copy. */
static inline void copy_run(uint8_t *to, const uint8_t *from, ptrdiff_t bytes) {
    typedef uint8_t chunk __attribute__((vector_size(32), aligned(1)));
    if (bytes < 32) {
        memcpy(to, from, (size_t)bytes);
        return;
    }
    for (ptrdiff_t i = 0; i + 32 <= bytes; i += 32) *(chunk *)(to + i) = *(const chunk *)(from + i);
    *(chunk *)(to + bytes - 32) = *(const chunk *)(from + bytes - 32);
}

/* Windows of x[batch, height, width, channels]: element sizes are bytes, `tap` bytes of channels;
 * to[b, i, j, p, q, channels] = x[b, i * si + rows[p], j * sj + columns[q]], zero outside. */
void nmsat_windows(uint8_t *to, const uint8_t *x, ptrdiff_t batch, ptrdiff_t height, ptrdiff_t width, ptrdiff_t tap,
                   const int64_t *rows, ptrdiff_t row_count, const int64_t *columns, ptrdiff_t column_count,
                   ptrdiff_t out_height, ptrdiff_t out_width, ptrdiff_t si, ptrdiff_t sj) {
    int row = 1; /* the columns of a window lie side by side */
    for (ptrdiff_t q = 1; q < column_count; q++) row &= columns[q] == columns[q - 1] + 1;
    for (ptrdiff_t b = 0; b < batch; b++, x += height * width * tap)
        for (ptrdiff_t i = 0; i < out_height; i++)
            for (ptrdiff_t j = 0; j < out_width; j++)
                for (ptrdiff_t p = 0; p < row_count; p++, to += column_count * tap) {
                    ptrdiff_t h = i * si + rows[p], first = j * sj + columns[0];
                    if (h < 0 || h >= height) {
                        memset(to, 0, (size_t)(column_count * tap));
                    } else if (row && first >= 0 && first + column_count <= width) {
                        copy_run(to, x + (h * width + first) * tap, column_count * tap);
                    } else {
                        for (ptrdiff_t q = 0; q < column_count; q++) {
                            ptrdiff_t v = j * sj + columns[q];
                            if (v < 0 || v >= width) memset(to + q * tap, 0, (size_t)tap);
                            else copy_run(to + q * tap, x + (h * width + v) * tap, tap);
                        }
                    }
                }
}
