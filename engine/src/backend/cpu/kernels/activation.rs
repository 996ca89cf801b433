//! Activation functions, alone or at the end of a product.

use crate::backend::cpu::simd::{Simd, math};
use crate::graph::Activation;

impl Activation {
    /// Applies the function to every lane.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, isa: S, x: S::Vector) -> S::Vector {
        match self {
            Self::Silu => math::swish(isa, x, 1.0),
            Self::QuickGelu => math::swish(isa, x, 1.702),
            Self::Gelu => math::gelu(isa, x),
            Self::GeluTanh => math::gelu_tanh(isa, x),
            // NaN stays NaN.
            Self::Relu => isa.select_less(x, isa.splat(0.0), isa.splat(0.0), x),
            Self::Tanh3 => math::tanh3(isa, x),
        }
    }
}
