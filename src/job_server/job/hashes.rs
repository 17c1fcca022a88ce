//! The hashes by which jobs are found. All are keyed, since peers choose what is hashed.

use std::hash::{BuildHasher, Hash};

use highway::{HighwayHash as _, HighwayHasher, Key};

use super::{Jobs, low_half};

impl Jobs {
    /// The digest of a workload that is not in memory. Keyed, so that peers cannot make two workloads
    /// collide.
    pub(super) fn digest(&self, workload: &[u8]) -> [u8; 16] {
        let [low, high] = self.workload_hasher().hash128(workload);
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    pub(super) fn hash(&self, value: impl Hash) -> u32 {
        folded(self.hasher.hash_one(value))
    }

    /// The hash of a workload that serves as the unique id. It may have many MiB, of which SipHash takes only
    /// 1.5 GB a second.
    pub(super) fn hash_workload(&self, workload: &[u8]) -> u32 {
        folded(self.workload_hasher().hash64(workload))
    }

    fn workload_hasher(&self) -> HighwayHasher {
        HighwayHasher::new(Key([0, 1, 2, 3].map(|word: u64| self.hasher.hash_one(word))))
    }
}

fn folded(hash: u64) -> u32 {
    low_half(hash >> 32) ^ low_half(hash)
}
