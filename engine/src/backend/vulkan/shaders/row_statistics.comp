#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

// Mean and deviation of every row.

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    uint rows;
    uint channels;
    float eps;
} push;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) writeonly buffer Statistics { vec4 statistics[]; };

shared float parts[64];

float total(float part) {
    uint thread = gl_LocalInvocationID.x;
    barrier();
    parts[thread] = part;
    for (uint step = 32; step > 0; step /= 2) {
        barrier();
        if (thread < step) parts[thread] += parts[thread + step];
    }
    barrier();
    return parts[0];
}

void main() {
    uint row = flat_group();
    if (row >= push.rows) return;
    uint first = row * push.channels;
    // Distances from a value of the row: a large mean then costs no digits.
    float shift = x[first];
    float sum = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < push.channels; i += 64) sum += x[first + i] - shift;
    float mean = total(sum) / float(push.channels);
    float squares = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < push.channels; i += 64) {
        float distance = (x[first + i] - shift) - mean;
        squares = fma(distance, distance, squares);
    }
    float variance = total(squares) / float(push.channels);
    if (gl_LocalInvocationID.x == 0) {
        precise float whole = shift + mean;
        precise float lost = mean - (whole - shift);
        statistics[row] = vec4(whole, lost, 1.0 / sqrt(variance + push.eps), 0.0);
    }
}
