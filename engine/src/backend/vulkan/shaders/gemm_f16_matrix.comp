#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "common.glsl"
#include "gemm.glsl"

// out = epilogue(x * weight^T), `weight` in panels `[n / 16][k][16]` of halves, `x` rounded to halves; sums in single
// precision. `row_words` are the input channels.

layout(local_size_x = 256) in;
layout(constant_id = 0) const uint TILE_ROWS = 4;
layout(constant_id = 1) const uint TILE_COLUMNS = 4;
// The matrices that the device multiplies.
layout(constant_id = 3) const uint M = 16;
layout(constant_id = 4) const uint N = 16;
layout(constant_id = 5) const uint K = 16;
layout(constant_id = 6) const uint SUBGROUPS = 8;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Values { uint values[]; };
layout(binding = 6) readonly buffer Bias { float bias[]; };
layout(binding = 7) readonly buffer ChannelBias { float channel_bias[]; };
layout(binding = 8) readonly buffer Residual { float residual[]; };
layout(binding = 9) writeonly buffer Out { float product[]; };

const uint DEPTH = 32;
const uint ROWS = 16 * TILE_ROWS;
const uint COLUMNS = 16 * TILE_COLUMNS;
// In words, sixteen bytes more than a row takes.
const uint LEFT_PITCH = DEPTH / 2 + 4;
const uint RIGHT_PITCH = COLUMNS / 2 + 4;
const uint TILES_ACROSS = COLUMNS / N;
const uint TILES = ROWS / M * TILES_ACROSS / SUBGROUPS;
// Halves end at 65504, and activations of some autoencoders do not.
const float SHRINK = 1.0 / 16.0;

shared uint left[ROWS * LEFT_PITCH];
shared uint right[DEPTH * RIGHT_PITCH];
shared float finished[SUBGROUPS * M * N];

#define SUMS coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

float activation(ivec3 from, uint k) {
    if (k >= push.padded) return 0.0;
    int pixel = pixel_under(from, k / push.row_words);
    return pixel < 0 ? 0.0 : x[uint(pixel) * push.row_words + k % push.row_words] * SHRINK;
}

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.y * ROWS;
    uint first_column = gl_WorkGroupID.x * COLUMNS;
    uint panels = (push.n + 15) / 16;
    uint load_word = thread % (DEPTH / 2);
    ivec3 origins[TILE_ROWS];
    for (uint i = 0; i < TILE_ROWS; i++) {
        origins[i] = origin(min(first_row + i * 16 + thread / (DEPTH / 2), push.m - 1));
    }
    SUMS sums[TILES];
    for (uint t = 0; t < TILES; t++) sums[t] = SUMS(0.0);

    for (uint start = 0; start < push.padded; start += DEPTH) {
        for (uint i = 0; i < TILE_ROWS; i++) {
            uint row = i * 16 + thread / (DEPTH / 2);
            uint k = start + 2 * load_word;
            vec2 pair = vec2(activation(origins[i], k), activation(origins[i], k + 1));
            left[row * LEFT_PITCH + load_word] = packHalf2x16(pair);
        }
        for (uint i = thread; i < DEPTH * COLUMNS / 2; i += 256) {
            uint depth = i / (COLUMNS / 2);
            uint column = i % (COLUMNS / 2) * 2;
            uint panel = min((first_column + column) / 16, panels - 1);
            uint at = (panel * push.padded + start + depth) * 8 + column % 16 / 2;
            right[depth * RIGHT_PITCH + column / 2] = start + depth < push.padded ? values[at] : 0u;
        }
        barrier();
        for (uint t = 0; t < TILES; t++) {
            uint tile = gl_SubgroupID * TILES + t;
            uint row = tile / TILES_ACROSS * M;
            uint column = tile % TILES_ACROSS * N;
            for (uint k = 0; k < DEPTH; k += K) {
                coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> a;
                coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> w;
                coopMatLoad(a, left, row * LEFT_PITCH + k / 2, LEFT_PITCH, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(w, right, k * RIGHT_PITCH + column / 2, RIGHT_PITCH, gl_CooperativeMatrixLayoutRowMajor);
                sums[t] = coopMatMulAdd(a, w, sums[t]);
            }
        }
        barrier();
    }

    uint staging = gl_SubgroupID * M * N;
    for (uint t = 0; t < TILES; t++) {
        uint tile = gl_SubgroupID * TILES + t;
        coopMatStore(sums[t], finished, staging, N, gl_CooperativeMatrixLayoutRowMajor);
        subgroupMemoryBarrierShared();
        subgroupBarrier();
        for (uint i = gl_SubgroupInvocationID; i < M * N; i += gl_SubgroupSize) {
            uint row = first_row + tile / TILES_ACROSS * M + i / N;
            uint column = first_column + tile % TILES_ACROSS * N + i % N;
            if (row < push.m && column < push.n) {
                float value = finished[staging + i] / SHRINK;
            #include "epilogue.glsl"
                product[row * push.n + column] = value;
            }
        }
        subgroupBarrier();
    }
}
