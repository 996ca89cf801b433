#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

// Rows of two tables, summed; rows of `words` for ids past the vocabulary.

layout(local_size_x = 256) in;
const uint FLOATS = 0;
const uint HALVES = 1;
const uint BYTES = 2;
layout(constant_id = 0) const uint TOKENS = 0;
layout(constant_id = 1) const uint POSITIONS = 0;

layout(push_constant) uniform Push {
    // Ids, ids of a prompt, values of a row, rows of `tokens`.
    uint count;
    uint tokens;
    uint width;
    uint vocabulary;
} push;

layout(binding = 0) readonly buffer Ids { float ids[]; };
layout(binding = 1) readonly buffer Tokens { uint token_values[]; };
layout(binding = 2) readonly buffer TokenScales { float token_scales[]; };
layout(binding = 3) readonly buffer Positions { uint position_values[]; };
layout(binding = 4) readonly buffer PositionScales { float position_scales[]; };
layout(binding = 5) readonly buffer Words { float words[]; };
layout(binding = 6) writeonly buffer Out { float states[]; };

void main() {
    uint index = flat_group() * 256 + gl_LocalInvocationID.x;
    if (index >= push.count * push.width) return;
    uint row = index / push.width;
    uint channel = index % push.width;
    uint id = uint(ids[row]);
    float value;
    if (id >= push.vocabulary) {
        value = words[(id - push.vocabulary) * push.width + channel];
    } else {
        uint at = id * push.width + channel;
        if (TOKENS == FLOATS) value = uintBitsToFloat(token_values[at]);
        else if (TOKENS == HALVES) value = half_of(token_values[at / 2], at);
        else value = token_scales[id] * float(byte_of(token_values[at / 4], at));
    }
    uint position = row % push.tokens;
    uint at = position * push.width + channel;
    if (POSITIONS == FLOATS) value += uintBitsToFloat(position_values[at]);
    else if (POSITIONS == HALVES) value += half_of(position_values[at / 2], at);
    else value += position_scales[position] * float(byte_of(position_values[at / 4], at));
    states[index] = value;
}
