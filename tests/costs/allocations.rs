//! Counts what the code of a thread allocates.
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; this one passes everything on"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn one() {
    // Gone at the end of a thread, when nobody counts.
    let _ = MADE.try_with(|made| made.set(made.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        one();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        one();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        one();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// How often this allocates (or grows what it has) on this thread.
pub fn count(work: &dyn Fn()) -> u64 {
    let before = MADE.with(Cell::get);
    work();
    MADE.with(Cell::get) - before
}

#[test]
fn growth_counts_as_an_allocation() {
    let grown = count(&|| {
        let mut list = vec![1_u64];
        list.push(2);
        std::hint::black_box(list);
    });
    assert_eq!(grown, 2);
}
