// What products of bytes and integers read: weights in panels of sixteen features, as `formats::layout::quantized` has
// them, rows of bytes with factors, and what is added at the end.

// Whether weights have four bits and multipliers.
layout(constant_id = 2) const bool PACKED = false;

layout(binding = 0) readonly buffer X { uint x[]; };
layout(binding = 1) readonly buffer Values { uint values[]; };
layout(binding = 2) readonly buffer Multipliers { uint multipliers[]; };
layout(binding = 3) readonly buffer Scales { float scales[]; };
layout(binding = 4) readonly buffer Blocks { Block blocks[]; };
layout(binding = 5) readonly buffer ColumnSums { uint column_sums[]; };
layout(binding = 6) readonly buffer Bias { float bias[]; };
layout(binding = 7) readonly buffer ChannelBias { float channel_bias[]; };
layout(binding = 8) readonly buffer Residual { float residual[]; };
layout(binding = 9) writeonly buffer Out { float product[]; };

const uint BLOCK_WORDS = 16;

// Four columns of a feature. `word` counts words of a panel, `group` groups of all taps.
uint weight_quad(uint panel, uint lane, uint word, uint group) {
    if (!PACKED) {
        return values[(panel * (push.padded / 4) + word) * 16 + lane];
    }
    uint packed = values[(panel * (push.padded / 8) + word / 2) * 16 + lane];
    uint nibbles = ((word & 1u) == 0u ? packed : packed >> 4) & 0x0f0f0f0fu;
    uint all_groups = push.kernel * push.kernel * push.groups;
    uint at = (panel * all_groups + group) * 8 + (lane & 7u);
    uint both = multipliers[at / 4] >> ((at & 3u) * 8);
    uint multiplier = (lane < 8 ? both : both >> 4) & 15u;
    // (nibble - 8) * multiplier for each byte: at most 120, and at most 64 less than 128, so that nothing crosses over.
    return ((nibbles * multiplier | 0x80808080u) - 0x08080808u * multiplier) ^ 0x80808080u;
}

// The sum of a feature's integers in a block, counted over all taps.
int column_sum(uint panel, uint lane, uint block) {
    uint at = (panel * push.kernel * push.kernel * push.blocks + block) * 8 + lane / 2;
    return bitfieldExtract(int(column_sums[at]), int(lane & 1u) * 16, 16);
}
