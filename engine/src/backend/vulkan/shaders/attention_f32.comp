#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

// softmax(scale q k^T) v of one head for a block of queries, with a running softmax: never more than a tile of scores.
// A. Dao et al., FlashAttention, arXiv:2205.14135, algorithm 1.

layout(local_size_x = 256) in;
// Queries of a workgroup, a multiple of 16.
layout(constant_id = 0) const uint QUERIES = 32;
// Channels of a head, up to the next multiple of 16.
layout(constant_id = 1) const uint DEPTH = 64;
const uint KEYS = 32;
const uint CHUNK = 16;

layout(push_constant) uniform Push {
    uint heads;
    uint queries;
    uint keys;
    uint head_dim;
    float scale;
    uint causal;
} push;

layout(binding = 0) readonly buffer Q { float q[]; };
layout(binding = 1) readonly buffer K { float k[]; };
layout(binding = 2) readonly buffer V { float v[]; };
layout(binding = 3) writeonly buffer Out { float attended[]; };

const uint ROW_STEPS = QUERIES / 16;
const uint COLUMN_STEPS = DEPTH / 16;
const float LOWEST = -3.0e38;

shared float query_chunk[CHUNK * (QUERIES + 1)];
shared float key_chunk[CHUNK * (KEYS + 1)];
shared float scores[QUERIES * (KEYS + 1)];
shared float maxima[QUERIES];
shared float totals[QUERIES];
shared float decays[QUERIES];

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
    for (uint query = thread; query < QUERIES; query += 256) {
        maxima[query] = LOWEST;
        totals[query] = 0.0;
    }
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
                scores[row * (KEYS + 1) + own_column + 16 * j] = seen ? tile[2 * i + j] * push.scale : LOWEST;
            }
        }
        barrier();
        for (uint row = thread; row < QUERIES; row += 256) {
            float maximum = maxima[row];
            for (uint key = 0; key < KEYS; key++) maximum = max(maximum, scores[row * (KEYS + 1) + key]);
            float total = 0.0;
            for (uint key = 0; key < KEYS; key++) {
                float score = scores[row * (KEYS + 1) + key];
                float weight = score == LOWEST ? 0.0 : exp(score - maximum);
                scores[row * (KEYS + 1) + key] = weight;
                total += weight;
            }
            decays[row] = exp(maxima[row] - maximum);
            totals[row] = totals[row] * decays[row] + total;
            maxima[row] = maximum;
        }
        barrier();
        uint count = min(KEYS, push.keys - first_key);
        for (uint i = 0; i < ROW_STEPS; i++) {
            float decay = decays[own_row + 16 * i];
            for (uint j = 0; j < COLUMN_STEPS; j++) sums[i * COLUMN_STEPS + j] *= decay;
        }
        for (uint key = 0; key < count; key++) {
            uint base = key_base + (first_key + key) * channels;
            float weights[ROW_STEPS];
            for (uint i = 0; i < ROW_STEPS; i++) weights[i] = scores[(own_row + 16 * i) * (KEYS + 1) + key];
            for (uint j = 0; j < COLUMN_STEPS; j++) {
                uint channel = own_column + 16 * j;
                float value = channel < push.head_dim ? v[base + channel] : 0.0;
                for (uint i = 0; i < ROW_STEPS; i++) {
                    sums[i * COLUMN_STEPS + j] = fma(weights[i], value, sums[i * COLUMN_STEPS + j]);
                }
            }
        }
        barrier();
    }
    for (uint i = 0; i < ROW_STEPS; i++) {
        uint query = first_query + own_row + 16 * i;
        if (query >= push.queries) continue;
        for (uint j = 0; j < COLUMN_STEPS; j++) {
            uint channel = own_column + 16 * j;
            if (channel >= push.head_dim) continue;
            attended[query_base + query * channels + channel] =
                sums[i * COLUMN_STEPS + j] / totals[own_row + 16 * i];
        }
    }
}
