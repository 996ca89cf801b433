// Numbers as the sum of two floats, 48 bits. T. J. Dekker, A floating-point technique for extending the available
// precision, Numer. Math. 18 (1971).

vec2 two_sum(float a, float b) {
    precise float sum = a + b;
    precise float of_b = sum - a;
    precise float error = (a - (sum - of_b)) + (b - of_b);
    return vec2(sum, error);
}

vec2 quick_two_sum(float a, float b) {
    precise float sum = a + b;
    precise float error = b - (sum - a);
    return vec2(sum, error);
}

vec2 two_product(float a, float b) {
    precise float product = a * b;
    precise float spread_a = 4097.0 * a;
    precise float high_a = spread_a - (spread_a - a);
    precise float low_a = a - high_a;
    precise float spread_b = 4097.0 * b;
    precise float high_b = spread_b - (spread_b - b);
    precise float low_b = b - high_b;
    precise float error = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b;
    return vec2(product, error);
}

vec2 add(vec2 a, vec2 b) {
    vec2 sum = two_sum(a.x, b.x);
    precise float low = sum.y + (a.y + b.y);
    return quick_two_sum(sum.x, low);
}

vec2 multiply(vec2 a, vec2 b) {
    vec2 product = two_product(a.x, b.x);
    precise float low = product.y + (a.x * b.y + a.y * b.x);
    return quick_two_sum(product.x, low);
}

vec2 divide(vec2 a, float b) {
    precise float first = a.x / b;
    vec2 rest = add(a, -two_product(first, b));
    precise float second = (rest.x + rest.y) / b;
    return quick_two_sum(first, second);
}
