#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "blocks.glsl"
#include "activation.glsl"
#include "double_float.glsl"

// Whatever makes each value of a row from the same place of other rows, left as floats or rounded to bytes.

layout(local_size_x = 256) in;
// What a value is made of.
layout(constant_id = 0) const uint SOURCE = 0;
const uint COPY = 0;
const uint NORM = 1;
const uint GATE = 2;
const uint SUM = 3;
layout(constant_id = 1) const uint ACTIVATION = 0;
layout(constant_id = 2) const bool BYTES = false;

layout(push_constant) uniform Push {
    uint rows;
    uint channels;
    // Of a row as it is read.
    uint in_channels;
    float scale;
    float shift;
    // Rows that share statistics, and channels.
    uint image_rows;
    uint groups;
    uint group_channels;
    // Of a row of bytes: words, blocks; and where factors begin.
    uint row_words;
    uint blocks;
    uint factors_at;
} push;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Other { float other[]; };
// Mean, what it lost by rounding, and one over the deviation.
layout(binding = 2) readonly buffer Statistics { vec4 statistics[]; };
layout(binding = 3) readonly buffer Gamma { float gamma[]; };
layout(binding = 4) readonly buffer Beta { float beta[]; };
layout(binding = 5) readonly buffer Blocks { Block blocks[]; };
layout(binding = 6) writeonly buffer Out { uint words[]; };

shared float lowest[256];
shared float highest[256];
shared uint broken[256];

const float LARGEST = 3.402823466e38;
// Ranges of values that are taken for one value: beyond, 255 over it would overflow.
const float SMALLEST_SPREAD = 1e-30;

float value_at(uint row, uint channel) {
    uint at = row * push.in_channels + channel;
    float value;
    if (SOURCE == NORM) {
        vec4 s = statistics[row / push.image_rows * push.groups + channel / push.group_channels];
        value = fma((x[at] - s.x - s.y) * s.z, gamma[channel], beta[channel]);
    } else if (SOURCE == GATE) {
        value = x[at] * gelu(x[at + push.channels]);
    } else if (SOURCE == SUM) {
        value = x[at] + other[at];
    } else {
        value = fma(x[at], push.scale, push.shift);
    }
    return activate(ACTIVATION, value);
}

// Devices may divide inexactly; these two are what a processor finds, so that bytes are the same.

// x / 255: what 255 times a first guess lacks is exact, for 255 is nearly a power of two.
float by_255(float x) {
    precise float guess = x * (1.0 / 255.0);
    precise float rest = (x - guess * 256.0) + guess;
    precise float better = guess + rest * (1.0 / 255.0);
    return better;
}

float reciprocal(float x) {
    precise float guess = 1.0 / x;
    // Beyond, halves of the product would overflow.
    if (x > 1e33) return guess;
    vec2 product = two_product(x, guess);
    precise float rest = (1.0 - product.x) - product.y;
    precise float better = guess + guess * rest;
    return better;
}

void floats() {
    uint first = flat_group() * 1024 + gl_LocalInvocationID.x;
    uint end = push.rows * push.channels;
    for (uint i = 0; i < 4; i++) {
        uint at = first + i * 256;
        if (at < end) words[at] = floatBitsToUint(value_at(at / push.channels, at % push.channels));
    }
}

// Sixteen invocations to a block, four channels each.
void bytes() {
    uint thread = gl_LocalInvocationID.x;
    uint lane = thread % 16;
    uint index = flat_group() * 16 + thread / 16;
    bool there = index < push.rows * push.blocks;
    uint row = there ? index / push.blocks : 0;
    uint b = there ? index % push.blocks : 0;
    Block block = blocks[b];
    vec4 values;
    uint count = there ? uint(clamp(int(block.channels) - int(4 * lane), 0, 4)) : 0;
    float low = LARGEST;
    float high = -LARGEST;
    uint is_broken = 0;
    for (uint i = 0; i < count; i++) {
        float value = value_at(row, block.first_channel + 4 * lane + i);
        values[i] = value;
        low = min(low, value);
        high = max(high, value);
        if ((floatBitsToUint(value) & 0x7f800000u) == 0x7f800000u) is_broken = 1;
    }
    lowest[thread] = low;
    highest[thread] = high;
    broken[thread] = is_broken;
    for (uint step = 8; step > 0; step /= 2) {
        barrier();
        if (lane < step) {
            lowest[thread] = min(lowest[thread], lowest[thread + step]);
            highest[thread] = max(highest[thread], highest[thread + step]);
            broken[thread] |= broken[thread + step];
        }
    }
    barrier();
    if (!there) return;
    precise float offset = lowest[thread - lane];
    precise float spread = highest[thread - lane] - offset;
    float scale = spread > SMALLEST_SPREAD ? by_255(spread) : 0.0;
    bool finite = broken[thread - lane] == 0;
    float inverse = finite && scale > 0.0 ? reciprocal(scale) : 0.0;
    uint word = 0;
    for (uint i = 0; i < count; i++) {
        precise float scaled = (values[i] - offset) * inverse;
        word |= uint(roundEven(clamp(scaled, 0.0, 255.0))) << (8 * i);
    }
    if (lane < block.words) words[row * push.row_words + block.first_word + lane] = word;
    if (lane == 0) {
        uint at = push.factors_at + (row * push.blocks + b) * 2;
        words[at] = finite ? floatBitsToUint(scale) : 0x7fc00000u;
        words[at + 1] = floatBitsToUint(offset);
    }
}

void main() {
    if (BYTES) bytes();
    else floats();
}
