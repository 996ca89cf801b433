#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "attention.glsl"

// softmax(scale q k^T) v of one head for a block of queries: never more than a tile of scores.

layout(local_size_x = 256) in;
// Queries of a workgroup, a multiple of 16 that divides 256.
layout(constant_id = 0) const uint QUERIES = 32;
// Channels of a head, up to the next multiple of 16.
layout(constant_id = 1) const uint DEPTH = 64;
const uint KEYS = 32;
const uint PITCH = KEYS + 1;
const uint SCORES = QUERIES * PITCH;
const uint CHUNK = 16;
const uint ROW_STEPS = QUERIES / 16;
const uint COLUMN_STEPS = DEPTH / 16;

#include "softmax.glsl"

shared float query_chunk[CHUNK * (QUERIES + 1)];
// Of keys, and then of values.
shared float key_chunk[CHUNK * (KEYS + 1)];

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_query = gl_WorkGroupID.x * QUERIES;
    uint head = gl_WorkGroupID.y % push.heads;
    uint image = gl_WorkGroupID.y / push.heads;
    uint channels = push.heads * push.head_dim;
    uint query_base = image * push.queries * channels + head * push.head_dim;
    uint key_base = image * push.keys * channels + head * push.head_dim;
    uint own_row = thread / 16;
    uint own_column = thread % 16;

    float sums[ROW_STEPS * COLUMN_STEPS];
    for (uint i = 0; i < ROW_STEPS * COLUMN_STEPS; i++) sums[i] = 0.0;
    begin_softmax();
    uint end = push.causal != 0 ? min(push.keys, first_query + QUERIES) : push.keys;
    for (uint first_key = 0; first_key < end; first_key += KEYS) {
        // Scores of the tile: two keys to an invocation for each of its queries.
        float tile[ROW_STEPS * 2];
        for (uint i = 0; i < ROW_STEPS * 2; i++) tile[i] = 0.0;
        for (uint start = 0; start < push.head_dim; start += CHUNK) {
            uint channel = start + own_column;
            for (uint i = 0; i < ROW_STEPS; i++) {
                uint query = first_query + own_row + 16 * i;
                bool there = query < push.queries && channel < push.head_dim;
                query_chunk[own_column * (QUERIES + 1) + own_row + 16 * i] =
                    there ? q[query_base + query * channels + channel] : 0.0;
            }
            for (uint i = 0; i < 2; i++) {
                uint key = first_key + own_row + 16 * i;
                bool there = key < push.keys && channel < push.head_dim;
                key_chunk[own_column * (KEYS + 1) + own_row + 16 * i] =
                    there ? k[key_base + key * channels + channel] : 0.0;
            }
            barrier();
            for (uint c = 0; c < CHUNK; c++) {
                float key0 = key_chunk[c * (KEYS + 1) + own_column];
                float key1 = key_chunk[c * (KEYS + 1) + own_column + 16];
                for (uint i = 0; i < ROW_STEPS; i++) {
                    float query = query_chunk[c * (QUERIES + 1) + own_row + 16 * i];
                    tile[2 * i] = fma(query, key0, tile[2 * i]);
                    tile[2 * i + 1] = fma(query, key1, tile[2 * i + 1]);
                }
            }
            barrier();
        }
        for (uint i = 0; i < ROW_STEPS; i++) {
            uint row = own_row + 16 * i;
            for (uint j = 0; j < 2; j++) {
                uint key = first_key + own_column + 16 * j;
                bool seen = key < push.keys && (push.causal == 0 || key <= first_query + row);
                scores[row * PITCH + own_column + 16 * j] = seen ? tile[2 * i + j] * push.scale : LOWEST;
            }
        }
        barrier();
        add_to_softmax();
        // Channels sixteen at a time, every invocation one of them for all its queries.
        for (uint j = 0; j < COLUMN_STEPS; j++) {
            uint channel = own_column + 16 * j;
            for (uint i = 0; i < 2; i++) {
                uint key = first_key + own_row + 16 * i;
                bool there = key < push.keys && channel < push.head_dim;
                key_chunk[own_column * (KEYS + 1) + own_row + 16 * i] =
                    there ? v[key_base + key * channels + channel] : 0.0;
            }
            barrier();
            for (uint i = 0; i < ROW_STEPS; i++) {
                uint row = own_row + 16 * i;
                float sum = sums[i * COLUMN_STEPS + j] * decays[row];
                for (uint key = 0; key < KEYS; key++) {
                    sum = fma(scores[row * PITCH + key], key_chunk[own_column * (KEYS + 1) + key], sum);
                }
                sums[i * COLUMN_STEPS + j] = sum;
            }
            barrier();
        }
    }
    for (uint i = 0; i < ROW_STEPS; i++) {
        uint row = own_row + 16 * i;
        uint query = first_query + row;
        if (query >= push.queries) continue;
        for (uint j = 0; j < COLUMN_STEPS; j++) {
            uint channel = own_column + 16 * j;
            if (channel >= push.head_dim) continue;
            attended[query_base + query * channels + channel] = sums[i * COLUMN_STEPS + j] / totals[row];
        }
    }
}
