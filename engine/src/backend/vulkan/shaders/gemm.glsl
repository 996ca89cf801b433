// Geometry and ending of a product: the rows of its output are pixels, those of a matrix product a picture that is one
// pixel high.

layout(push_constant) uniform Push {
    // Rows and columns of the output.
    uint m;
    uint n;
    uint out_pixels;
    uint out_width;
    uint in_height;
    uint in_width;
    uint kernel;
    uint stride;
    uint pad_top;
    uint pad_left;
    // Bits: bias, channel bias, channel bias of one row for all images, residual.
    uint flags;
    // Of the left operand: words of a row, and where its factors begin.
    uint row_words;
    uint factors_at;
    // Of a tap.
    uint blocks;
    uint groups;
    // Of all taps: columns, padding counted.
    uint padded;
} push;

const uint HAS_BIAS = 1u;
const uint HAS_CHANNEL_BIAS = 2u;
const uint ONE_CHANNEL_BIAS = 4u;
const uint HAS_RESIDUAL = 8u;

// Where the picture of an output row begins among input pixels, and its place in it times the stride less the padding.
ivec3 origin(uint row) {
    uint image = row / push.out_pixels;
    uint pixel = row % push.out_pixels;
    return ivec3(
        image * push.in_height * push.in_width,
        int(pixel / push.out_width * push.stride) - int(push.pad_top),
        int(pixel % push.out_width * push.stride) - int(push.pad_left));
}

// The input pixel that an output row sees under a tap, or -1 outside of the picture.
int pixel_under(ivec3 from, uint tap) {
    int y = from.y + int(tap / push.kernel);
    int x = from.z + int(tap % push.kernel);
    bool inside = y >= 0 && x >= 0 && y < int(push.in_height) && x < int(push.in_width);
    return inside ? from.x + y * int(push.in_width) + x : -1;
}
