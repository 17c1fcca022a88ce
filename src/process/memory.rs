//! Giving memory back to the system.

/// Free memory at the end of the heap beyond this is given back, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 8 << 20;
/// Blocks from this size on lie outside the heap and are given back when they are freed, in bytes. It is above the usual
/// size of workloads, for which new memory each time would cost more than it saves.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_FROM: i32 = 4 << 20;

/// Has the allocator give back free memory sooner than it does by itself.
///
/// glibc raises its thresholds when large blocks are freed, up to 64 MiB that it keeps: a few slow readers would leave
/// the server so much larger for good. Other allocators are left alone.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    set_thresholds();
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn set_thresholds() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: mallopt may be called at any time, with any values. It fails for values out of range, and nothing changes.
    unsafe {
        mallopt(M_TRIM_THRESHOLD, KEPT);
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_FROM);
    }
}
