#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "common.glsl"
#include "attention.glsl"

// What `attention_f32.comp` computes, with products of small matrices of halves in one instruction and sums in single
// precision.

layout(local_size_x = 256) in;
layout(constant_id = 0) const uint QUERIES = 64;
layout(constant_id = 1) const uint DEPTH = 64;
// The matrices that the device multiplies.
layout(constant_id = 3) const uint M = 16;
layout(constant_id = 4) const uint N = 16;
layout(constant_id = 5) const uint K = 16;
layout(constant_id = 6) const uint SUBGROUPS = 8;
const uint KEYS = 32;
const uint PITCH = KEYS + 4;
// In the end what is finished goes out the same way.
const uint STAGING = SUBGROUPS * M * N;
const uint SCORES = QUERIES * PITCH > STAGING ? QUERIES * PITCH : STAGING;

#include "softmax.glsl"

// Of rows of halves, in words: sixteen bytes more than they take, so that neighbours lie in other banks.
const uint DEPTH_PITCH = DEPTH / 2 + 4;
const uint WEIGHT_PITCH = KEYS / 2 + 4;
const uint SCORE_TILES = QUERIES / M * (KEYS / N);
const uint SUM_TILES = QUERIES / M * (DEPTH / N);
// Of a subgroup.
const uint OWN_TILES = (SUM_TILES + SUBGROUPS - 1) / SUBGROUPS;

shared uint query_halves[QUERIES * DEPTH_PITCH];
// Of keys, and then of values.
shared uint key_halves[KEYS * DEPTH_PITCH];
shared uint weight_halves[QUERIES * WEIGHT_PITCH];

#define SUMS coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint first_query = gl_WorkGroupID.x * QUERIES;
    uint head = gl_WorkGroupID.y % push.heads;
    uint image = gl_WorkGroupID.y / push.heads;
    uint channels = push.heads * push.head_dim;
    uint query_base = image * push.queries * channels + head * push.head_dim;
    uint key_base = image * push.keys * channels + head * push.head_dim;

    for (uint i = thread; i < QUERIES * DEPTH / 2; i += 256) {
        uint row = i / (DEPTH / 2);
        uint channel = i % (DEPTH / 2) * 2;
        uint at = query_base + (first_query + row) * channels + channel;
        bool there = first_query + row < push.queries;
        float low = there && channel < push.head_dim ? q[at] * push.scale : 0.0;
        float high = there && channel + 1 < push.head_dim ? q[at + 1] * push.scale : 0.0;
        query_halves[row * DEPTH_PITCH + channel / 2] = packHalf2x16(vec2(low, high));
    }
    SUMS sums[OWN_TILES];
    for (uint t = 0; t < OWN_TILES; t++) sums[t] = SUMS(0.0);
    begin_softmax();
    uint end = push.causal != 0 ? min(push.keys, first_query + QUERIES) : push.keys;
    for (uint first_key = 0; first_key < end; first_key += KEYS) {
        for (uint i = thread; i < KEYS * DEPTH / 2; i += 256) {
            uint row = i / (DEPTH / 2);
            uint channel = i % (DEPTH / 2) * 2;
            uint at = key_base + (first_key + row) * channels + channel;
            bool there = first_key + row < push.keys;
            float low = there && channel < push.head_dim ? k[at] : 0.0;
            float high = there && channel + 1 < push.head_dim ? k[at + 1] : 0.0;
            key_halves[row * DEPTH_PITCH + channel / 2] = packHalf2x16(vec2(low, high));
        }
        barrier();
        for (uint t = gl_SubgroupID; t < SCORE_TILES; t += SUBGROUPS) {
            uint row = t / (KEYS / N) * M;
            uint key = t % (KEYS / N) * N;
            SUMS tile = SUMS(0.0);
            for (uint channel = 0; channel < DEPTH; channel += K) {
                LEFT a;
                RIGHT b;
                coopMatLoad(a, query_halves, row * DEPTH_PITCH + channel / 2, DEPTH_PITCH, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(b, key_halves, key * DEPTH_PITCH + channel / 2, DEPTH_PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                tile = coopMatMulAdd(a, b, tile);
            }
            coopMatStore(tile, scores, row * PITCH + key, PITCH, gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();
        for (uint i = thread; i < QUERIES * KEYS; i += 256) {
            uint row = i / KEYS;
            uint key = first_key + i % KEYS;
            bool seen = key < push.keys && (push.causal == 0 || key <= first_query + row);
            if (!seen) scores[row * PITCH + i % KEYS] = LOWEST;
        }
        for (uint i = thread; i < KEYS * DEPTH / 2; i += 256) {
            uint row = i / (DEPTH / 2);
            uint channel = i % (DEPTH / 2) * 2;
            uint at = key_base + (first_key + row) * channels + channel;
            bool there = first_key + row < push.keys;
            float low = there && channel < push.head_dim ? v[at] : 0.0;
            float high = there && channel + 1 < push.head_dim ? v[at + 1] : 0.0;
            key_halves[row * DEPTH_PITCH + channel / 2] = packHalf2x16(vec2(low, high));
        }
        barrier();
        add_to_softmax();
        for (uint i = thread; i < QUERIES * KEYS / 2; i += 256) {
            uint row = i / (KEYS / 2);
            uint key = i % (KEYS / 2) * 2;
            vec2 weights = vec2(scores[row * PITCH + key], scores[row * PITCH + key + 1]);
            weight_halves[row * WEIGHT_PITCH + key / 2] = packHalf2x16(weights);
        }
        barrier();
        for (uint t = 0; t < OWN_TILES; t++) {
            uint tile = t * SUBGROUPS + gl_SubgroupID;
            if (tile >= SUM_TILES) break;
            uint row = tile / (DEPTH / N) * M;
            uint channel = tile % (DEPTH / N) * N;
            SUMS decay;
            coopMatLoad(decay, decays, row, 0, gl_CooperativeMatrixLayoutColumnMajor);
            sums[t] = sums[t] * decay;
            for (uint key = 0; key < KEYS; key += K) {
                LEFT a;
                RIGHT b;
                coopMatLoad(a, weight_halves, row * WEIGHT_PITCH + key / 2, WEIGHT_PITCH, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(b, key_halves, key * DEPTH_PITCH + channel / 2, DEPTH_PITCH, gl_CooperativeMatrixLayoutRowMajor);
                sums[t] = coopMatMulAdd(a, b, sums[t]);
            }
        }
        barrier();
    }
    uint staging = gl_SubgroupID * M * N;
    for (uint t = 0; t < OWN_TILES; t++) {
        uint tile = t * SUBGROUPS + gl_SubgroupID;
        if (tile < SUM_TILES) {
            coopMatStore(sums[t], scores, staging, N, gl_CooperativeMatrixLayoutRowMajor);
        }
        subgroupMemoryBarrierShared();
        subgroupBarrier();
        for (uint i = gl_SubgroupInvocationID; i < M * N && tile < SUM_TILES; i += gl_SubgroupSize) {
            uint row = tile / (DEPTH / N) * M + i / N;
            uint channel = tile % (DEPTH / N) * N + i % N;
            if (first_query + row < push.queries && channel < push.head_dim) {
                attended[query_base + (first_query + row) * channels + channel] = scores[staging + i] / totals[row];
            }
        }
        subgroupBarrier();
    }
}
