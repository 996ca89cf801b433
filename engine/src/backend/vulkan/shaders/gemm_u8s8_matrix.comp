#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#include "common.glsl"
#include "blocks.glsl"
#include "gemm.glsl"
#include "integers.glsl"

// What `gemm_u8s8.comp` computes, with products of small matrices in one instruction. Sums inside a block are the same
// integers; factors come in as matrices whose rows or columns are alike.

layout(local_size_x = 256) in;
layout(constant_id = 0) const uint TILE_ROWS = 4;
layout(constant_id = 1) const uint TILE_COLUMNS = 4;
// The matrices that the device multiplies.
layout(constant_id = 3) const uint M = 16;
layout(constant_id = 4) const uint N = 16;
layout(constant_id = 5) const uint K = 16;
layout(constant_id = 6) const uint SUBGROUPS = 8;

const uint ROWS = 16 * TILE_ROWS;
const uint COLUMNS = 16 * TILE_COLUMNS;
// Of a row of bytes, in words: sixteen bytes more than a block, so that neighbours lie in other banks.
const uint PITCH = BLOCK_WORDS + 4;
const uint TILES_ACROSS = COLUMNS / N;
const uint TILES = ROWS / M * TILES_ACROSS / SUBGROUPS;

shared uint left[ROWS * PITCH];
shared uint right[COLUMNS * PITCH];
shared float row_scales[ROWS];
shared float row_offsets[ROWS];
// Of a column's integers in the block, 128 times that, and the feature's scale.
shared float sums_of_columns[COLUMNS];
shared int starts[COLUMNS];
shared float column_scales[COLUMNS];
shared float finished[SUBGROUPS * M * N];

#define SUMS coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define DOTS coopmat<int, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.y * ROWS;
    uint first_column = gl_WorkGroupID.x * COLUMNS;
    uint panels = (push.n + 15) / 16;
    uint load_word = thread % BLOCK_WORDS;
    ivec3 origins[TILE_ROWS];
    for (uint i = 0; i < TILE_ROWS; i++) {
        origins[i] = origin(min(first_row + i * 16 + thread / BLOCK_WORDS, push.m - 1));
    }
    SUMS sums[TILES];
    for (uint t = 0; t < TILES; t++) sums[t] = SUMS(0.0);

    uint taps = push.kernel * push.kernel;
    for (uint tap = 0; tap < taps; tap++) {
        for (uint b = 0; b < push.blocks; b++) {
            Block block = blocks[b];
            for (uint i = 0; i < TILE_ROWS; i++) {
                uint row = i * 16 + thread / BLOCK_WORDS;
                int pixel = pixel_under(origins[i], tap);
                bool inside = pixel >= 0 && first_row + row < push.m;
                uint word = 0;
                if (inside && load_word < block.words) {
                    word = x[uint(pixel) * push.row_words + block.first_word + load_word];
                }
                left[row * PITCH + load_word] = word ^ 0x80808080u;
                if (load_word == 0) {
                    uint at = push.factors_at + (uint(max(pixel, 0)) * push.blocks + b) * 2;
                    row_scales[row] = inside ? uintBitsToFloat(x[at]) : 0.0;
                    row_offsets[row] = inside ? uintBitsToFloat(x[at + 1]) : 0.0;
                }
            }
            uint tap_word = tap * push.row_words + block.first_word;
            for (uint i = thread; i < BLOCK_WORDS * COLUMNS; i += 256) {
                uint column = i % COLUMNS;
                uint word = i / COLUMNS;
                uint panel = min((first_column + column) / 16, panels - 1);
                uint group = tap * push.groups + block.first_group + word / 8;
                // Zeros behind a short block make up for whatever the left operand has there.
                right[column * PITCH + word] =
                    word < block.words ? weight_quad(panel, column % 16, tap_word + word, group) : 0u;
            }
            for (uint column = thread; column < COLUMNS; column += 256) {
                uint panel = min((first_column + column) / 16, panels - 1);
                int sum = column_sum(panel, column % 16, tap * push.blocks + b);
                sums_of_columns[column] = float(sum);
                starts[column] = 128 * sum;
                column_scales[column] = scales[(block.joined_input * panels + panel) * 16 + column % 16];
            }
            barrier();

            for (uint t = 0; t < TILES; t++) {
                uint tile = gl_SubgroupID * TILES + t;
                uint row = tile / TILES_ACROSS * M;
                uint column = tile % TILES_ACROSS * N;
                DOTS dots;
                coopMatLoad(dots, starts, column, 0, gl_CooperativeMatrixLayoutRowMajor);
                for (uint k = 0; k < block.words * 4; k += K) {
                    coopmat<int8_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> a;
                    coopmat<int8_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> w;
                    coopMatLoad(a, left, row * PITCH + k / 4, PITCH, gl_CooperativeMatrixLayoutRowMajor);
                    coopMatLoad(w, right, column * PITCH + k / 4, PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                    dots = coopMatMulAdd(a, w, dots);
                }
                SUMS scale_of_row, offset_of_row, sum_of_column, scale_of_column;
                coopMatLoad(scale_of_row, row_scales, row, 0, gl_CooperativeMatrixLayoutColumnMajor);
                coopMatLoad(offset_of_row, row_offsets, row, 0, gl_CooperativeMatrixLayoutColumnMajor);
                coopMatLoad(sum_of_column, sums_of_columns, column, 0, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(scale_of_column, column_scales, column, 0, gl_CooperativeMatrixLayoutRowMajor);
                sums[t] += (SUMS(dots) * scale_of_row + offset_of_row * sum_of_column) * scale_of_column;
            }
            barrier();
        }
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
                float value = finished[staging + i];
            #include "epilogue.glsl"
                product[row * push.n + column] = value;
            }
        }
        subgroupBarrier();
    }
}
