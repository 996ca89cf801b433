// What shaders share. Buffers hold 32-bit words; floats, halves and bytes lie in them as they do in tensors and files.

// The workgroup's number in a dispatch that may be wider than one axis allows.
uint flat_group() {
    return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}

// The half with this index in words that hold two each, the low one first.
float half_of(uint word, uint index) {
    vec2 both = unpackHalf2x16(word);
    return (index & 1u) == 0u ? both.x : both.y;
}

// The signed byte with this index in words that hold four each.
int byte_of(uint word, uint index) {
    return bitfieldExtract(int(word), int(index & 3u) * 8, 8);
}
