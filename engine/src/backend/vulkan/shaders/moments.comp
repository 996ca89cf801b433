#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

// Of a slice of an image's pixels and each group of channels: how many values, one of them, the sum of the distances from
// it, and of their squares.
//
// A workgroup goes over its slice a chunk of channels at a time. A chunk is whole groups, or a part of one.

layout(local_size_x = 256) in;

layout(push_constant) uniform Push {
    uint channels;
    uint group_channels;
    // Of an image, and those of them that count.
    uint image_pixels;
    uint first_pixel;
    uint pixels;
    // Pixels of a slice, and slices.
    uint slice_pixels;
    uint slices;
    // Channels of a chunk; parts that a group has of chunks, 1 unless it is larger.
    uint chunk;
    uint parts;
} push;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) writeonly buffer Moments { vec4 moments[]; };

shared float sums[256];
shared float squares[256];

void main() {
    uint thread = gl_LocalInvocationID.x;
    uint slice = gl_WorkGroupID.x;
    uint image = gl_WorkGroupID.y;
    uint groups = push.channels / push.group_channels;
    uint start = slice * push.slice_pixels;
    uint end = min(start + push.slice_pixels, push.pixels);
    uint from = image * push.image_pixels + push.first_pixel;
    uint lanes = 256 / push.chunk;
    uint own_channel = thread % push.chunk;
    uint own_lane = thread / push.chunk;
    // What shares a shift and a sum: a group, or the part of one.
    uint unit = min(push.group_channels, push.chunk);
    for (uint first = 0; first < push.channels; first += push.chunk) {
        // A part of a group ends with it.
        uint first_of_group = first / push.group_channels * push.group_channels;
        uint chunk_end = push.parts == 1 ? push.channels : first_of_group + push.group_channels;
        uint width = min(push.chunk, chunk_end - first);
        uint unit_start = first + own_channel / unit * unit;
        float sum = 0.0;
        float square = 0.0;
        if (own_channel < width && own_lane < lanes) {
            float shift = x[(from + start) * push.channels + unit_start];
            for (uint pixel = start + own_lane; pixel < end; pixel += lanes) {
                float distance = x[(from + pixel) * push.channels + first + own_channel] - shift;
                sum += distance;
                square = fma(distance, distance, square);
            }
        }
        sums[thread] = sum;
        squares[thread] = square;
        barrier();
        uint units = (width + unit - 1) / unit;
        if (thread < units) {
            uint unit_width = min(unit, width - thread * unit);
            sum = 0.0;
            square = 0.0;
            for (uint lane = 0; lane < lanes; lane++) {
                for (uint channel = 0; channel < unit_width; channel++) {
                    uint at = lane * push.chunk + thread * unit + channel;
                    sum += sums[at];
                    square += squares[at];
                }
            }
            uint group = (first + thread * unit) / push.group_channels;
            uint part = (first - first_of_group) / push.chunk;
            uint at = ((image * groups + group) * push.slices + slice) * push.parts + (push.parts == 1 ? 0 : part);
            float shift = x[(from + start) * push.channels + first + thread * unit];
            moments[at] = vec4(float((end - start) * unit_width), shift, sum, square);
        }
        barrier();
        // The next chunk begins where this group ends.
        if (push.parts > 1 && first + push.chunk > chunk_end) first = chunk_end - push.chunk;
    }
}
