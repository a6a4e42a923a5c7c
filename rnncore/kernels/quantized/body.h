/* The one body of the kernels over 8-bit integers. A header of isa/, included before, defines W (lanes of a vector), MAX,
 * MIN and FMA, ISA and ISA_NAME, and as far as the instruction set has them
 *   PAIR_SUMS(a, b)       int32 from int16: the sum of two products that follow each other
 *   BYTE_PAIR_SUMS(a, b)  the same in int16 from uint8 a and int8 b, saturated
 *   QUAD_SUMS(s, a, b)    s += int32 from uint8 a and int8 b: the sum of four; where HAS_QUAD_SUMS is true
 *
 * Sums are exact in each of three ways:
 *   QUADS   QUAD_SUMS, which does not saturate.
 *   PIECES  BYTE_PAIR_SUMS of u and a' = a - a0: 3 instructions for W quads, where widening bytes to int16 first
 *           takes 6. It would saturate where |a'| of two numbers that follow each other are large. A quad with such
 *           numbers has several entries, which add up to it. Where activations are spread as they usually are, few
 *           about the ends of their range, that is one entry in 20 or 30 more.
 *   PAIRS   bytes widened to int16. */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../rational_body.h"
#include "../vectors.h"
#include "quantized.h"

typedef int16_t vh __attribute__((vector_size(4 * W), may_alias));
typedef uint16_t vuh __attribute__((vector_size(4 * W), may_alias));
typedef int32_t viu __attribute__((vector_size(4 * W), may_alias, aligned(4)));
typedef int16_t vh_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(2)));
typedef long long vll __attribute__((vector_size(4 * W), may_alias));
typedef uint8_t half __attribute__((vector_size(2 * W), may_alias, aligned(1)));
typedef uint8_t quarter __attribute__((vector_size(W), may_alias, aligned(1)));

#ifndef PAIR_SUMS
INLINE vi pair_sums(vh a, vh b) {
    vi sums;
    UNROLL for (int l = 0; l < W; l++) sums[l] = a[2 * l] * b[2 * l] + a[2 * l + 1] * b[2 * l + 1];
    return sums;
}
#define PAIR_SUMS(a, b) pair_sums((vh)(a), (vh)(b))
#endif

#ifndef QUAD_SUMS
#define QUAD_SUMS(sums, bytes, weights) ((void)0)
#define HAS_QUAD_SUMS 0
#endif

enum way { QUADS, PIECES, PAIRS };
#ifdef BYTE_PAIR_SUMS
#define OTHERWISE PIECES
#else
#define BYTE_PAIR_SUMS(a, b) ((vh){})
#define OTHERWISE PAIRS
#endif

enum { GROUP = 4 }; /* vectors of columns */
enum { MOST_PIECES = 4 };
enum { HEAD = 6 }; /* of a block: int32s of its entries, its rows; for each row, the sum of a' and shift - a0 */

INLINE vi load_i(const int32_t *p) { return (vi) * (const viu *)p; }
INLINE void store_i(int32_t *p, vi x) { *(viu *)p = (viu)x; }
INLINE vi splat_i(int32_t x) { return x - (vi){}; }
INLINE vh splat_h(int16_t x) { return x - (vh){}; }
INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }

static ptrdiff_t quads_of(ptrdiff_t K) { return (K + 3) / 4; }
static ptrdiff_t vectors_of(ptrdiff_t N) { return (N + W - 1) / W; }
static ptrdiff_t groups_of(ptrdiff_t N) { return (vectors_of(N) + GROUP - 1) / GROUP; }
static size_t column_size(ptrdiff_t N) { return (size_t)vectors_of(N) * W; }
static size_t data_size(ptrdiff_t K, ptrdiff_t N) { return (size_t)quads_of(K) * 4 * column_size(N); }

/* ---- preparing operands -------------------------------------------------------------------------------------- */

static int pack(ptrdiff_t K, ptrdiff_t N, const uint8_t *b, int is_unsigned, const int32_t *b0, uint8_t *data,
                int32_t *zeros, int32_t *sums) {
    const ptrdiff_t quads = quads_of(K), vectors = vectors_of(N);
    int least = 255, most = -128;
    for (ptrdiff_t i = 0; i < K * N; i++) {
        const int value = is_unsigned ? b[i] : (int8_t)b[i];
        least = value < least ? value : least;
        most = value > most ? value : most;
    }
    memset(data, 0, data_size(K, N));
    memset(zeros, 0, column_size(N) * sizeof(int32_t));
    memset(sums, 0, column_size(N) * sizeof(int32_t));
    for (ptrdiff_t n = 0; n < N; n++) zeros[n] = b0[n] - least;
    for (ptrdiff_t k = 0; k < K; k++, b += N) {
        for (ptrdiff_t n = 0; n < N; n++) {
            const ptrdiff_t first = n / W / GROUP * GROUP; /* vector of the group */
            const ptrdiff_t V = vectors - first < GROUP ? vectors - first : GROUP;
            const int u = (is_unsigned ? b[n] : (int8_t)b[n]) - least;
            data[(first * quads + k / 4 * V + n / W - first) * 4 * W + n % W * 4 + k % 4] = (uint8_t)u;
            sums[n] += u - zeros[n];
        }
    }
    return most - least < 128 ? 256 : INT16_MAX / (most - least);
}

static size_t prepared_size(ptrdiff_t K, ptrdiff_t M) {
    return rnncore_times((size_t)(M + 1) / 2, HEAD + (size_t)quads_of(K) * MOST_PIECES * 3);
}

/* Whether a' of one quad makes one entry. */
INLINE int whole(const int *a, int limit) {
    int low = 0, high = 0;
    UNROLL for (int k = 0; k < 4; k++) {
        low = a[k] < low ? a[k] : low;
        high = a[k] > high ? a[k] : high;
    }
    return low >= -128 && high <= 127 && abs(a[0]) + abs(a[1]) <= limit && abs(a[2]) + abs(a[3]) <= limit;
}

INLINE int32_t bytes_word(const int *a) {
    return (int32_t)((uint32_t)(a[0] & 255) | (uint32_t)(a[1] & 255) << 8 | (uint32_t)(a[2] & 255) << 16 |
                     (uint32_t)(a[3] & 255) << 24);
}

INLINE int32_t pair_word(int a, int b) { return (int32_t)((uint32_t)(a & 65535) | (uint32_t)b << 16); }

/* Takes a piece of a quad: what is left is in a. */
static int32_t piece(int *a, int limit) {
    int taken[4];
    const int half = limit / 2 < 127 ? limit / 2 : 127, all = whole(a, limit);
    for (int k = 0; k < 4; k++) {
        taken[k] = all ? a[k] : a[k] < -half ? -half : a[k] > half ? half : a[k];
        a[k] -= taken[k];
    }
    return bytes_word(taken);
}

/* The entries of a quad of R rows; returns where the next one begins. */
INLINE int32_t *prepare_quad(const enum way way, const int R, int quad, int a[2][4], int limit, int32_t *entry) {
    int some = 0, one = 1;
    UNROLL for (int r = 0; r < R; r++) {
        some |= a[r][0] | a[r][1] | a[r][2] | a[r][3];
        if (way == PIECES) one &= whole(a[r], limit);
    }
    if (some && (way != PIECES || one)) {
        *entry++ = quad;
        UNROLL for (int r = 0; r < R; r++) {
            if (way == PAIRS) {
                *entry++ = pair_word(a[r][0], a[r][2]);
                *entry++ = pair_word(a[r][1], a[r][3]);
            } else {
                *entry++ = bytes_word(a[r]);
            }
        }
        return entry;
    }
    while (some) {
        *entry++ = quad;
        some = 0;
        UNROLL for (int r = 0; r < R; r++) {
            *entry++ = piece(a[r], limit);
            some |= a[r][0] | a[r][1] | a[r][2] | a[r][3];
        }
    }
    return entry;
}

/* The entries of the W / 2 quads at k. A lane of 64 bits says whether its quad is too large for one entry. */
INLINE int32_t *prepare_quads(const enum way way, const int R, const uint8_t *const *rows, ptrdiff_t k, int flip,
                              const int32_t *shift, int limit, vi *sums, int32_t *entry) {
    int16_t numbers[2][2 * W];
    int32_t words[2][W / 2];
    vh wide = {};
    UNROLL for (int r = 0; r < R; r++) {
        const half bytes = *(const half *)(rows[r] + k) ^ (uint8_t)flip;
        const vh a = __builtin_convertvector(bytes, vh) - splat_h((int16_t)shift[r]);
        const vh size = (a ^ (a < 0)) - (a < 0);
        wide |= (a > 127) | (a < -128) | (vh)(PAIR_SUMS(size, splat_h(1)) > splat_i(limit));
        sums[r] += PAIR_SUMS(a, splat_h(1));
        *(half *)words[r] = __builtin_convertvector(a, half);
        *(vh_unaligned *)numbers[r] = a;
    }
    const vll lanes = (vll)wide;
    UNROLL for (int q = 0; q < W / 2; q++) {
        if (way == QUADS || !lanes[q]) {
            *entry++ = (int32_t)(k / 4) + q;
            UNROLL for (int r = 0; r < R; r++) *entry++ = words[r][q];
        } else {
            int a[2][4];
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int i = 0; i < 4; i++) a[r][i] = numbers[r][4 * q + i];
            }
            entry = prepare_quad(way, R, (int)(k / 4) + q, a, limit, entry);
        }
    }
    return entry;
}

/* A block of R rows; returns where the next one begins. */
INLINE int32_t *prepare_block(const enum way way, const int R, const rnncore_bytes *b, const uint8_t *const *rows,
                              const uint8_t *zeros, int flip, int32_t *block) {
    int32_t *entry = block + HEAD, shift[2], sum[2] = {};
    ptrdiff_t k = 0;
    vi sums[2] = {};
    UNROLL for (int r = 0; r < R; r++) shift[r] = way == QUADS ? 128 : zeros[r] ^ flip;
    if (way != PAIRS) {
        for (; k + 2 * W <= b->K; k += 2 * W) {
            entry = prepare_quads(way, R, rows, k, flip, shift, b->limit, sums, entry);
        }
    }
    for (; k < b->K; k += 4) {
        int a[2][4];
        UNROLL for (int r = 0; r < R; r++) {
            for (int i = 0; i < 4; i++) {
                a[r][i] = k + i < b->K ? (rows[r][k + i] ^ flip) - shift[r] : 0;
                sum[r] += a[r][i];
            }
        }
        entry = prepare_quad(way, R, (int)(k / 4), a, b->limit, entry);
    }
    block[0] = (int32_t)(entry - (block + HEAD));
    block[1] = R;
    UNROLL for (int r = 0; r < R; r++) {
        for (int l = 0; l < W; l++) sum[r] += sums[r][l];
        block[2 + r] = sum[r];
        block[4 + r] = shift[r] - (zeros[r] ^ flip);
    }
    return entry;
}

INLINE void prepare_by(const enum way way, const rnncore_bytes *b, ptrdiff_t M, const uint8_t *const *rows,
                       const uint8_t *zeros, int flip, int32_t *prepared) {
    ptrdiff_t row = 0;
    for (; row + 2 <= M; row += 2) prepared = prepare_block(way, 2, b, rows + row, zeros + row, flip, prepared);
    if (row < M) prepare_block(way, 1, b, rows + row, zeros + row, flip, prepared);
}

static void prepare(const rnncore_bytes *b, ptrdiff_t M, const uint8_t *const *rows, const uint8_t *zeros, int flip,
                    int32_t *prepared) {
    if (HAS_QUAD_SUMS) {
        prepare_by(QUADS, b, M, rows, zeros, flip, prepared);
    } else {
        prepare_by(OTHERWISE, b, M, rows, zeros, flip, prepared);
    }
}

/* ---- products ------------------------------------------------------------------------------------------------ */

typedef struct {
    const rnncore_bytes *b;
    int32_t *y;
    ptrdiff_t y_stride;
} product_call;

/* y of a block of R rows at ``row`` and of P groups of V vectors from ``vector`` on; w: the quads of the first. */
INLINE void tile(const enum way way, const int R, const int P, const int V, const product_call *call,
                 const int32_t *block, ptrdiff_t row, ptrdiff_t vector, const uint8_t *w) {
    const rnncore_bytes *b = call->b;
    const int words = way == PAIRS ? 2 : 1;
    const ptrdiff_t group = quads_of(b->K) * GROUP * 4 * W, column = vector * W, columns = b->N - column;
    const int32_t *entry = block + HEAD, *end = entry + block[0];
    vi acc[2][2 * GROUP] = {};
    for (; entry < end; entry += 1 + R * words) {
        const uint8_t *quad = w + (ptrdiff_t)*entry * V * 4 * W;
        vi x[2][2];
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int i = 0; i < words; i++) x[r][i] = splat_i(entry[1 + r * words + i]);
        }
        UNROLL for (int v = 0; v < P * V; v++) {
            vh u = *(const vh *)(quad + v / V * group + v % V * 4 * W);
            IN_REGISTER(u);
            UNROLL for (int r = 0; r < R; r++) {
                if (way == QUADS) {
                    QUAD_SUMS(acc[r][v], u, x[r][0]);
                } else if (way == PIECES) {
                    acc[r][v] += PAIR_SUMS(BYTE_PAIR_SUMS(u, x[r][0]), splat_h(1));
                } else {
                    acc[r][v] += PAIR_SUMS(u & 255, x[r][0]) + PAIR_SUMS((vuh)u >> 8, x[r][1]);
                }
            }
        }
    }
    UNROLL for (int v = 0; v < P * V; v++) {
        UNROLL for (int r = 0; r < R; r++) {
            acc[r][v] -= splat_i(block[2 + r]) * load_i(b->zeros + column + v * W);
            if (way == QUADS) acc[r][v] += splat_i(block[4 + r]) * load_i(b->sums + column + v * W);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        int32_t *y = call->y + (row + r) * call->y_stride + column;
        if (columns >= P * V * W) {
            UNROLL for (int v = 0; v < P * V; v++) store_i(y + v * W, acc[r][v]);
        } else {
            int32_t part[2 * GROUP * W];
            UNROLL for (int v = 0; v < P * V; v++) store_i(part + v * W, acc[r][v]);
            memcpy(y, part, (size_t)columns * sizeof(int32_t));
        }
    }
}

/* Every size of tile is a function of its own, so that the loop over entries has all registers to itself. */
typedef void tile_function(const product_call *call, const int32_t *block, ptrdiff_t row, ptrdiff_t vector,
                           const uint8_t *w);

#define TILE(NAME, WAY, R, P, V)                                                                                      \
    static __attribute__((noinline)) void NAME##_##R##_##P##_##V(const product_call *call, const int32_t *block,      \
                                                                 ptrdiff_t row, ptrdiff_t vector, const uint8_t *w) { \
        tile(WAY, R, P, V, call, block, row, vector, w);                                                              \
    }

/* By rows, and by vectors of a group, or two whole groups. */
#define TILES(NAME, WAY)                                                                                              \
    TILE(NAME, WAY, 1, 1, 1)                                                                                          \
    TILE(NAME, WAY, 1, 1, 2)                                                                                          \
    TILE(NAME, WAY, 1, 1, 3)                                                                                          \
    TILE(NAME, WAY, 1, 1, 4)                                                                                          \
    TILE(NAME, WAY, 1, 2, 4)                                                                                          \
    TILE(NAME, WAY, 2, 1, 1)                                                                                          \
    TILE(NAME, WAY, 2, 1, 2)                                                                                          \
    TILE(NAME, WAY, 2, 1, 3)                                                                                          \
    TILE(NAME, WAY, 2, 1, 4)                                                                                          \
    static tile_function *const NAME[2][GROUP] = {{NAME##_1_1_1, NAME##_1_1_2, NAME##_1_1_3, NAME##_1_1_4},           \
                                                  {NAME##_2_1_1, NAME##_2_1_2, NAME##_2_1_3, NAME##_2_1_4}};

TILES(quad_tiles, QUADS)
TILES(other_tiles, OTHERWISE)

static void product(const rnncore_bytes *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t M, const int32_t *prepared,
                    int32_t *y, ptrdiff_t y_stride) {
    const ptrdiff_t quads = quads_of(b->K), vectors = vectors_of(b->N);
    const product_call call = {b, y, y_stride};
    tile_function *const(*tiles)[GROUP] = HAS_QUAD_SUMS ? quad_tiles : other_tiles;
    tile_function *const two_groups = HAS_QUAD_SUMS ? quad_tiles_1_2_4 : other_tiles_1_2_4;
    ptrdiff_t group = first;
    assert(b->K <= RNNCORE_LARGEST_DEPTH && 0 <= first && last <= groups_of(b->N));
    if (M == 1) { /* one row has few sums to do at the same time, and short loops */
        for (; group + 2 <= last && (group + 2) * GROUP <= vectors; group += 2) {
            two_groups(&call, prepared, 0, group * GROUP, b->data + group * GROUP * quads * 4 * W);
        }
    }
    for (; group < last; group++) {
        const ptrdiff_t vector = group * GROUP, V = vectors - vector < GROUP ? vectors - vector : GROUP;
        const int32_t *block = prepared;
        for (ptrdiff_t row = 0; row < M; row += block[1], block += HEAD + block[0]) {
            tiles[block[1] - 1][V - 1](&call, block, row, vector, b->data + vector * quads * 4 * W);
        }
    }
}

/* ---- quantization -------------------------------------------------------------------------------------------- */

typedef struct {
    vf low, high;
    vi nan;
} extent;

INLINE extent with(extent e, vf x) {
    return (extent){MIN(x, e.low), MAX(x, e.high), e.nan | (vi)(x != x)};
}

/* The smallest, or NaN where one was, and the largest. */
INLINE void ends(extent e, float *low, float *high) {
    int nan = 0;
    *low = *high = 0;
    for (int l = 0; l < W; l++) {
        nan |= e.nan[l];
        if (e.low[l] < *low) *low = e.low[l];
        if (e.high[l] > *high) *high = e.high[l];
    }
    if (nan) *low = NAN;
}

INLINE vf load_part(const float *x, ptrdiff_t n) {
    float part[W] = {0};
    memcpy(part, x, (size_t)n * sizeof(float));
    return load(part);
}

static void range(ptrdiff_t n, const float *x, float *low, float *high) {
    extent e = {}, f = {};
    ptrdiff_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        e = with(e, load(x + i));
        f = with(f, load(x + i + W));
    }
    for (; i + W <= n; i += W) e = with(e, load(x + i));
    if (i < n) e = with(e, load_part(x + i, n - i));
    ends((extent){MIN(e.low, f.low), MAX(e.high, f.high), e.nan | f.nan}, low, high);
}

/* Adding 1.5 * 2^23 rounds to an integer, to even, and leaves it in the low bits. NaN counts as less than all others. */
INLINE vi codes(vf x, vf scale, vi zero) {
    const vf shift = splat(12582912.0f);
    const vf at = MIN(splat(512.0f), MAX(x / scale, splat(-512.0f)));
    vi code = (vi)(at + shift) - (vi)shift + zero;
    code &= ~(code < 0);
    const vi above = code > 255;
    return (above & 255) | (~above & code);
}

static void quantize(ptrdiff_t n, const float *x, float scale, int32_t zero, uint8_t *y) {
    ptrdiff_t i = 0;
    for (; i + W <= n; i += W) {
        *(quarter *)(y + i) = __builtin_convertvector(codes(load(x + i), splat(scale), splat_i(zero)), quarter);
    }
    if (i < n) {
        const vi code = codes(load_part(x + i, n - i), splat(scale), splat_i(zero));
        for (ptrdiff_t l = 0; l < n - i; l++) y[i + l] = (uint8_t)code[l];
    }
}

#include "lstm_body.h"

const rnncore_quantized_isa ISA(rnncore_quantized_) = {
    .name = ISA_NAME,
    .width = W,
    .data_size = data_size,
    .column_size = column_size,
    .pack = pack,
    .prepared_size = prepared_size,
    .prepare = prepare,
    .product = product,
    .range = range,
    .quantize = quantize,
    .lstm_scratch = lstm_scratch,
    .lstm = lstm,
};
