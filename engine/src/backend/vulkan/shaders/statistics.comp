#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "double_float.glsl"

// From moments, or from what was summed elsewhere, to what a norm subtracts and divides by.

layout(local_size_x = 64) in;
layout(constant_id = 0) const uint MODE = 0;
// Moments become statistics.
const uint FINISH = 0;
// Moments are added to earlier sums `[groups, 6]`.
const uint ACCUMULATE = 1;
// Means and variances `[groups, 6]` become statistics.
const uint GIVEN = 2;

layout(push_constant) uniform Push {
    uint groups;
    // Moments of each group.
    uint count;
    // Values of each group.
    float values;
    float eps;
} push;

layout(binding = 0) readonly buffer Moments { vec4 moments[]; };
layout(binding = 1) readonly buffer Before { float before[]; };
layout(binding = 2) writeonly buffer Out { float result[]; };

shared vec2 sums[64];
shared vec2 squares[64];

vec2 before_at(uint at) {
    vec2 first = two_sum(before[at], before[at + 1]);
    return add(first, vec2(before[at + 2], 0.0));
}

void finish(uint group, vec2 mean, vec2 variance) {
    float deviation = sqrt(max(variance.x + variance.y, 0.0) + push.eps);
    result[group * 4] = mean.x;
    result[group * 4 + 1] = mean.y;
    result[group * 4 + 2] = 1.0 / deviation;
    result[group * 4 + 3] = 0.0;
}

void main() {
    uint group = flat_group();
    uint thread = gl_LocalInvocationID.x;
    if (group >= push.groups) return;
    if (MODE == GIVEN) {
        if (thread == 0) finish(group, before_at(group * 6), before_at(group * 6 + 3));
        return;
    }
    vec2 sum = vec2(0.0);
    vec2 square = vec2(0.0);
    for (uint i = thread; i < push.count; i += 64) {
        vec4 m = moments[group * push.count + i];
        // Values are shift + distance.
        vec2 shifts = two_product(m.x, m.y);
        sum = add(sum, add(shifts, vec2(m.z, 0.0)));
        vec2 twice = add(shifts, vec2(2.0 * m.z, 0.0));
        square = add(square, add(vec2(m.w, 0.0), multiply(twice, vec2(m.y, 0.0))));
    }
    sums[thread] = sum;
    squares[thread] = square;
    for (uint step = 32; step > 0; step /= 2) {
        barrier();
        if (thread < step) {
            sums[thread] = add(sums[thread], sums[thread + step]);
            squares[thread] = add(squares[thread], squares[thread + step]);
        }
    }
    if (thread != 0) return;
    if (MODE == ACCUMULATE) {
        sum = add(sums[0], before_at(group * 6));
        square = add(squares[0], before_at(group * 6 + 3));
        result[group * 6] = sum.x;
        result[group * 6 + 1] = sum.y;
        result[group * 6 + 2] = 0.0;
        result[group * 6 + 3] = square.x;
        result[group * 6 + 4] = square.y;
        result[group * 6 + 5] = 0.0;
        return;
    }
    vec2 mean = divide(sums[0], push.values);
    vec2 variance = add(divide(squares[0], push.values), -multiply(mean, mean));
    finish(group, mean, variance);
}
