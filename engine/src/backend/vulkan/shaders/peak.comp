#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef DOT
#extension GL_EXT_integer_dot_product : require
#endif
#include "common.glsl"
#include "dot.glsl"

// Multiply-adds that never leave the registers, to know what a device could do at most.

layout(local_size_x = 256) in;
layout(constant_id = 0) const bool INTEGERS = false;
// Accumulators of an invocation.
const uint CHAINS = 16;

layout(push_constant) uniform Push { uint rounds; } push;

layout(binding = 0) buffer Out { uint result[]; };

void main() {
    uint thread = gl_LocalInvocationID.x;
    float floats[CHAINS];
    int integers[CHAINS];
    for (uint i = 0; i < CHAINS; i++) {
        floats[i] = float(thread + i);
        integers[i] = int(thread * 0x01010101u + i);
    }
    float factor = 1.0 / float(result[0] + 3);
    uint other = result[0];
    for (uint round = 0; round < push.rounds; round++) {
        for (uint i = 0; i < CHAINS; i++) {
            if (INTEGERS) {
                // What one has summed is the other's operand: nothing stays the same from round to round.
                integers[i] += dot4(uint(integers[(i + 1) % CHAINS]), other);
            } else {
                floats[i] = fma(floats[i], factor, factor);
            }
        }
    }
    uint mixed = 0;
    for (uint i = 0; i < CHAINS; i++) mixed ^= INTEGERS ? uint(integers[i]) : floatBitsToUint(floats[i]);
    // Never true, and the compiler cannot know.
    if (mixed == push.rounds + 0x5bd1e995u) result[1 + thread] = mixed;
}
