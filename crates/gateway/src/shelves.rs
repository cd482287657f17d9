//! A list that grows without moving what it holds.
//!
//! A vector that grows copies everything to a place twice as large and leaves a hole where it was.
//! With thousands of calls those holes took a third of the memory of calls.

use std::ops::{Index, IndexMut};

/// Items of so many bytes lie together: a page, which every allocator can have without a rest.
const SHELF_BYTES: usize = 4_096;

/// See the module. Every shelf but the last one is full.
#[derive(Debug)]
pub(crate) struct Shelves<T>(Vec<Vec<T>>);

impl<T> Shelves<T> {
    /// Items on a shelf.
    const SHELF: usize = SHELF_BYTES / size_of::<T>();

    pub(crate) fn len(&self) -> usize {
        let full = self.0.len().saturating_sub(1) * Self::SHELF;
        full + self.0.last().map_or(0, Vec::len)
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.0.last_mut() {
            Some(last) if last.len() < Self::SHELF => last.push(item),
            _ => {
                let mut shelf = Vec::with_capacity(Self::SHELF);
                shelf.push(item);
                self.0.push(shelf);
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index / Self::SHELF)?.get(index % Self::SHELF)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.0
            .get_mut(index / Self::SHELF)?
            .get_mut(index % Self::SHELF)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Index<usize> for Shelves<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.0[index / Self::SHELF][index % Self::SHELF]
    }
}

impl<T> IndexMut<usize> for Shelves<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.0[index / Self::SHELF][index % Self::SHELF]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELF: usize = Shelves::<usize>::SHELF;

    #[test]
    fn what_is_put_there_stays_where_it_is() {
        let mut shelves = Shelves::default();
        let mut first = std::ptr::null();
        for number in 0..3 * SHELF + 5 {
            assert_eq!(shelves.len(), number);
            assert!(shelves.get(number).is_none());
            shelves.push(number);
            assert_eq!(shelves[number], number);
            if number == 0 {
                first = &raw const shelves[0];
            }
        }
        assert_eq!(&raw const shelves[0], first);
        shelves[SHELF] = 0;
        *shelves.get_mut(2 * SHELF).unwrap() += 1;
        shelves.iter_mut().for_each(|item| *item += 1);
        let all: Vec<usize> = shelves.iter().copied().collect();
        let mut expected: Vec<usize> = (1..=3 * SHELF + 5).collect();
        (expected[SHELF], expected[2 * SHELF]) = (1, 2 * SHELF + 2);
        assert_eq!(all, expected);
    }
}
