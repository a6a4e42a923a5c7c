/* Products of 8-bit integers on every instruction set of the build, against int64. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quantized/quantized.h"

static unsigned state = 1;

static int draw(int n) {
    state = state * 1664525u + 1013904223u;
    return (int)((state >> 8) % (unsigned)n);
}

static void *aligned(size_t size) {
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    memset(memory, 0, size);
    return memory;
}

/* How many sums of a random product are wrong. */
static int wrong_sums(const rnncore_quantized_isa *isa) {
    const ptrdiff_t M = 1 + draw(6), K = 1 + draw(150), N = 1 + draw(150);
    const int is_unsigned = draw(2), flip = 128 * draw(2), width = 1 + draw(255), spread = 1 + draw(255);
    uint8_t *b = malloc((size_t)(K * N)), *a = malloc((size_t)(M * K)), *zeros = malloc((size_t)M);
    const uint8_t **rows = malloc((size_t)M * sizeof *rows);
    int32_t *b0 = malloc((size_t)N * sizeof *b0), *y = malloc((size_t)(M * N) * sizeof *y);
    for (ptrdiff_t i = 0; i < K * N; i++) b[i] = (uint8_t)draw(width);
    for (ptrdiff_t i = 0; i < M * K; i++) a[i] = (uint8_t)(100 + draw(spread));
    for (ptrdiff_t n = 0; n < N; n++) b0[n] = is_unsigned ? draw(256) : draw(256) - 128;
    for (ptrdiff_t m = 0; m < M; m++) {
        rows[m] = a + m * K;
        zeros[m] = (uint8_t)draw(256);
    }
    uint8_t *data = aligned(isa->data_size(K, N));
    int32_t *padded = aligned(isa->column_size(N) * 4), *sums = aligned(isa->column_size(N) * 4);
    int32_t *prepared = aligned(isa->prepared_size(K, M) * 4);
    const int limit = isa->pack(K, N, b, is_unsigned, b0, data, padded, sums);
    const rnncore_bytes matrix = {data, padded, sums, K, N, limit};
    const ptrdiff_t groups = (N + 4 * isa->width - 1) / (4 * isa->width), middle = draw((int)groups + 1);
    isa->prepare(&matrix, M, rows, zeros, flip, prepared);
    isa->product(&matrix, 0, middle, M, prepared, y, N);
    isa->product(&matrix, middle, groups, M, prepared, y, N);
    int wrong = 0;
    for (ptrdiff_t m = 0; m < M; m++) {
        for (ptrdiff_t n = 0; n < N; n++) {
            int64_t sum = 0;
            for (ptrdiff_t k = 0; k < K; k++) {
                const int value = is_unsigned ? b[k * N + n] : (int8_t)b[k * N + n];
                sum += (int64_t)((a[m * K + k] ^ flip) - (zeros[m] ^ flip)) * (value - b0[n]);
            }
            wrong += y[m * N + n] != sum;
        }
    }
    free(b), free(a), free(zeros), free(rows), free(b0), free(y), free(data), free(padded), free(sums), free(prepared);
    return wrong;
}

int main(void) {
    int all = 0;
    for (int i = 0; rnncore_quantized_isas[i]; i++) {
        int wrong = 0;
        for (int seed = 0; seed < 200; seed++) wrong += wrong_sums(rnncore_quantized_isas[i]);
        printf("%s: 200 products, %d wrong\n", rnncore_quantized_isas[i]->name, wrong);
        all += wrong;
    }
    return all != 0;
}
