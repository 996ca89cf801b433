//! Turns dispatches in order into commands: barriers only where one dispatch needs the result of another, and
//! submissions short enough for drivers that stop long ones. Independent of Vulkan.

use super::kernels::{Push, Specialized};

/// The buffer that contains a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Tensors, and temporary ranges between the kernels of a node.
    Arena,
    /// Lists of blocks.
    Tables,
    /// Sums of the columns of integer weights.
    ColumnSums,
    /// The buffer of weights with this number.
    Weights(u32),
}

/// A range of bytes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Region {
    pub(super) place: Place,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Region {
    fn overlaps(&self, other: &Region) -> bool {
        self.place == other.place
            && self.offset < other.offset + other.size
            && other.offset < self.offset + self.size
    }
}

/// The range that a kernel accesses under a binding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) number: u32,
    pub(super) region: Region,
    pub(super) written: bool,
}

/// A kernel over some workgroups.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) kernel: Specialized,
    pub(super) bindings: Vec<Binding>,
    pub(super) push: Push,
    pub(super) groups: [u32; 2],
    /// Multiply-adds, or other work of the same duration.
    pub(super) work: u64,
    /// The node of the graph that it belongs to.
    pub(super) node: usize,
}

/// An item of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Makes earlier writes visible to later items.
    Barrier,
    /// Some workgroups of dispatch `index`: `count` of them along the second axis, from `first` on.
    Dispatch { index: usize, first: u32, count: u32 },
}

/// Maximum work of a submission. The slowest devices take about half a second for it, and drivers time out
/// after two.
const SUBMISSION_WORK: u64 = 10_000_000_000;

/// The submissions of a run of a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) submissions: Vec<Vec<Item>>,
}

/// The demands of a graph's run on a device. They are counts and not times, so they are the same on every
/// machine.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Kernels started.
    pub(super) dispatches: usize,
    /// Waits for earlier kernels.
    pub(super) barriers: usize,
    /// Submissions of the work.
    pub(super) submissions: usize,
    /// Bytes that kernels access, counted once for every dispatch that accesses them.
    pub(super) bytes: u64,
}

impl Schedule {
    /// Schedules the dispatches for which `is_run` is true.
    pub(super) fn new(dispatches: &[Dispatch], is_run: impl Fn(&Dispatch) -> bool) -> Schedule {
        let mut submissions = vec![Vec::new()];
        let mut pending = Pending::default();
        let mut work = 0;
        for (index, dispatch) in dispatches.iter().enumerate().filter(|(_, dispatch)| is_run(dispatch)) {
            let needs_barrier = pending.conflicts(dispatch);
            let parts =
                dispatch.work.div_ceil(SUBMISSION_WORK).clamp(1, u64::from(dispatch.groups[1].max(1)));
            let rows = dispatch.groups[1].div_ceil(parts as u32);
            let mut first = 0;
            while first < dispatch.groups[1] {
                let count = rows.min(dispatch.groups[1] - first);
                let part = (dispatch.work / u64::from(dispatch.groups[1])).saturating_mul(u64::from(count));
                if work > 0 && work + part > SUBMISSION_WORK {
                    submissions.push(Vec::new());
                    work = 0;
                }
                work += part;
                let last = submissions.last_mut().expect("there is always one");
                if needs_barrier && first == 0 {
                    last.push(Item::Barrier);
                }
                last.push(Item::Dispatch { index, first, count });
                first += count;
            }
            if needs_barrier {
                pending = Pending::default();
            }
            pending.add(dispatch);
        }
        Schedule { submissions }
    }

    /// The counters of a run.
    #[cfg(test)]
    pub(super) fn counters(&self, dispatches: &[Dispatch]) -> Counters {
        let mut counters = Counters { submissions: self.submissions.len(), ..Counters::default() };
        for item in self.submissions.iter().flatten() {
            match item {
                Item::Barrier => counters.barriers += 1,
                Item::Dispatch { index, first, .. } => {
                    counters.dispatches += 1;
                    if *first == 0 {
                        let bindings = dispatches[*index].bindings.iter();
                        counters.bytes += bindings.map(|binding| binding.region.size).sum::<u64>();
                    }
                }
            }
        }
        counters
    }
}

/// Ranges that have been read and written since the last barrier.
#[derive(Default)]
struct Pending {
    read: Vec<Region>,
    written: Vec<Region>,
}

impl Pending {
    fn conflicts(&self, dispatch: &Dispatch) -> bool {
        let meets = |regions: &[Region], binding: &Binding| {
            regions.iter().any(|region| region.overlaps(&binding.region))
        };
        dispatch
            .bindings
            .iter()
            .any(|binding| meets(&self.written, binding) || (binding.written && meets(&self.read, binding)))
    }

    fn add(&mut self, dispatch: &Dispatch) {
        for binding in &dispatch.bindings {
            let regions = if binding.written { &mut self.written } else { &mut self.read };
            regions.push(binding.region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Kernel;
    use super::*;

    fn arena(offset: u64, size: u64) -> Region {
        Region { place: Place::Arena, offset, size }
    }

    fn dispatch(reads: &[Region], writes: Region, work: u64, rows: u32) -> Dispatch {
        let read = |region: &Region| Binding { number: 0, region: *region, written: false };
        let mut bindings: Vec<Binding> = reads.iter().map(read).collect();
        bindings.push(Binding { number: 1, region: writes, written: true });
        let kernel = Specialized { kernel: Kernel::Move, constants: [0; 7] };
        Dispatch { kernel, bindings, push: Push::new(0_u32), groups: [1, rows], work, node: 0 }
    }

    fn barriers_before(dispatches: &[Dispatch]) -> Vec<bool> {
        let schedule = Schedule::new(dispatches, |_| true);
        let items: Vec<&Item> = schedule.submissions.iter().flatten().collect();
        let at = |index: usize| {
            let place =
                items.iter().position(|item| matches!(item, Item::Dispatch { index: i, .. } if *i == index));
            place.unwrap() > 0 && *items[place.unwrap() - 1] == Item::Barrier
        };
        (0..dispatches.len()).map(at).collect()
    }

    #[test]
    fn barriers_stand_where_results_are_needed_and_places_are_used_again_and_nowhere_else() {
        let [a, b, c, d] = [0, 64, 128, 192].map(|offset| arena(offset, 64));
        let weights = Region { place: Place::Weights(0), offset: 0, size: 64 };
        // Two dispatches that only read the same range, one that needs the results of both, and one that
        // overwrites the range that it read.
        let chain = [
            dispatch(&[a, weights], b, 0, 1),
            dispatch(&[a, weights], c, 0, 1),
            dispatch(&[b, c], d, 0, 1),
            dispatch(&[weights], b, 0, 1),
        ];
        assert_eq!(barriers_before(&chain), [false, false, true, true]);
        // Adjacent ranges do not overlap; with one byte more they do. The same range of another place is
        // independent.
        assert_eq!(barriers_before(&[dispatch(&[a], b, 0, 1), dispatch(&[c], d, 0, 1)]), [false, false]);
        let longer = arena(60, 8);
        assert_eq!(barriers_before(&[dispatch(&[c], a, 0, 1), dispatch(&[longer], d, 0, 1)]), [false, true]);
        assert_eq!(
            barriers_before(&[dispatch(&[c], a, 0, 1), dispatch(&[weights], d, 0, 1)]),
            [false, false]
        );
        // Both write the same range.
        assert_eq!(barriers_before(&[dispatch(&[c], a, 0, 1), dispatch(&[d], a, 0, 1)]), [false, true]);
    }

    #[test]
    fn submissions_are_short_and_everything_is_in_one_of_them() {
        let place = |index: u64| arena(64 * index, 64);
        let work = [1, SUBMISSION_WORK / 2, SUBMISSION_WORK / 2, 5 * SUBMISSION_WORK / 2, 3];
        let dispatches: Vec<Dispatch> = (0..)
            .zip(work)
            .map(|(index, work)| dispatch(&[place(index)], place(index + 1), work, 1000))
            .collect();
        let schedule = Schedule::new(&dispatches, |_| true);
        let mut done = vec![0; dispatches.len()];
        for submission in &schedule.submissions {
            let mut sum = 0;
            for item in submission {
                if let Item::Dispatch { index, first, count } = item {
                    assert_eq!(done[*index], *first);
                    done[*index] += count;
                    sum += dispatches[*index].work / 1000 * u64::from(*count);
                }
            }
            assert!(sum <= SUBMISSION_WORK, "{sum}");
        }
        assert_eq!(done, [1000; 5]);
        let counters = schedule.counters(&dispatches);
        assert_eq!((counters.barriers, counters.submissions), (4, schedule.submissions.len()));
        assert_eq!(counters.bytes, 5 * 128);
        assert_eq!(Schedule::new(&dispatches, |_| false).counters(&dispatches).dispatches, 0);
    }
}
