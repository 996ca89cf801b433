#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef DOT
#extension GL_EXT_integer_dot_product : require
#endif
#include "common.glsl"
#include "dot.glsl"
#include "blocks.glsl"
#include "gemm.glsl"
#include "integers.glsl"

// out = epilogue(x * weight^T), `x` rows of bytes with factors, `weight` integers in panels of sixteen features.
//
// A workgroup makes a tile of 16 * TILE_ROWS rows and 16 * TILE_COLUMNS features. Inside a block of channels sums are
// integers, the same as on a CPU; at its end they take the scale and offset of the row's block and the feature's scale.

layout(local_size_x = 256) in;
layout(constant_id = 0) const uint TILE_ROWS = 4;
layout(constant_id = 1) const uint TILE_COLUMNS = 4;

const uint ROWS = 16 * TILE_ROWS;
const uint COLUMNS = 16 * TILE_COLUMNS;

// One word more than the rows: words of one row then lie in different banks.
shared uint left[BLOCK_WORDS * (ROWS + 1)];
shared uint right[BLOCK_WORDS * COLUMNS];
shared float row_scales[ROWS];
shared float row_offsets[ROWS];
shared int sums_of_columns[COLUMNS];

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.y * ROWS;
    uint first_column = gl_WorkGroupID.x * COLUMNS;
    uint panels = (push.n + 15) / 16;
    // What this invocation loads: one word of these rows.
    uint load_word = thread % BLOCK_WORDS;
    ivec3 origins[TILE_ROWS];
    for (uint i = 0; i < TILE_ROWS; i++) {
        origins[i] = origin(min(first_row + i * 16 + thread / BLOCK_WORDS, push.m - 1));
    }
    // What it computes: these rows and columns, sixteen apart.
    uint own_row = thread / 16;
    uint own_column = thread % 16;
    float sums[TILE_ROWS * TILE_COLUMNS];
    for (uint i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) sums[i] = 0.0;

    uint taps = push.kernel * push.kernel;
    for (uint tap = 0; tap < taps; tap++) {
        for (uint b = 0; b < push.blocks; b++) {
            Block block = blocks[b];
            for (uint i = 0; i < TILE_ROWS; i++) {
                uint row = i * 16 + thread / BLOCK_WORDS;
                int pixel = pixel_under(origins[i], tap);
                bool inside = pixel >= 0 && first_row + row < push.m;
                if (load_word < block.words) {
                    // Signed bytes: 128 less, which the columns' sums make good.
                    uint word = inside ? x[uint(pixel) * push.row_words + block.first_word + load_word] : 0u;
                    left[load_word * (ROWS + 1) + row] = word ^ 0x80808080u;
                }
                if (load_word == 0) {
                    uint at = push.factors_at + (uint(max(pixel, 0)) * push.blocks + b) * 2;
                    row_scales[row] = inside ? uintBitsToFloat(x[at]) : 0.0;
                    row_offsets[row] = inside ? uintBitsToFloat(x[at + 1]) : 0.0;
                }
            }
            uint tap_word = tap * push.row_words + block.first_word;
            for (uint i = thread; i < block.words * COLUMNS; i += 256) {
                uint column = i % COLUMNS;
                uint word = i / COLUMNS;
                uint panel = min((first_column + column) / 16, panels - 1);
                uint group = tap * push.groups + block.first_group + word / 8;
                right[word * COLUMNS + column] = weight_quad(panel, column % 16, tap_word + word, group);
            }
            for (uint column = thread; column < COLUMNS; column += 256) {
                uint panel = min((first_column + column) / 16, panels - 1);
                sums_of_columns[column] = column_sum(panel, column % 16, tap * push.blocks + b);
            }
            barrier();

            int dots[TILE_ROWS * TILE_COLUMNS];
            for (uint i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) dots[i] = 0;
            for (uint word = 0; word < block.words; word++) {
                uint a[TILE_ROWS];
                uint w[TILE_COLUMNS];
                for (uint i = 0; i < TILE_ROWS; i++) a[i] = left[word * (ROWS + 1) + own_row + 16 * i];
                for (uint j = 0; j < TILE_COLUMNS; j++) w[j] = right[word * COLUMNS + own_column + 16 * j];
                for (uint i = 0; i < TILE_ROWS; i++) {
                    for (uint j = 0; j < TILE_COLUMNS; j++) {
                        dots[i * TILE_COLUMNS + j] += dot4(a[i], w[j]);
                    }
                }
            }
            for (uint j = 0; j < TILE_COLUMNS; j++) {
                int column_sum = sums_of_columns[own_column + 16 * j];
                uint panel = min(first_column / 16 + j, panels - 1);
                float scale = scales[(block.joined_input * panels + panel) * 16 + own_column];
                for (uint i = 0; i < TILE_ROWS; i++) {
                    uint row = own_row + 16 * i;
                    float whole = float(dots[i * TILE_COLUMNS + j] + column_sum * 128);
                    float sum = fma(whole, row_scales[row], float(column_sum) * row_offsets[row]);
                    sums[i * TILE_COLUMNS + j] = fma(sum, scale, sums[i * TILE_COLUMNS + j]);
                }
            }
            barrier();
        }
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
