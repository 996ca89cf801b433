//! A memory limit that concurrent runs share.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The number of bytes that runs may use together. Clones share one budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: Option<u64>,
    taken: Mutex<Taken>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    /// Bytes in use by runs and by kept graphs.
    bytes: u64,
    /// Number of runs that will return memory.
    runs: usize,
}

/// Bytes of a budget, returned when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
    is_run: bool,
}

impl MemoryBudget {
    /// A budget of `limit` bytes for the whole process, or of the memory that the system has available.
    pub fn new(limit: Option<u64>) -> MemoryBudget {
        MemoryBudget(Arc::new(Shared { limit, taken: Mutex::default(), released: Condvar::new() }))
    }

    /// Bytes in use.
    pub fn taken(&self) -> u64 {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The bytes that runs may use together; `None` for the memory that the system has available.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// Bytes that are left; `None` where there is no limit and the system does not tell what it has.
    pub fn left(&self) -> Option<u64> {
        match self.0.limit {
            Some(limit) => Some(limit.saturating_sub(self.taken())),
            None => sdq_engine::memory::left(None),
        }
    }

    /// Reserves the bytes that `plan` needs, given the remaining limit; returns the result of `plan` and the
    /// reservation. If `plan` fails while other runs hold memory, waits for them.
    ///
    /// # Errors
    /// As `plan`, when no other run holds memory.
    pub(crate) fn reserve<T, E>(
        &self,
        plan: impl Fn(Option<u64>) -> Result<(T, u64), E>,
    ) -> Result<(T, Reservation), E> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = self.0.limit.map(|limit| limit.saturating_sub(taken.bytes));
            match plan(left) {
                Ok((planned, bytes)) => {
                    taken.bytes = taken.bytes.saturating_add(bytes);
                    taken.runs += 1;
                    let reservation = Reservation { shared: self.0.clone(), bytes, is_run: true };
                    return Ok((planned, reservation));
                }
                Err(error) if taken.runs == 0 => return Err(error),
                Err(_) => {
                    taken = self.0.released.wait(taken).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Reservation {
    /// Marks the end of the run; `bytes` of its memory are kept.
    pub(crate) fn keep(mut self, bytes: u64) -> Reservation {
        let mut taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bytes = taken.bytes.saturating_sub(self.bytes).saturating_add(bytes);
        taken.runs -= usize::from(self.is_run);
        drop(taken);
        self.shared.released.notify_all();
        (self.bytes, self.is_run) = (bytes, false);
        self
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bytes = taken.bytes.saturating_sub(self.bytes);
        taken.runs -= usize::from(self.is_run);
        drop(taken);
        self.shared.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    /// A run that uses `bytes`, refused if fewer are left. Its result is the number that was left.
    fn plan(bytes: u64) -> impl Fn(Option<u64>) -> Result<(Option<u64>, u64), ()> {
        move |left| if left.is_none_or(|left| bytes <= left) { Ok((left, bytes)) } else { Err(()) }
    }

    #[test]
    fn a_run_waits_for_others_and_never_for_kept_memory() {
        let budget = MemoryBudget::new(Some(100));
        let (left, first) = budget.reserve(plan(60)).unwrap();
        assert_eq!((left, budget.taken()), (Some(100), 60));
        let (waiting, done) = (budget.clone(), mpsc::channel());
        let thread = thread::spawn(move || {
            let (left, second) = waiting.reserve(plan(70)).unwrap();
            done.0.send(left).unwrap();
            drop(second);
        });
        assert!(done.1.recv_timeout(Duration::from_millis(50)).is_err(), "there are only 40 bytes");
        let kept = first.keep(20);
        assert_eq!(done.1.recv().unwrap(), Some(80));
        thread.join().unwrap();
        // Kept memory is not returned by anyone.
        assert_eq!((budget.taken(), budget.reserve(plan(90)).map(drop)), (20, Err(())));
        drop(kept);
        assert_eq!(budget.taken(), 0);
        assert!(budget.reserve(plan(90)).is_ok());
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let budget = MemoryBudget::new(None);
        let runs: Vec<_> = (0..3).map(|_| budget.reserve(plan(1 << 40)).unwrap()).collect();
        assert_eq!(budget.taken(), 3 << 40);
        drop(runs);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn what_is_kept_again_takes_the_place_of_what_was_kept() {
        let budget = MemoryBudget::new(Some(100));
        let (_, run) = budget.reserve(plan(60)).unwrap();
        let kept = run.keep(30);
        assert_eq!(budget.taken(), 30);
        // There are no other runs, so a run that does not fit fails at once.
        assert_eq!(budget.reserve(plan(71)).map(drop), Err(()));
        let (left, second) = budget.reserve(plan(70)).unwrap();
        assert_eq!((left, budget.taken()), (Some(70), 100));
        let kept = kept.keep(10);
        assert_eq!(budget.taken(), 80);
        drop((second, kept));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_run_may_take_more_than_is_left_where_its_plan_says_so() {
        let budget = MemoryBudget::new(Some(10));
        let greedy = |left| Ok::<_, ()>((left, u64::MAX));
        let (left, first) = budget.reserve(greedy).unwrap();
        assert_eq!((left, budget.taken()), (Some(10), u64::MAX));
        // The sum never exceeds the limit, and nothing is left.
        let (left, second) = budget.reserve(greedy).unwrap();
        assert_eq!((left, budget.taken()), (Some(0), u64::MAX));
        drop((first, second));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn clones_are_one_budget() {
        let budget = MemoryBudget::new(Some(10));
        let clone = budget.clone();
        let (_, run) = clone.reserve(plan(4)).unwrap();
        assert_eq!((budget.taken(), clone.taken()), (4, 4));
        drop(run);
        assert_eq!(budget.taken(), 0);
    }
}
