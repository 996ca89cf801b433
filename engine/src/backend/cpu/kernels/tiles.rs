//! Gives disjoint tiles of an output to several threads.
#![expect(unsafe_code, reason = "tiles of one output are written by several threads")]

use std::marker::PhantomData;
use std::ops::Range;

use crate::backend::cpu::pool::Pool;

/// The division of an output `[groups, rows, columns]` into tiles. No tile spans two groups.
pub(super) struct Grid {
    pub(super) groups: usize,
    /// Rows of each group.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) tile_rows: usize,
    pub(super) tile_columns: usize,
}

impl Grid {
    fn down(&self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }

    fn across(&self) -> usize {
        self.columns.div_ceil(self.tile_columns)
    }

    fn tiles(&self) -> usize {
        self.groups * self.down() * self.across()
    }
}

/// One tile of an output, to which it has exclusive access.
pub(super) struct Tile<'a, T> {
    /// The group that contains it.
    pub(super) group: usize,
    /// Its rows, counted from the start of the group.
    pub(super) rows: Range<usize>,
    /// Its columns.
    pub(super) columns: Range<usize>,
    /// The element of its first row and column.
    start: *mut T,
    /// Number of elements from one row to the next.
    stride: usize,
    output: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// The part of the tile in its `row`th row, counted from the top of the tile.
    #[inline(always)]
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows.len(), "row {row} of a tile of {}", self.rows.len());
        // SAFETY: `for_each_tile` made the tile inside the output, which it borrows mutably meanwhile, and gave the
        // tile's elements to nobody else; `&mut self` keeps two rows from being alive at once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns.len()) }
    }
}

/// The start of an output, to be sent to the threads that fill its tiles.
struct Start<T>(*mut T);

// SAFETY: threads reach through it only the tiles they were given, and `T: Send` lets them write there.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    fn of(out: &mut [T], grid: &Grid) -> Start<T> {
        assert_eq!(out.len(), grid.groups * grid.rows * grid.columns, "output length");
        assert!(grid.tile_rows > 0 && grid.tile_columns > 0, "empty tiles");
        Start(out.as_mut_ptr())
    }

    /// # Safety
    /// The start must be that of an output cut by `grid`, borrowed for as long as the tile lives, and nobody
    /// else may have the tile of this index.
    unsafe fn tile<'a>(&self, grid: &Grid, index: usize) -> Tile<'a, T> {
        let &Grid { rows, columns, tile_rows, tile_columns, .. } = grid;
        let (down, across) = (grid.down(), grid.across());
        let (group, index) = (index / (down * across), index % (down * across));
        let first_row = index / across * tile_rows;
        let first_column = index % across * tile_columns;
        let offset = (group * rows + first_row) * columns + first_column;
        Tile {
            group,
            rows: first_row..rows.min(first_row + tile_rows),
            columns: first_column..columns.min(first_column + tile_columns),
            // SAFETY: the tile's first element lies inside the output, whose length `of` has checked.
            start: unsafe { self.0.add(offset) },
            stride: columns,
            output: PhantomData,
        }
    }
}

/// Calls `work` once for every tile of `out`, on all threads of the pool.
///
/// # Panics
/// If `out` is not `groups * rows * columns` long or a tile has no rows or columns.
pub(super) fn for_each_tile<T: Send>(
    pool: &Pool,
    out: &mut [T],
    grid: &Grid,
    work: impl Fn(Tile<'_, T>) + Sync,
) {
    let start = &Start::of(out, grid);
    pool.parallel_for(grid.tiles(), |index| {
        // SAFETY: `start` is that of an output cut by `grid`, and every index comes once.
        work(unsafe { start.tile(grid, index) });
    });
}

/// As [`for_each_tile`] for two outputs that are divided alike: `work` gets the tiles of both at the same
/// place.
///
/// # Panics
/// As [`for_each_tile`], or if the outputs have different numbers of tiles.
pub(super) fn for_each_tile_of_two<T: Send, U: Send>(
    pool: &Pool,
    (first, second): (&mut [T], &mut [U]),
    grids: &[Grid; 2],
    work: impl Fn((Tile<'_, T>, Tile<'_, U>)) + Sync,
) {
    let (first, second) = (&Start::of(first, &grids[0]), &Start::of(second, &grids[1]));
    assert_eq!(grids[0].tiles(), grids[1].tiles(), "tiles of two outputs");
    pool.parallel_for(grids[0].tiles(), |index| {
        // SAFETY: each is the start of an output cut by its grid, and every index comes once.
        work(unsafe { (first.tile(&grids[0], index), second.tile(&grids[1], index)) });
    });
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn tiles_cover_the_output_once() {
        let pool = Pool::new(NonZeroUsize::new(3)).unwrap();
        for [groups, rows, columns, tile_rows, tile_columns] in [
            [1, 1, 1, 1, 1],
            [2, 5, 7, 2, 3],
            [3, 4, 8, 4, 8],
            [2, 3, 5, 10, 10],
            [0, 3, 5, 1, 1],
            [2, 0, 5, 1, 1],
        ] {
            let grid = Grid { groups, rows, columns, tile_rows, tile_columns };
            let mut out = vec![usize::MAX; groups * rows * columns];
            for_each_tile(&pool, &mut out, &grid, |mut tile| {
                for i in 0..tile.rows.len() {
                    let row = tile.group * rows + tile.rows.start + i;
                    let first = row * columns + tile.columns.start;
                    for (j, out) in tile.row_mut(i).iter_mut().enumerate() {
                        assert_eq!(*out, usize::MAX);
                        *out = first + j;
                    }
                }
            });
            assert!(out.iter().enumerate().all(|(i, &written)| i == written));
        }
    }

    #[test]
    #[should_panic(expected = "output length")]
    fn an_output_of_another_size_is_refused() {
        let pool = Pool::new(NonZeroUsize::new(1)).unwrap();
        let grid = Grid { groups: 1, rows: 2, columns: 2, tile_rows: 1, tile_columns: 1 };
        for_each_tile(&pool, &mut [0; 3], &grid, |_| ());
    }
}
