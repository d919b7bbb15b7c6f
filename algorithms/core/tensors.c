/* What lies between products in C: rounding to binary16, sums of two tensors, N:M selection, batch normalisation.
 *
 * Every line is one operation with its own rounding (-ffp-contract=off) in the order of the NumPy code beside it; sums
 * over rows run in ascending order, channels side by side. binary16 tensors are rows x channels, without gaps.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
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

static void narrow_row(half *to, const float *from, ptrdiff_t count) {
    ptrdiff_t i = 0;
#ifdef __F16C__
    const __m128i all = _mm_set1_epi16(0x7fff), top = _mm_set1_epi16(0x7c00), nan = _mm_set1_epi16(0x7e00);
    for (; i + 8 <= count; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        h = _mm_blendv_epi8(h, nan, _mm_cmpgt_epi16(_mm_and_si128(h, all), top));
        _mm_storeu_si128((__m128i *)(to + i), h);
    }
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

/* sums[channels]: of x over the rows. */
void nmsat_row_sums(double *restrict sums, const half *x, ptrdiff_t rows, ptrdiff_t channels) {
    float f[BLOCK];
    for (ptrdiff_t c = 0; c < channels; c += BLOCK) {
        ptrdiff_t size = least(BLOCK, channels - c);
        double total[BLOCK] = {0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            widen_row(f, x + r * channels + c, size);
            for (ptrdiff_t j = 0; j < size; j++) total[j] += (double)f[j];
        }
        memcpy(sums + c, total, (size_t)size * 8);
    }
}

/* sums[channels]: of (x - mean)^2 over the rows. */
void nmsat_square_sums(double *restrict sums, const half *x, const double *mean, ptrdiff_t rows, ptrdiff_t channels) {
    float f[BLOCK];
    for (ptrdiff_t c = 0; c < channels; c += BLOCK) {
        ptrdiff_t size = least(BLOCK, channels - c);
        double total[BLOCK] = {0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            widen_row(f, x + r * channels + c, size);
            for (ptrdiff_t j = 0; j < size; j++) {
                double d = (double)f[j] - mean[c + j];
                total[j] += d * d;
            }
        }
        memcpy(sums + c, total, (size_t)size * 8);
    }
}

/* normal = (x - mean) * inverse; y = round16(normal * gain + offset). */
void nmsat_normalise(half *y, double *restrict normal, const half *x, const double *mean, const double *inverse,
                     const double *gain, const double *offset, ptrdiff_t rows, ptrdiff_t channels) {
    float f[BLOCK];
    double out[BLOCK];
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < channels; c += BLOCK) {
            ptrdiff_t size = least(BLOCK, channels - c), at = r * channels + c;
            widen_row(f, x + at, size);
            for (ptrdiff_t j = 0; j < size; j++) {
                normal[at + j] = ((double)f[j] - mean[c + j]) * inverse[c + j];
                out[j] = normal[at + j] * gain[c + j] + offset[c + j];
            }
            narrow_wide(y + at, out, size);
        }
}

/* sums[4][channels], over the rows: dy * normal; dy; dy * gain; dy * gain * normal. */
void nmsat_norm_sums(double *restrict sums, const half *dy, const double *normal, const double *gain, ptrdiff_t rows,
                     ptrdiff_t channels) {
    float f[BLOCK];
    for (ptrdiff_t c = 0; c < channels; c += BLOCK) {
        ptrdiff_t size = least(BLOCK, channels - c);
        double total[4][BLOCK] = {{0}};
        for (ptrdiff_t r = 0; r < rows; r++) {
            const double *n = normal + r * channels + c;
            widen_row(f, dy + r * channels + c, size);
            for (ptrdiff_t j = 0; j < size; j++) {
                double d = (double)f[j], inner = d * gain[c + j];
                total[0][j] += d * n[j];
                total[1][j] += d;
                total[2][j] += inner;
                total[3][j] += inner * n[j];
            }
        }
        for (int i = 0; i < 4; i++) memcpy(sums + i * channels + c, total[i], (size_t)size * 8);
    }
}

/* dx = round16((dy * gain - mean - normal * slope) * inverse). */
void nmsat_norm_gradient(half *dx, const half *dy, const double *normal, const double *gain, const double *mean,
                         const double *slope, const double *inverse, ptrdiff_t rows, ptrdiff_t channels) {
    float f[BLOCK];
    double out[BLOCK];
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < channels; c += BLOCK) {
            ptrdiff_t size = least(BLOCK, channels - c), at = r * channels + c;
            widen_row(f, dy + at, size);
            for (ptrdiff_t j = 0; j < size; j++)
                out[j] = ((double)f[j] * gain[c + j] - mean[c + j] - normal[at + j] * slope[c + j]) * inverse[c + j];
            narrow_wide(dx + at, out, size);
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

/* The n largest of each group of m along k of w[k, columns] (strides wk, wc), lower places first among equals.
 * keep[k, columns] (strides kk, kc) or the pairs [groups, n, columns] are written where they are wanted. */
void nmsat_select(const half *w, ptrdiff_t wk, ptrdiff_t wc, ptrdiff_t k, ptrdiff_t columns, ptrdiff_t n, ptrdiff_t m,
                  uint8_t *keep, ptrdiff_t kk, ptrdiff_t kc, half *values, uint8_t *index, uint8_t *filler) {
    int16_t size[16][SIDE], above[16][SIDE];
    half bits[16][SIDE];
    for (ptrdiff_t k0 = 0; k0 < k; k0 += m)
        for (ptrdiff_t c0 = 0; c0 < columns; c0 += SIDE) {
            ptrdiff_t depth = least(m, k - k0), width = least(SIDE, columns - c0);
            memset(above, 0, sizeof above);
            memset(bits, 0, sizeof bits);
            for (ptrdiff_t i = 0; i < depth; i++)
                for (ptrdiff_t c = 0; c < width; c++) bits[i][c] = w[(k0 + i) * wk + (c0 + c) * wc];
            for (ptrdiff_t i = 0; i < depth; i++)
                for (ptrdiff_t c = 0; c < SIDE; c++) size[i][c] = (int16_t)(bits[i][c] & 0x7fff);
            for (ptrdiff_t i = 0; i < depth; i++) {
                for (ptrdiff_t j = 0; j < i; j++)
                    for (ptrdiff_t c = 0; c < SIDE; c++) above[i][c] += size[j][c] >= size[i][c];
                for (ptrdiff_t j = i + 1; j < depth; j++)
                    for (ptrdiff_t c = 0; c < SIDE; c++) above[i][c] += size[j][c] > size[i][c];
            }
            if (keep)
                for (ptrdiff_t i = 0; i < depth; i++)
                    for (ptrdiff_t c = 0; c < width; c++)
                        keep[(k0 + i) * kk + (c0 + c) * kc] = above[i][c] < n;
            if (values)
                for (ptrdiff_t c = 0; c < width; c++) {
                    ptrdiff_t at = k0 / m * n * columns + c0 + c, slot = 0;
                    for (ptrdiff_t i = 0; i < depth; i++)
                        if (above[i][c] < n && slot < n) {
                            values[at] = bits[i][c], index[at] = (uint8_t)i, filler[at] = 0;
                            at += columns, slot++;
                        }
                    for (; slot < n; slot++, at += columns) values[at] = 0, index[at] = 0, filler[at] = 1;
                }
        }
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
                        memcpy(to, x + (h * width + first) * tap, (size_t)(column_count * tap));
                    } else {
                        for (ptrdiff_t q = 0; q < column_count; q++) {
                            ptrdiff_t v = j * sj + columns[q];
                            if (v < 0 || v >= width) memset(to + q * tap, 0, (size_t)tap);
                            else memcpy(to + q * tap, x + (h * width + v) * tap, (size_t)tap);
                        }
                    }
                }
}
