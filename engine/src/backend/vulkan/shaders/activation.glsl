// The functions of `graph::Activation`, by number.
const uint NONE = 0;
const uint SILU = 1;
const uint QUICK_GELU = 2;
const uint GELU = 3;
const uint GELU_TANH = 4;
const uint RELU = 5;
const uint TANH3 = 6;

// x * Phi(x); the tail of the normal distribution by Abramowitz and Stegun 7.1.26, within 1.5e-7.
float gelu(float x) {
    float magnitude = abs(x);
    // 0.3275911 / sqrt(2)
    float t = 1.0 / fma(magnitude, 0.23164189, 1.0);
    float p = fma(fma(fma(fma(1.0614054, t, -1.453152), t, 1.4214137), t, -0.28449674), t, 0.2548296);
    return max(x, 0.0) - magnitude * (p * t * (0.5 * exp(-0.5 * x * x)));
}

float activate(uint kind, float x) {
    switch (kind) {
    case SILU: return x / (1.0 + exp(-x));
    case QUICK_GELU: return x / (1.0 + exp(-1.702 * x));
    case GELU: return gelu(x);
    // (1 + tanh u) / 2 = 1 / (1 + e^(-2u)), with 2 sqrt(2 / pi) folded into the constants.
    case GELU_TANH: return x / (1.0 + exp(-x * fma(x * x, 0.071354814, 1.595769)));
    case RELU: return x < 0.0 ? 0.0 : x;
    case TANH3: return 3.0 - 6.0 / (1.0 + exp(x * (2.0 / 3.0)));
    default: return x;
    }
}
