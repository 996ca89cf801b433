//! Step caching: parts of an evaluation of the U-Net that are reused from an earlier one. `docs/caching.md`
//! has costs and errors.

use std::{fmt, str::FromStr};

use super::{Pipeline, Settings, guidance::Guidance};
use crate::Error;

/// The part of the U-Net that most evaluations leave out. Evaluation 0 of a run and every `every`-th after it
/// are full and fill the cache that the others read. Written as `deepcache:EVERY`, `deepcache:EVERY:SKIP` and
/// `guidance:EVERY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Nothing: every evaluation is full.
    #[default]
    None,
    /// The network below a skip connection: DeepCache. Ma et al. 2023, arXiv:2312.00858, section 3.2, with equal
    /// intervals.
    Deep {
        /// The interval between full evaluations, at least 2.
        every: usize,
        /// The deepest skip connection that is still computed. 0 is that of the first convolution.
        skip: usize,
    },
    /// All branches of guidance except the prompt's: the difference that guidance made at the last full
    /// evaluation is added again, `noise_pred = cond + (guided - cond)`. After the CFG-Cache of Lv et al.
    /// 2024, arXiv:2410.19355, section 3.3, without its weighting by frequency. Without guidance, all
    /// evaluations are full.
    Guidance {
        /// The interval between full evaluations, at least 2.
        every: usize,
    },
}

/// The accepted forms of [`Caching::from_str`].
const EXPECTED: &str =
    "expected deepcache:EVERY, deepcache:EVERY:SKIP or guidance:EVERY, such as deepcache:3";

impl FromStr for Caching {
    type Err = String;

    fn from_str(text: &str) -> Result<Caching, String> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let numbers: Option<Vec<usize>> = parts.map(|part| part.parse().ok()).collect();
        match (kind, numbers.as_deref()) {
            ("deepcache", Some(&[every])) => Ok(Caching::Deep { every, skip: 0 }),
            ("deepcache", Some(&[every, skip])) => Ok(Caching::Deep { every, skip }),
            ("guidance", Some(&[every])) => Ok(Caching::Guidance { every }),
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

impl fmt::Display for Caching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caching::None => f.write_str("none"),
            Caching::Deep { every, skip: 0 } => write!(f, "deepcache:{every}"),
            Caching::Deep { every, skip } => write!(f, "deepcache:{every}:{skip}"),
            Caching::Guidance { every } => write!(f, "guidance:{every}"),
        }
    }
}

impl Caching {
    /// The skip connection below which the network is cached.
    pub(super) fn deep_skip(self) -> Option<usize> {
        match self {
            Caching::Deep { skip, .. } => Some(skip),
            Caching::None | Caching::Guidance { .. } => None,
        }
    }

    /// Whether branches of guidance are cached, and therefore evaluated one after the other.
    pub(super) fn splits_guidance(self) -> bool {
        matches!(self, Caching::Guidance { .. })
    }
}

/// The full evaluations of a run. Steps are indices of evaluations in the whole schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheSchedule {
    pub(super) caching: Caching,
    first_step: usize,
}

impl CacheSchedule {
    /// No caching.
    pub(super) const NONE: CacheSchedule = CacheSchedule { caching: Caching::None, first_step: 0 };

    /// Whether some evaluations are not full.
    pub(super) fn caches(self) -> bool {
        self.caching != Caching::None
    }

    /// Whether the evaluation at `step` is full.
    pub(super) fn is_full(self, step: usize) -> bool {
        self.last_full(step) == step
    }

    /// The last full evaluation up to `step`.
    pub(super) fn last_full(self, step: usize) -> usize {
        match self.caching {
            Caching::None => step,
            Caching::Deep { every, .. } | Caching::Guidance { every } => {
                step - (step - self.first_step) % every
            }
        }
    }
}

impl Settings {
    pub(super) fn cache_schedule(&self) -> CacheSchedule {
        match (self.request.caching, self.guidance) {
            (Caching::Guidance { .. }, Guidance::None) => CacheSchedule::NONE,
            (caching, _) => CacheSchedule { caching, first_step: self.first_step },
        }
    }
}

impl Pipeline {
    /// Fails if this model does not support `caching`.
    pub(super) fn check_caching(&self, caching: Caching) -> Result<(), Error> {
        let refused = |expected: &str| {
            let (found, expected) = (caching.to_string(), expected.to_owned());
            Err(Error::Request { field: "cache", found, expected })
        };
        let deep_skips = self.model.denoiser.deep_skips();
        match caching {
            Caching::Deep { every: 0 | 1, .. } | Caching::Guidance { every: 0 | 1 } => {
                refused("an interval of at least 2 evaluations")
            }
            Caching::Deep { skip, .. } if skip >= deep_skips => match deep_skips.checked_sub(1) {
                Some(deepest) => refused(&format!("a skip from 0 to {deepest}")),
                None => refused("another kind of caching, because the model has no layers below a skip"),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kind_reads_as_it_is_written() {
        for text in ["deepcache:3", "deepcache:2:4", "guidance:2"] {
            assert_eq!(text.parse::<Caching>().map(|caching| caching.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("deepcache:5:0".parse(), Ok(Caching::Deep { every: 5, skip: 0 }));
        for wrong in [
            "",
            "none",
            "deepcache",
            "deepcache:",
            "deepcache:-1",
            "guidance:2:1",
            "tgate:5",
            "deepcache:1:2:3",
        ] {
            assert_eq!(wrong.parse::<Caching>(), Err(EXPECTED.to_owned()), "{wrong}");
        }
    }

    #[test]
    fn full_evaluations_are_counted_from_the_first_of_the_run() {
        let schedule = CacheSchedule { caching: Caching::Guidance { every: 3 }, first_step: 5 };
        let full: Vec<usize> = (5..13).filter(|&step| schedule.is_full(step)).collect();
        assert_eq!(full, [5, 8, 11]);
        assert_eq!([5, 7, 8, 10].map(|step| schedule.last_full(step)), [5, 5, 8, 8]);
        assert!((0..9).all(|step| CacheSchedule::NONE.is_full(step)));
    }

    #[test]
    fn what_is_cached_is_below_a_skip_or_in_the_other_branches() {
        let (deep, guidance) = (Caching::Deep { every: 3, skip: 2 }, Caching::Guidance { every: 3 });
        assert_eq!([Caching::None, deep, guidance].map(Caching::deep_skip), [None, Some(2), None]);
        assert_eq!([Caching::None, deep, guidance].map(Caching::splits_guidance), [false, false, true]);
        assert_eq!(
            [Caching::None, deep, guidance].map(|caching| caching.to_string()),
            ["none", "deepcache:3:2", "guidance:3"]
        );
    }

    proptest! {
        /// Compares with counting from the first evaluation on.
        #[test]
        fn every_so_many_evaluations_one_is_full(every in 2..9_usize, first_step in 0..20_usize, deep in any::<bool>()) {
            let caching = if deep { Caching::Deep { every, skip: 0 } } else { Caching::Guidance { every } };
            let schedule = CacheSchedule { caching, first_step };
            prop_assert!(schedule.caches());
            let mut last_full = first_step;
            for step in first_step..first_step + 40 {
                if step == last_full + every {
                    last_full = step;
                }
                prop_assert_eq!((schedule.last_full(step), schedule.is_full(step)), (last_full, step == last_full));
            }
        }
    }

    #[test]
    fn numbers_of_a_kind_are_whole_and_fit() {
        for wrong in [
            "deepcache:3:",
            "deepcache:3.0",
            "guidance: 2",
            "guidance:99999999999999999999",
            "Guidance:2",
            "guidance:2 ",
        ] {
            assert_eq!(wrong.parse::<Caching>(), Err(EXPECTED.to_owned()), "{wrong}");
        }
        // Parsing does not check whether a model supports it.
        assert_eq!("guidance:0".parse(), Ok(Caching::Guidance { every: 0 }));
    }
}
