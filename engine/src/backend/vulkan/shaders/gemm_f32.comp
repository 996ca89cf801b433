#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gemm.glsl"

// out = epilogue(x * weight^T) in single precision, `weight` in panels `[n / 16][k][16]` of floats or halves.
// `row_words` are the input channels.

layout(local_size_x = 256) in;
layout(constant_id = 0) const uint TILE_ROWS = 4;
layout(constant_id = 1) const uint TILE_COLUMNS = 4;
layout(constant_id = 2) const bool HALVES = false;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Values { uint values[]; };
layout(binding = 6) readonly buffer Bias { float bias[]; };
layout(binding = 7) readonly buffer ChannelBias { float channel_bias[]; };
layout(binding = 8) readonly buffer Residual { float residual[]; };
layout(binding = 9) writeonly buffer Out { float product[]; };

const uint DEPTH = 16;
const uint ROWS = 16 * TILE_ROWS;
const uint COLUMNS = 16 * TILE_COLUMNS;

shared float left[DEPTH * (ROWS + 1)];
shared float right[DEPTH * COLUMNS];

float weight(uint panel, uint lane, uint k) {
    uint at = (panel * push.padded + k) * 16 + lane;
    if (HALVES) {
        return half_of(values[at / 2], at);
    }
    return uintBitsToFloat(values[at]);
}

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.y * ROWS;
    uint first_column = gl_WorkGroupID.x * COLUMNS;
    uint panels = (push.n + 15) / 16;
    uint load_k = thread % DEPTH;
    ivec3 origins[TILE_ROWS];
    for (uint i = 0; i < TILE_ROWS; i++) {
        origins[i] = origin(min(first_row + i * 16 + thread / DEPTH, push.m - 1));
    }
    uint own_row = thread / 16;
    uint own_column = thread % 16;
    float sums[TILE_ROWS * TILE_COLUMNS];
    for (uint i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) sums[i] = 0.0;

    for (uint start = 0; start < push.padded; start += DEPTH) {
        uint k = start + load_k;
        for (uint i = 0; i < TILE_ROWS; i++) {
            uint row = i * 16 + thread / DEPTH;
            float value = 0.0;
            if (k < push.padded && first_row + row < push.m) {
                int pixel = pixel_under(origins[i], k / push.row_words);
                if (pixel >= 0) value = x[uint(pixel) * push.row_words + k % push.row_words];
            }
            left[load_k * (ROWS + 1) + row] = value;
        }
        for (uint i = thread; i < DEPTH * COLUMNS; i += 256) {
            uint column = i % COLUMNS;
            uint depth = i / COLUMNS;
            uint panel = min((first_column + column) / 16, panels - 1);
            right[i] = start + depth < push.padded ? weight(panel, column % 16, start + depth) : 0.0;
        }
        barrier();
        for (uint depth = 0; depth < DEPTH; depth++) {
            float a[TILE_ROWS];
            float w[TILE_COLUMNS];
            for (uint i = 0; i < TILE_ROWS; i++) a[i] = left[depth * (ROWS + 1) + own_row + 16 * i];
            for (uint j = 0; j < TILE_COLUMNS; j++) w[j] = right[depth * COLUMNS + own_column + 16 * j];
            for (uint i = 0; i < TILE_ROWS; i++) {
                for (uint j = 0; j < TILE_COLUMNS; j++) {
                    sums[i * TILE_COLUMNS + j] = fma(a[i], w[j], sums[i * TILE_COLUMNS + j]);
                }
            }
        }
        barrier();
    }

    for (uint i = 0; i < TILE_ROWS; i++) {
        uint row = first_row + own_row + 16 * i;
        if (row >= push.m) continue;
        for (uint j = 0; j < TILE_COLUMNS; j++) {
            uint column = first_column + own_column + 16 * j;
            if (column >= push.n) continue;
            float value = sums[i * TILE_COLUMNS + j];
            #include "epilogue.glsl"
            product[row * push.n + column] = value;
        }
    }
}
