//! The threads that kernels share, and the instruction set that they use.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{simd::Isa, workers::Workers};
use crate::{
    Error,
    backend::{DeviceError, DeviceProblem},
    graph::ELEMENT_WORK,
};

/// More threads than this are considered a mistake.
const MAX_THREADS: usize = 1024;

/// The number of multiply-adds for which it pays to wake a thread: some 20 µs of one core.
const PARALLEL_WORK: usize = 1 << 21;

/// Errors of starting a pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The requested number of threads is out of bounds.
    #[error("{requested} threads are requested, expected at most {MAX_THREADS}; use one for each core")]
    TooManyThreads {
        /// The requested number.
        requested: usize,
    },
    /// The system refused to start a thread.
    #[error("cannot start {threads} threads; use fewer")]
    Start {
        /// The requested number.
        threads: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Error {
        DeviceError::new(DeviceProblem::Unavailable, error).into()
    }
}

/// A fixed number of threads, the caller's included.
///
/// Kernels divide only rows and columns of their output among the threads, never a sum, so results do not
/// depend on the number of threads.
pub struct Pool {
    /// All threads but the caller's.
    workers: Workers,
    threads: usize,
    isa: Isa,
    /// The number of multiply-adds that is worth a thread.
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

    /// As [`Pool::new`], but kernels use the given instruction set.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn with_isa(threads: Option<NonZeroUsize>, isa: Isa) -> Result<Self, PoolError> {
        let threads =
            threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        if threads > MAX_THREADS {
            return Err(PoolError::TooManyThreads { requested: threads });
        }
        let workers = Workers::start(threads - 1).map_err(|source| PoolError::Start { threads, source })?;
        Ok(Self { workers, threads, isa, parallel_work: PARALLEL_WORK })
    }

    /// How many threads work at once, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Divides even the smallest work, so that tests of small odd shapes have more than one task.
    #[cfg(test)]
    pub(crate) fn dividing_everything(mut self) -> Self {
        self.parallel_work = 1;
        self
    }

    /// How many threads are worth using for `products` multiply-adds.
    pub(crate) fn threads_for_products(&self, products: usize) -> usize {
        self.threads.min(1 + products / self.parallel_work)
    }

    /// How many threads are worth using to read and write `elements`.
    pub(crate) fn threads_for_elements(&self, elements: usize) -> usize {
        self.threads_for_products(elements.saturating_mul(ELEMENT_WORK))
    }

    /// Runs `task` once for each index in `0..tasks`, starting in order of index, and waits for all of them.
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
        match self.threads.min(tasks) {
            0 | 1 => work(),
            threads => self.workers.run(threads - 1, &work),
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).field("isa", &self.isa).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> Result<Pool, PoolError> {
        Pool::new(NonZeroUsize::new(threads))
    }

    #[test]
    fn every_task_runs_once() {
        for threads in 1..=4 {
            for tasks in [0, 1, 2, 100] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool(threads).unwrap().parallel_for(tasks, |task| {
                    runs[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{threads} threads");
            }
        }
    }

    #[test]
    fn small_work_stays_on_one_thread() {
        let pool = pool(4).unwrap();
        assert_eq!(pool.threads_for_products(PARALLEL_WORK - 1), 1);
        assert_eq!(pool.threads_for_products(usize::MAX), 4);
        assert_eq!(pool.threads_for_elements(usize::MAX), 4);
    }

    #[test]
    fn absurd_numbers_of_threads_are_refused() {
        let error = pool(1_000_000).unwrap_err();
        assert!(matches!(error, PoolError::TooManyThreads { requested: 1_000_000 }));
    }
}
