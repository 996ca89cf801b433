#version 450
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require

// As `peak.comp`, with products of matrices.

layout(local_size_x = 256) in;
layout(constant_id = 3) const uint M = 16;
layout(constant_id = 4) const uint N = 16;
layout(constant_id = 5) const uint K = 16;
layout(constant_id = 6) const uint SUBGROUPS = 8;
const uint CHAINS = 4;

layout(push_constant) uniform Push { uint rounds; } push;

layout(binding = 0) buffer Out { uint result[]; };

shared int finished[SUBGROUPS * M * N];

#define SUMS coopmat<int, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

void main() {
    coopmat<int8_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> a =
        coopmat<int8_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>(int8_t(result[0] + 1));
    coopmat<int8_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> b =
        coopmat<int8_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>(int8_t(result[0] + 2));
    SUMS sums[CHAINS];
    for (uint i = 0; i < CHAINS; i++) sums[i] = SUMS(int(i));
    for (uint round = 0; round < push.rounds; round++) {
        for (uint i = 0; i < CHAINS; i++) sums[i] = coopMatMulAdd(a, b, sums[i]);
    }
    SUMS all = sums[0];
    for (uint i = 1; i < CHAINS; i++) all += sums[i];
    coopMatStore(all, finished, gl_SubgroupID * M * N, N, gl_CooperativeMatrixLayoutRowMajor);
    barrier();
    if (finished[gl_LocalInvocationID.x % (M * N)] == 0x5bd1e995) result[1 + gl_LocalInvocationID.x] = 1;
}
