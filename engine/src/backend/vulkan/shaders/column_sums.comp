#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "blocks.glsl"

// The sum of a feature's integers in each block of columns, two features to a word: at most 64 * 127, which 16 bits hold.

layout(local_size_x = 64) in;
layout(constant_id = 0) const bool PACKED = false;

layout(push_constant) uniform Push {
    uint panels;
    uint taps;
    // Of a tap.
    uint blocks;
    uint groups;
    uint row_words;
} push;

layout(binding = 0) readonly buffer Values { uint values[]; };
layout(binding = 1) readonly buffer Multipliers { uint multipliers[]; };
layout(binding = 2) readonly buffer Blocks { Block blocks[]; };
layout(binding = 3) writeonly buffer ColumnSums { uint column_sums[]; };

int sum4(uint word) {
    return byte_of(word, 0) + byte_of(word, 1) + byte_of(word, 2) + byte_of(word, 3);
}

int sum_of(uint panel, uint lane, uint tap, Block block) {
    uint panel_words = push.taps * push.row_words;
    int sum = 0;
    for (uint i = 0; i < block.words; i++) {
        uint word = tap * push.row_words + block.first_word + i;
        if (!PACKED) {
            sum += sum4(values[(panel * panel_words + word) * 16 + lane]);
            continue;
        }
        uint packed = values[(panel * panel_words / 2 + word / 2) * 16 + lane];
        uint nibbles = ((word & 1u) == 0u ? packed : packed >> 4) & 0x0f0f0f0fu;
        uint at = (panel * push.taps * push.groups + tap * push.groups + block.first_group + i / 8) * 8 + (lane & 7u);
        uint both = multipliers[at / 4] >> ((at & 3u) * 8);
        int multiplier = int((lane < 8 ? both : both >> 4) & 15u);
        sum += (sum4(nibbles) - 32) * multiplier;
    }
    return sum;
}

void main() {
    uint index = flat_group() * 64 + gl_LocalInvocationID.x;
    uint all_blocks = push.taps * push.blocks;
    if (index >= push.panels * all_blocks * 8) return;
    uint pair = index % 8;
    uint b = index / 8 % all_blocks;
    uint panel = index / 8 / all_blocks;
    uint tap = b / push.blocks;
    Block block = blocks[b % push.blocks];
    int low = sum_of(panel, 2 * pair, tap, block);
    int high = sum_of(panel, 2 * pair + 1, tap, block);
    column_sums[index] = uint(low & 0xffff) | uint(high << 16);
}
