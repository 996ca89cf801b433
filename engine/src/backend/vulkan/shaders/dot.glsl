// The sum of the products of four signed bytes each.
int dot4(uint a, uint b) {
#ifdef DOT
    return dotPacked4x8EXT(int(a), int(b));
#else
    ivec4 u = ivec4(byte_of(a, 0), byte_of(a, 1), byte_of(a, 2), byte_of(a, 3));
    ivec4 v = ivec4(byte_of(b, 0), byte_of(b, 1), byte_of(b, 2), byte_of(b, 3));
    return u.x * v.x + u.y * v.y + u.z * v.z + u.w * v.w;
#endif
}
