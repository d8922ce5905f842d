//! On which core are we?

/// Number of the core that the caller runs on, plus one, modulo 2^16; 0 when unknown. A few cycles.
#[inline(always)]
pub fn core_stamp() -> u16 {
    #[cfg(target_arch = "x86_64")]
    if has_rdpid() {
        let id: u64;
        // SAFETY: RDPID exists (checked), reads a register, and touches no memory.
        unsafe { std::arch::asm!("rdpid {0}", out(reg) id, options(nomem, nostack, preserves_flags)) };
        // Linux keeps the core in the low twelve bits, the NUMA node above.
        return (id as u16 & 0xfff) + 1;
    }
    current_core().map_or(0, |core| core.wrapping_add(1))
}

/// Number of the core that the caller runs on, by system call or vDSO.
fn current_core() -> Option<u16> {
    // SAFETY: sched_getcpu has no preconditions.
    u16::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_rdpid() -> bool {
    use gridnet_core::sync::{AtomicU32, Ordering};
    // 0 not asked yet, 1 no, 2 yes. Relaxed: whoever asks finds the same answer, and nothing else hangs on it.
    static HAS: AtomicU32 = AtomicU32::new(0);
    match HAS.load(Ordering::Relaxed) {
        0 => {
            // CPUID leaf 7: RDPID is bit 22 of ECX.
            let has = std::arch::x86_64::__cpuid(0).eax >= 7
                && std::arch::x86_64::__cpuid_count(7, 0).ecx & (1 << 22) != 0;
            HAS.store(1 + u32::from(has), Ordering::Relaxed);
            has
        }
        known => known == 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
    use nix::unistd::Pid;

    #[test]
    fn the_stamp_names_the_core_that_we_are_bound_to() {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        for core in (0..CpuSet::count()).filter(|c| allowed.is_set(*c).unwrap()) {
            let mut one = CpuSet::new();
            one.set(core).unwrap();
            sched_setaffinity(Pid::from_raw(0), &one).unwrap();
            assert_eq!(usize::from(core_stamp()), core + 1);
        }
        sched_setaffinity(Pid::from_raw(0), &allowed).unwrap();
    }
}
