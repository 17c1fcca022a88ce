//! A queue that grows in chunks: no elements are moved as it grows, however long it is.

use std::collections::VecDeque;

/// Maximum length of a chunk.
const PIECE: usize = 256;

/// A FIFO queue.
#[derive(Debug)]
pub(super) struct ChunkedQueue<T> {
    /// Only the last chunk may be empty.
    pieces: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for ChunkedQueue<T> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), len: 0 }
    }
}

impl<T> ChunkedQueue<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push_back(&mut self, value: T) {
        self.len += 1;
        match self.pieces.back_mut() {
            Some(last) if last.len() < PIECE => last.push_back(value),
            _ => self.pieces.push_back(VecDeque::from([value])),
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let value = self.pieces.front_mut()?.pop_front()?;
        self.len -= 1;
        if self.pieces.len() > 1 && self.pieces.front().is_some_and(VecDeque::is_empty) {
            self.pieces.pop_front();
        }
        Some(value)
    }

    /// All elements, front first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Model test against the standard library's queue.
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((any::<bool>(), 0..700_usize), 1..40)) {
            let (mut queue, mut model, mut next) = (ChunkedQueue::default(), VecDeque::new(), 0);
            for (pushes, count) in steps {
                for _ in 0..count {
                    if pushes {
                        next += 1;
                        queue.push_back(next);
                        model.push_back(next);
                    } else {
                        prop_assert_eq!(queue.pop_front(), model.pop_front());
                    }
                }
                prop_assert!(queue.iter().eq(&model));
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(queue.pieces.iter().all(|piece| piece.len() <= PIECE));
                prop_assert!(queue.pieces.iter().rev().skip(1).all(|piece| !piece.is_empty()));
            }
        }
    }
}
