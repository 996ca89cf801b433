#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

// Words of rows to other places: joining along channels, and repeating pixels.

layout(local_size_x = 256) in;

layout(push_constant) uniform Push {
    // Rows of the output, and words of each that are written.
    uint rows;
    uint width;
    uint in_at;
    uint in_stride;
    uint out_at;
    uint out_stride;
    // Size of the pictures; row by row where they are the same.
    uint in_height;
    uint in_width;
    uint out_height;
    uint out_width;
} push;

layout(binding = 0) readonly buffer X { uint x[]; };
layout(binding = 1) writeonly buffer Out { uint moved[]; };

void main() {
    uint index = flat_group() * 256 + gl_LocalInvocationID.x;
    if (index >= push.rows * push.width) return;
    uint row = index / push.width;
    uint word = index % push.width;
    uint column = row % push.out_width * push.in_width / push.out_width;
    uint line = row / push.out_width % push.out_height * push.in_height / push.out_height;
    uint image = row / (push.out_width * push.out_height);
    uint from = (image * push.in_height + line) * push.in_width + column;
    moved[push.out_at + row * push.out_stride + word] = x[push.in_at + from * push.in_stride + word];
}
