//! Slot numbers with a type for each kind of thing, so that they cannot be mistaken for each other.
//!
//! A slot is a number of 32 bits. The highest number stands for no slot, as at the end of a list: an `Option`
//! would double the size.

use super::ConnectionId;

/// The slot number of an entry in a [`Slab`](super::slab::Slab).
pub(super) trait SlotId: Copy + Eq {
    /// No slot.
    const NONE: Self;

    /// The slot of this number.
    fn new(number: u32) -> Self;

    /// Its number.
    fn number(self) -> u32;

    /// The slot at an index of a table. The limits of all tables are far below 32 bits.
    fn from_index(index: usize) -> Self {
        u32::try_from(index).map_or(Self::NONE, Self::new)
    }

    /// Its index in a table.
    fn index(self) -> usize {
        self.number() as usize
    }
}

impl SlotId for u32 {
    const NONE: Self = Self::MAX;

    fn new(number: u32) -> Self {
        number
    }

    fn number(self) -> u32 {
        self
    }
}

impl SlotId for usize {
    const NONE: Self = Self::MAX;

    fn new(number: u32) -> Self {
        number as Self
    }

    fn number(self) -> u32 {
        u32::try_from(self).unwrap_or(u32::MAX)
    }

    fn from_index(index: usize) -> Self {
        index
    }

    fn index(self) -> usize {
        self
    }
}

macro_rules! slot_ids {
    ($($(#[$attribute:meta])* $name:ident;)*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub(super) struct $name(u32);

        impl SlotId for $name {
            const NONE: Self = Self(u32::MAX);

            fn new(number: u32) -> Self {
                Self(number)
            }

            fn number(self) -> u32 {
                self.0
            }
        }
    )*};
}

slot_ids! {
    /// The slot of an ability.
    AbilitySlot;
    /// The slot of a connection: that of its [`ConnectionId`], without the generation.
    ConnectionSlot;
    /// The slot of a function.
    FunctionSlot;
    /// The slot of a run.
    RunSlot;
    /// The slot of a wait.
    WaitSlot;
}

impl ConnectionSlot {
    /// The slot of a connection, which may have ended.
    pub(super) const fn of(id: ConnectionId) -> Self {
        Self(id.slot)
    }
}
