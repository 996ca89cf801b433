// Blocks of channels that share a scale and an offset, as `rows.rs` lists them.
struct Block {
    // In a row of floats.
    uint first_channel;
    uint channels;
    // In a row of bytes, four to a word, padding included.
    uint first_word;
    uint words;
    // Which of the joined inputs.
    uint joined_input;
    // The first group of weights with a multiplier of their own, counted within a tap.
    uint first_group;
};
