//! The threads that kernels share, and the instruction set they use.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::simd::Isa;

/// More threads than this are taken for a mistake.
const MAX_THREADS: usize = 1024;

/// Multiply-adds, or elements read, below which waking a thread costs more than it saves (some 20 µs).
const PARALLEL_WORK: usize = 1 << 19;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The number of threads asked for is out of bounds.
    #[error("{requested} threads are more than {MAX_THREADS}: ask for as many as the machine has cores")]
    TooManyThreads {
        /// The number asked for.
        requested: usize,
    },
    /// The system refused to start a thread.
    #[error("cannot start {threads} threads: ask for fewer")]
    Start {
        /// The number asked for.
        threads: usize,
        /// What the system said.
        source: ThreadPoolBuildError,
    },
}

/// A fixed number of threads, the caller's included.
///
/// Kernels divide only rows and columns of their output among the threads, never a sum, so results do not depend on
/// how many there are.
#[derive(Debug)]
pub struct Pool {
    /// All threads but the caller's; none if that is the only one.
    helpers: Option<ThreadPool>,
    threads: usize,
    isa: Isa,
    /// Work that is worth a thread.
    parallel_work: usize,
}

impl Pool {
    /// Starts a pool of `threads` threads, by default one for each core the process may use.
    ///
    /// # Errors
    /// If there are more than 1024, or the system cannot start them.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, PoolError> {
        Self::with_isa(threads, Isa::best())
    }

    /// As [`Pool::new`], with kernels held to the given instruction set.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn with_isa(threads: Option<NonZeroUsize>, isa: Isa) -> Result<Self, PoolError> {
        let threads =
            threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        if threads > MAX_THREADS {
            return Err(PoolError::TooManyThreads { requested: threads });
        }
        let helpers = match threads {
            1 => None,
            _ => Some(
                ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("sdq-{}", i + 1))
                    .build()
                    .map_err(|source| PoolError::Start { threads, source })?,
            ),
        };
        Ok(Self { helpers, threads, isa, parallel_work: PARALLEL_WORK })
    }

    /// How many threads work at once, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Divides even the smallest work, so that tests of odd little shapes see more than one task.
    #[cfg(test)]
    pub(crate) fn dividing_everything(mut self) -> Self {
        self.parallel_work = 1;
        self
    }

    /// How many threads are worth using for `work` multiply-adds or elements.
    pub(crate) fn threads_for(&self, work: usize) -> usize {
        self.threads.min(1 + work / self.parallel_work)
    }

    /// Runs `task` once for each index in `0..tasks`, in order of index as threads come free, and waits for the last.
    pub(crate) fn parallel_for(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    break;
                }
                task(index);
            }
        };
        match &self.helpers {
            Some(helpers) if tasks > 1 => helpers.in_place_scope(|scope| {
                for _ in 1..self.threads.min(tasks) {
                    scope.spawn(|_| work());
                }
                work();
            }),
            _ => work(),
        }
    }
}
