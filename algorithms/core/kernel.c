/* The contract's products in C: one binary32 chain per output, over ascending k (docs/arithmetic.md, "Chain").
 *
 * Outputs are independent, so many chains run side by side in vector registers; the order inside a chain never changes.
 * Products of binary16 numbers are exact in binary32, so a fused multiply-add gives the bits of the unfused one: `chain`
 * is the only place that fuses, all else is compiled with -ffp-contract=off. Sums are kept in binary32 between blocks
 * of k: that is exact too. Strides are in elements.
 * Nothing is allocated here: callers pass scratch memory of `scratch_*` floats, aligned to 64 bytes.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define ROWS 6            /* dense: rows of a tile; with two vectors of columns 12 accumulators */
#define WIDE (2 * LANES)  /* dense: columns of a tile */
#define DEPTH 256         /* dense: k of a block; WIDE x DEPTH weights stay in the first cache */
#define BAND 60           /* dense: rows widened at once */
#define ROW (DEPTH + 16)  /* dense: distance of widened rows, no power of two: rows share no cache set */
#define BAND_ACROSS 96    /* dense: rows widened at once where they lie side by side */
#if LANES == 16
#define STRIP (6 * LANES) /* packed: rows of a strip, the accumulators of one column */
#else
#define STRIP (12 * LANES)
#endif
#define PACKED_DEPTH 48    /* packed: k of a block, a multiple of 16; STRIP x PACKED_DEPTH activations stay in the first
                            * cache */
#define PACKED_COLUMNS 256 /* packed: columns whose sums of a strip are kept while k runs */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t half;

static const uint32_t NAN32 = 0x7fc00000u;

/* Exact; the payload of a NaN may change, which no sum shows. */
static inline float widen(half h) {
#ifdef __F16C__
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    union { uint32_t u; float f; } x, scale = {0x77800000u}; /* 2^112 */
    if ((h & 0x7c00) == 0x7c00) {
        x.u = rest | 0x7f800000u;
    } else {
        /* A binary16 subnormal is a whole number of 2^-24: no binary32 subnormal is touched. */
        union { uint32_t u; float f; } small;
        if (rest < 0x00800000u) {
            small.f = (float)(rest >> 13) * 5.9604644775390625e-8f;
            x.u = small.u;
        } else {
            x.u = rest;
            x.f *= scale.f;
        }
    }
    x.u |= sign;
    return x.f;
#endif
}

#ifdef __F16C__
static inline void widen8(float *to, const half *from) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
}

/* Eight rows of eight binary16 values, transposed and widened. */
static inline void turn8(float *to, ptrdiff_t step, const half *from, ptrdiff_t ld) {
    __m128i r[8], s[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(from + i * ld));
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        t[4 * i] = _mm_unpacklo_epi32(s[4 * i], s[4 * i + 2]);
        t[4 * i + 1] = _mm_unpackhi_epi32(s[4 * i], s[4 * i + 2]);
        t[4 * i + 2] = _mm_unpacklo_epi32(s[4 * i + 1], s[4 * i + 3]);
        t[4 * i + 3] = _mm_unpackhi_epi32(s[4 * i + 1], s[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + (2 * i) * step, _mm256_cvtph_ps(_mm_unpacklo_epi64(t[i], t[4 + i])));
        _mm256_storeu_ps(to + (2 * i + 1) * step, _mm256_cvtph_ps(_mm_unpackhi_epi64(t[i], t[4 + i])));
    }
}
#else
static inline void widen8(float *to, const half *from) {
    for (int i = 0; i < 8; i++) to[i] = widen(from[i]);
}

static inline void turn8(float *to, ptrdiff_t step, const half *from, ptrdiff_t ld) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) to[j * step + i] = widen(from[i * ld + j]);
}
#endif

#if LANES == 16
#define TURNED 16
/* to[d * step + r] = row[r][c + d], widened: 16 rows, 8 d. */
static inline void turn_lines(float *to, ptrdiff_t step, const half *const *row, ptrdiff_t c) {
    __m256i r[8], s[8], t[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row[i] + c))),
                                       _mm_loadu_si128((const __m128i *)(row[8 + i] + c)), 1);
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        t[4 * i] = _mm256_unpacklo_epi32(s[4 * i], s[4 * i + 2]);
        t[4 * i + 1] = _mm256_unpackhi_epi32(s[4 * i], s[4 * i + 2]);
        t[4 * i + 2] = _mm256_unpacklo_epi32(s[4 * i + 1], s[4 * i + 3]);
        t[4 * i + 3] = _mm256_unpackhi_epi32(s[4 * i + 1], s[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(to + (2 * i) * step, _mm512_cvtph_ps(_mm256_unpacklo_epi64(t[i], t[4 + i])));
        _mm512_storeu_ps(to + (2 * i + 1) * step, _mm512_cvtph_ps(_mm256_unpackhi_epi64(t[i], t[4 + i])));
    }
}
#else
#define TURNED 8
static inline void turn_lines(float *to, ptrdiff_t step, const half *const *row, ptrdiff_t c) {
    half lines[8][8];
    for (int i = 0; i < 8; i++) memcpy(lines[i], row[i] + c, sizeof lines[i]);
    turn8(to, step, lines[0], 8);
}
#endif

/* to[i * step + j] = from[i * si + j * sj] for rows x columns; zeros up to `padded` columns. */
static void widen_block(float *to, ptrdiff_t step, const half *from, ptrdiff_t si, ptrdiff_t sj, ptrdiff_t rows,
                        ptrdiff_t columns, ptrdiff_t padded) {
    ptrdiff_t whole_rows = 0;
    if (sj != 1 && si == 1) {
        whole_rows = rows & ~(ptrdiff_t)7;
        ptrdiff_t j = 0;
        /* Along i the source is contiguous: that loop is the inner one, so every cache line is read once. */
        for (; j + 8 <= columns; j += 8)
            for (ptrdiff_t i = 0; i < whole_rows; i += 8) turn8(to + i * step + j, step, from + i + j * sj, sj);
        for (; j < columns; j++)
            for (ptrdiff_t i = 0; i < whole_rows; i++) to[i * step + j] = widen(from[i + j * sj]);
    }
    for (ptrdiff_t i = whole_rows; i < rows; i++) {
        ptrdiff_t j = 0;
        const half *row = from + i * si;
        if (sj == 1)
            for (; j + 8 <= columns; j += 8) widen8(to + i * step + j, row + j);
        for (; j < columns; j++) to[i * step + j] = widen(row[j * sj]);
    }
    if (padded > columns)
        for (ptrdiff_t i = 0; i < rows; i++) memset(to + i * step + columns, 0, (size_t)(padded - columns) * 4);
}

static ptrdiff_t least(ptrdiff_t x, ptrdiff_t y) { return x < y ? x : y; }

/* Windows of an image x[batch, height, width, channels] as a matrix that is never made: row (b, i, j), column (p, q, c)
 * is x[b, i * si + rows[p], j * sj + columns[q], c], +0 outside. `numbers` are these in their order, then the offsets. */
typedef struct {
    ptrdiff_t height, width, channels, row_count, column_count, out_height, out_width, si, sj;
    const int64_t *rows, *columns;
    int dense; /* the columns of a window lie side by side */
} image;

static image image_of(const int64_t *numbers) {
    image x = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6],
               numbers[7], numbers[8], numbers + 9, numbers + 9 + numbers[3], 1};
    for (ptrdiff_t q = 1; q < x.column_count; q++) x.dense &= x.columns[q] == x.columns[q - 1] + 1;
    return x;
}

static inline void widen_run(float *to, const half *from, ptrdiff_t count) {
    ptrdiff_t i = 0;
#if LANES == 16
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
#endif
    for (; i + 8 <= count; i += 8) widen8(to + i, from + i);
    for (; i < count; i++) to[i] = widen(from[i]);
}

/* to[r * step + d] = element (i0 + r, k0 + d) of the matrix of windows. */
static void widen_windows(float *to, ptrdiff_t step, const half *x, const image *g, ptrdiff_t i0, ptrdiff_t count,
                          ptrdiff_t k0, ptrdiff_t depth) {
    ptrdiff_t j = i0 % g->out_width, i = i0 / g->out_width % g->out_height, tap0 = k0 / g->channels;
    const half *from = x + i0 / g->out_width / g->out_height * g->height * g->width * g->channels;
    for (ptrdiff_t r = 0; r < count; r++, to += step) {
        ptrdiff_t c = k0 % g->channels, p = tap0 / g->column_count, q = tap0 % g->column_count, size;
        for (ptrdiff_t d = 0; d < depth; d += size, c = 0) {
            ptrdiff_t h = i * g->si + g->rows[p], v = j * g->sj + g->columns[q], taps = g->column_count - q;
            int inside = h >= 0 && h < g->height && v >= 0;
            taps = inside && g->dense && v + taps <= g->width ? taps : 1;
            size = least(taps * g->channels - c, depth - d);
            if (inside && v + taps <= g->width) widen_run(to + d, from + (h * g->width + v) * g->channels + c, size);
            else memset(to + d, 0, (size_t)size * 4);
            q += taps;
            if (q >= g->column_count) q = 0, p++;
        }
        if (++j < g->out_width) continue;
        j = 0;
        if (++i < g->out_height) continue;
        i = 0;
        from += g->height * g->width * g->channels;
    }
}

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec x) { *(vec *)p = x; }
static inline vec fill(float x) {
#if LANES == 16
    return (vec)_mm512_set1_ps(x);
#elif LANES == 8
    return (vec){x, x, x, x, x, x, x, x};
#else
    return (vec){x, x, x, x};
#endif
}

static inline vec chain(vec acc, vec x, vec w) {
#if LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)acc);
#elif LANES == 8 && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)x, (__m256)w, (__m256)acc);
#else
    return acc + x * w;
#endif
}

/* sums[rows][vectors] += a[rows][depth] w[depth][WIDE], each sum in ascending k; a[r * ar + k * ak]; fresh: from +0. */
static inline __attribute__((always_inline)) void tile(float *sums, ptrdiff_t ld, const float *a, ptrdiff_t ar,
                                                        ptrdiff_t ak, const float *w, ptrdiff_t depth, int fresh,
                                                        int rows, int vectors) {
    vec acc[2 * ROWS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) acc[r * vectors + v] = fresh ? fill(0) : load(sums + r * ld + v * LANES);
    for (ptrdiff_t k = 0; k < depth; k++, a += ak, w += WIDE)
        for (int r = 0; r < rows; r++) {
            vec x = fill(a[r * ar]);
            for (int v = 0; v < vectors; v++) acc[r * vectors + v] = chain(acc[r * vectors + v], x, load(w + v * LANES));
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(sums + r * ld + v * LANES, acc[r * vectors + v]);
}

typedef void tile_of(float *, ptrdiff_t, const float *, const float *, ptrdiff_t, int);

/* A tile of rows that lie ROW apart, k side by side, and one of rows side by side, k BAND_ACROSS apart. */
#define TILE(rows, vectors)                                                                                     \
    static void along_##rows##_##vectors(float *sums, ptrdiff_t ld, const float *a, const float *w,             \
                                         ptrdiff_t depth, int fresh) {                                          \
        tile(sums, ld, a, ROW, 1, w, depth, fresh, rows, vectors);                                              \
    }                                                                                                           \
    static void across_##rows##_##vectors(float *sums, ptrdiff_t ld, const float *a, const float *w,            \
                                          ptrdiff_t depth, int fresh) {                                         \
        tile(sums, ld, a, 1, BAND_ACROSS, w, depth, fresh, rows, vectors);                                      \
    }
TILE(1, 1) TILE(2, 1) TILE(4, 1) TILE(8, 1) TILE(12, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(6, 2)

/* How many of the rows that are left the next tile takes, and the tile. */
static ptrdiff_t tile_for(tile_of **found, ptrdiff_t left, int vectors, int across) {
#define PICK(rows, vectors) (*found = across ? across_##rows##_##vectors : along_##rows##_##vectors, rows)
    if (vectors == 1) {
        if (left >= 12) return PICK(12, 1);
        return left >= 8 ? PICK(8, 1) : left >= 4 ? PICK(4, 1) : left >= 2 ? PICK(2, 1) : PICK(1, 1);
    }
    if (left >= 6) return PICK(6, 2);
    return left >= 4 ? PICK(4, 2) : left >= 3 ? PICK(3, 2) : left >= 2 ? PICK(2, 2) : PICK(1, 2);
#undef PICK
}

void nmsat_to_half(half *to, const float *from, ptrdiff_t count);

/* Round sums to binary16, or leave one NaN in them. */
static void finish(float *y, half *halves, ptrdiff_t count) {
    if (halves) {
        nmsat_to_half(halves, y, count);
        return;
    }
    uint32_t *bits = (uint32_t *)y;
    for (ptrdiff_t i = 0; i < count; i++) bits[i] = (bits[i] & 0x7fffffffu) > 0x7f800000u ? NAN32 : bits[i];
}

/* Floats of scratch memory of `nmsat_dense`. */
ptrdiff_t nmsat_dense_scratch(ptrdiff_t n) {
    return DEPTH * ((n + WIDE - 1) / WIDE * WIDE) + BAND_ACROSS * ROW + 2 * ROWS * WIDE;
}

/* y[m, n] continues (from zeros unless `seeded`) with a[m, k] w[k, n]; with `halves` its rows are rounded to there, and
 * y is left with any NaN. With `windows`, A is rows `first` to first + m of the
 * windows of the image a, or of their transpose (am = 1). */
void nmsat_dense(float *y, half *halves, int seeded, ptrdiff_t m, ptrdiff_t k, ptrdiff_t n, const half *a, ptrdiff_t am, ptrdiff_t ak,
                 const int64_t *windows, ptrdiff_t first, const half *w, ptrdiff_t wk, ptrdiff_t wn, float *scratch) {
    ptrdiff_t panels = (n + WIDE - 1) / WIDE;
    float *weights = scratch, *rows = weights + panels * WIDE * DEPTH, *edge = rows + BAND_ACROSS * ROW;
    int across = am == 1 && ak != 1; /* the rows of A lie side by side: so do they when they are widened */
    ptrdiff_t step = across ? 1 : ROW, most = across ? BAND_ACROSS : BAND;
    image x = {0};
    if (windows) x = image_of(windows);
    if (k == 0) {
        if (!seeded) memset(y, 0, (size_t)(m * n) * 4);
        finish(y, halves, m * n);
    }
    for (ptrdiff_t k0 = 0; k0 < k; k0 += DEPTH) {
        ptrdiff_t depth = least(DEPTH, k - k0);
        for (ptrdiff_t p = 0; p < panels; p++)
            widen_block(weights + p * WIDE * DEPTH, WIDE, w + k0 * wk + p * WIDE * wn, wk, wn, depth,
                        least(WIDE, n - p * WIDE), WIDE);
        for (ptrdiff_t i0 = 0; i0 < m; i0 += most) {
            ptrdiff_t band = least(most, m - i0);
            const half *from = a + i0 * am + k0 * ak;
            if (windows && across) widen_windows(rows, BAND_ACROSS, a, &x, k0, depth, first + i0, band);
            else if (windows) widen_windows(rows, ROW, a, &x, first + i0, band, k0, depth);
            else if (across) widen_block(rows, BAND_ACROSS, from, ak, am, depth, band, band);
            else widen_block(rows, ROW, from, am, ak, band, depth, depth);
            for (ptrdiff_t p = 0; p < panels; p++) {
                const float *panel = weights + p * WIDE * DEPTH;
                ptrdiff_t columns = least(WIDE, n - p * WIDE);
                int vectors = columns <= LANES ? 1 : 2;
                for (ptrdiff_t i = 0, count; i < band; i += count) {
                    tile_of *run;
                    count = tile_for(&run, band - i, vectors, across);
                    float *sums = y + (i0 + i) * n + p * WIDE, *at = sums;
                    ptrdiff_t ld = n;
                    if (columns < vectors * LANES) {
                        at = edge, ld = WIDE;
                        for (ptrdiff_t r = 0; r < count; r++) {
                            memset(edge + r * WIDE, 0, WIDE * 4);
                            memcpy(edge + r * WIDE, sums + r * n, (size_t)columns * 4);
                        }
                    }
                    run(at, ld, rows + i * step, panel, depth, !seeded && k0 == 0);
                    if (columns < vectors * LANES)
                        for (ptrdiff_t r = 0; r < count; r++)
                            memcpy(sums + r * n, edge + r * WIDE, (size_t)columns * 4);
                }
            }
            if (k0 + depth == k) finish(y + i0 * n, halves ? halves + i0 * n : 0, band * n);
        }
    }
}

/* A kept pair of a column: where its activations lie in a strip, and its value. */
typedef struct {
    uint32_t place;
    float value;
} pair;

/* sums[rows of a strip] += at[place][rows] * value over the pairs, in order; `count` vectors of rows; fresh: from +0. */
static inline __attribute__((always_inline)) void column(float *sums, const float *at, const pair *from,
                                                          const pair *end, int count, int fresh) {
    vec acc[12];
    for (int v = 0; v < count; v++) acc[v] = fresh ? fill(0) : load(sums + v * LANES);
#pragma GCC unroll 4
    for (; from < end; from++) {
        const float *x = at + from->place;
        vec w = fill(from->value);
        for (int v = 0; v < count; v++) acc[v] = chain(acc[v], load(x + v * LANES), w);
    }
    for (int v = 0; v < count; v++) store(sums + v * LANES, acc[v]);
}

/* All columns of a block of k: counts pairs each, one column behind the other. */
#define COLUMNS(count)                                                                                     \
    static void columns_##count(float *sums, const float *at, const pair *pairs, const uint32_t *ends,     \
                                ptrdiff_t columns, int fresh) {                                            \
        if (fresh)                                                                                         \
            for (ptrdiff_t j = 0; j < columns; j++, sums += STRIP)                                         \
                column(sums, at, pairs + ends[j], pairs + ends[j + 1], count, 1);                          \
        else                                                                                               \
            for (ptrdiff_t j = 0; j < columns; j++, sums += STRIP)                                         \
                column(sums, at, pairs + ends[j], pairs + ends[j + 1], count, 0);                          \
    }
COLUMNS(1)
COLUMNS(2)
COLUMNS(4)
COLUMNS(6)
COLUMNS(8)
COLUMNS(12)

typedef void columns_of(float *, const float *, const pair *, const uint32_t *, ptrdiff_t, int);

static columns_of *columns_for(ptrdiff_t rows) {
    ptrdiff_t vectors = (rows + LANES - 1) / LANES;
    return vectors > 8   ? columns_12
           : vectors > 6 ? columns_8
           : vectors > 4 ? columns_6
           : vectors > 2 ? columns_4
           : vectors > 1 ? columns_2
                         : columns_1;
}

static inline float clean_one(float x) {
    union { uint32_t u; float f; } nan = {NAN32};
    return x != x ? nan.f : x;
}

/* to[j * lt + i] = from[i * lf + j], with one kind of NaN. */
static void turn(float *to, ptrdiff_t lt, const float *from, ptrdiff_t lf, ptrdiff_t rows, ptrdiff_t columns) {
    ptrdiff_t i = 0;
#ifdef __AVX__
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32((int)NAN32));
    for (; i + 8 <= rows; i += 8) {
        ptrdiff_t j = 0;
        for (; j + 8 <= columns; j += 8) {
            __m256 r[8], s[8], t[8];
            for (int v = 0; v < 8; v++) {
                r[v] = _mm256_loadu_ps(from + (i + v) * lf + j);
                r[v] = _mm256_blendv_ps(r[v], nan, _mm256_cmp_ps(r[v], r[v], _CMP_UNORD_Q));
            }
            for (int v = 0; v < 4; v++) {
                s[2 * v] = _mm256_unpacklo_ps(r[2 * v], r[2 * v + 1]);
                s[2 * v + 1] = _mm256_unpackhi_ps(r[2 * v], r[2 * v + 1]);
            }
            for (int v = 0; v < 2; v++) {
                t[4 * v] = _mm256_shuffle_ps(s[4 * v], s[4 * v + 2], 0x44);
                t[4 * v + 1] = _mm256_shuffle_ps(s[4 * v], s[4 * v + 2], 0xee);
                t[4 * v + 2] = _mm256_shuffle_ps(s[4 * v + 1], s[4 * v + 3], 0x44);
                t[4 * v + 3] = _mm256_shuffle_ps(s[4 * v + 1], s[4 * v + 3], 0xee);
            }
            for (int v = 0; v < 4; v++) {
                _mm256_storeu_ps(to + (j + v) * lt + i, _mm256_permute2f128_ps(t[v], t[4 + v], 0x20));
                _mm256_storeu_ps(to + (j + 4 + v) * lt + i, _mm256_permute2f128_ps(t[v], t[4 + v], 0x31));
            }
        }
        for (; j < columns; j++)
            for (ptrdiff_t v = i; v < i + 8; v++) to[j * lt + v] = clean_one(from[v * lf + j]);
    }
#endif
    for (; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) to[j * lt + i] = clean_one(from[i * lf + j]);
}

static ptrdiff_t blocks_of(ptrdiff_t groups, ptrdiff_t pm) {
    ptrdiff_t per = PACKED_DEPTH / pm;
    return (groups + per - 1) / per;
}

/* at[d * STRIP + r] = row[r][c + d], widened, for STRIP rows; depth a multiple of 8. */
static void turn_rows(float *at, const half *const *row, ptrdiff_t c, ptrdiff_t depth) {
    for (ptrdiff_t r = 0; r < STRIP; r += TURNED)
        for (ptrdiff_t d = 0; d < depth; d += 8) turn_lines(at + d * STRIP + r, STRIP, row + r, c + d);
}

/* Rows i0 to i0 + rows of a[.., k], turned: at[k][STRIP] for k0 to k0 + depth. What stands past the last row counts for
 * nothing. */
static void strip_of_matrix(float *at, const half *a, ptrdiff_t am, ptrdiff_t ak, ptrdiff_t i0, ptrdiff_t rows,
                            ptrdiff_t k0, ptrdiff_t depth) {
    ptrdiff_t whole = ak == 1 ? depth & ~(ptrdiff_t)7 : 0;
    const half *row[STRIP];
    for (ptrdiff_t r = 0; r < STRIP; r++) row[r] = a + (i0 + (r < rows ? r : 0)) * am;
    turn_rows(at, row, k0, whole);
    if (whole < depth)
        widen_block(at + whole * STRIP, STRIP, a + i0 * am + (k0 + whole) * ak, ak, am, depth - whole, rows, STRIP);
}

/* The same of windows; zeros: as many as there are channels, a multiple of 8. */
static void strip_of_windows(float *at, const half *x, const image *g, const half *zeros, ptrdiff_t i0, ptrdiff_t rows,
                             ptrdiff_t k0, ptrdiff_t depth) {
    int64_t high[STRIP], left[STRIP], from[STRIP];
    const half *row[STRIP];
    ptrdiff_t j = i0 % g->out_width, i = i0 / g->out_width % g->out_height, b = i0 / g->out_width / g->out_height;
    for (ptrdiff_t r = 0; r < STRIP; r++) {
        high[r] = r < rows ? i * g->si : -((int64_t)1 << 60); /* outside, whatever the tap */
        left[r] = j * g->sj;
        from[r] = ((b * g->height + i * g->si) * g->width + left[r]) * g->channels;
        if (++j == g->out_width) {
            j = 0;
            if (++i == g->out_height) i = 0, b++;
        }
    }
    ptrdiff_t tap = k0 / g->channels, c = k0 % g->channels, p = tap / g->column_count, q = tap % g->column_count, size;
    for (ptrdiff_t d = 0; d < depth; d += size, c = 0) {
        int64_t down = g->rows[p], right = g->columns[q], step = (down * g->width + right) * g->channels;
        for (ptrdiff_t r = 0; r < STRIP; r++) {
            int in_height = (uint64_t)(high[r] + down) < (uint64_t)g->height;
            int in_width = (uint64_t)(left[r] + right) < (uint64_t)g->width;
            row[r] = in_height & in_width ? x + (from[r] + step) : zeros;
        }
        size = least(g->channels - c, depth - d);
        turn_rows(at + d * STRIP, row, c, size);
        if (++q == g->column_count) q = 0, p++;
    }
}

/* Floats of scratch memory of `nmsat_packed`; `windows` may be null. */
ptrdiff_t nmsat_packed_scratch(ptrdiff_t groups, ptrdiff_t pn, ptrdiff_t pm, ptrdiff_t n, const int64_t *windows) {
    ptrdiff_t zeros = windows ? windows[2] : 0;
    return 2 * groups * pn * n + blocks_of(groups, pm) * (n + 1) + STRIP * (PACKED_DEPTH + PACKED_COLUMNS) + zeros + 64;
}

/* Lay the kept pairs of values[groups, pn, n] out by block of k, column and k; -1 if a pair lies outside of k. */
static int lay_out(pair *pairs, uint32_t *ends, ptrdiff_t k, ptrdiff_t n, const half *values, const uint8_t *index,
                   const uint8_t *filler, ptrdiff_t groups, ptrdiff_t pn, ptrdiff_t pm) {
    ptrdiff_t per = PACKED_DEPTH / pm, used = 0;
    for (ptrdiff_t g0 = 0; g0 < groups; g0 += per, ends += n + 1) {
        ptrdiff_t count = least(per, groups - g0) * pn, first = g0 * pn * n;
        if (!memchr(filler + first, 1, (size_t)(count * n)) && (g0 + per) * pm <= k) {
            unsigned largest = 0;
            for (ptrdiff_t i = 0; i < count * n; i++) largest = index[first + i] > largest ? index[first + i] : largest;
            if (largest >= (unsigned)pm) return -1;
            for (ptrdiff_t t = 0; t < count; t++) {
                uint32_t base = (uint32_t)(t / pn * pm);
                pair *to = pairs + used + t;
                for (ptrdiff_t j = 0; j < n; j++, first++, to += count)
                    *to = (pair){(base + index[first]) * STRIP, widen(values[first])};
            }
            for (ptrdiff_t j = 0; j <= n; j++) ends[j] = (uint32_t)(used + j * count);
            used += count * n;
            continue;
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            ends[j] = (uint32_t)used;
            for (ptrdiff_t t = 0; t < count; t++) {
                ptrdiff_t at = first + t * n + j, group = t / pn * pm;
                if (filler[at]) continue;
                if (index[at] >= pm || g0 * pm + group + index[at] >= k) return -1;
                pairs[used++] = (pair){(uint32_t)((group + index[at]) * STRIP), widen(values[at])};
            }
        }
        ends[n] = (uint32_t)used;
    }
    return 0;
}

/* y[m, n] continues (from zeros unless `seeded`) with a[m, k] W[k, n], W in packed form; 0, or -1 if W is no such
 * matrix. `halves` as of `nmsat_dense`. With `windows`, A is rows `first` to first + m of the windows, side by side, of the image a. */
int nmsat_packed(float *y, half *halves, int seeded, ptrdiff_t m, ptrdiff_t k, ptrdiff_t n, const half *a, ptrdiff_t am, ptrdiff_t ak,
                 const int64_t *windows, ptrdiff_t first, const half *values, const uint8_t *index,
                 const uint8_t *filler, ptrdiff_t groups, ptrdiff_t pn, ptrdiff_t pm, float *scratch) {
    ptrdiff_t per = PACKED_DEPTH / pm, blocks = blocks_of(groups, pm);
    float *at = scratch, *sums = at + STRIP * PACKED_DEPTH;
    pair *pairs = (pair *)(sums + STRIP * PACKED_COLUMNS);
    uint32_t *ends = (uint32_t *)(pairs + groups * pn * n);
    half *zeros = (half *)(ends + blocks * (n + 1));
    image x = {0};
    if (windows) x = image_of(windows), memset(zeros, 0, (size_t)x.channels * 2);
    if (lay_out(pairs, ends, k, n, values, index, filler, groups, pn, pm)) return -1;
    for (ptrdiff_t i0 = 0; i0 < m; i0 += STRIP) {
        ptrdiff_t rows = least(STRIP, m - i0);
        columns_of *run = columns_for(rows);
        for (ptrdiff_t j0 = 0; j0 < n; j0 += PACKED_COLUMNS) {
            ptrdiff_t columns = least(PACKED_COLUMNS, n - j0);
            if (seeded || !blocks) memset(sums, 0, (size_t)(columns * STRIP) * 4); /* lanes without a row, too */
            if (seeded) turn(sums, STRIP, y + i0 * n + j0, n, rows, columns);
            for (ptrdiff_t b = 0; b < blocks; b++) {
                ptrdiff_t k0 = b * per * pm, depth = least(per * pm, k - k0);
                if (depth > 0 && windows) strip_of_windows(at, a, &x, zeros, first + i0, rows, k0, depth);
                else if (depth > 0) strip_of_matrix(at, a, am, ak, i0, rows, k0, depth);
                run(sums, at, pairs, ends + b * (n + 1) + j0, columns, !seeded && b == 0);
            }
            turn(y + i0 * n + j0, n, sums, STRIP, columns, rows);
        }
        if (halves) nmsat_to_half(halves + i0 * n, y + i0 * n, rows * n);
    }
    return 0;
}

/* g products of `nmsat_dense`, operands `ag` and `wg` elements apart. */
void nmsat_batched(float *y, ptrdiff_t g, ptrdiff_t m, ptrdiff_t k, ptrdiff_t n, const half *a, ptrdiff_t ag,
                   ptrdiff_t am, ptrdiff_t ak, const half *w, ptrdiff_t wg, ptrdiff_t wk, ptrdiff_t wn,
                   float *scratch) {
    for (ptrdiff_t i = 0; i < g; i++)
        nmsat_dense(y + i * m * n, 0, 1, m, k, n, a + i * ag, am, ak, 0, 0, w + i * wg, wk, wn, scratch);
}
