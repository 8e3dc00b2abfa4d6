//! Reads of kernel memory, at offsets that the loader took from the running
//! kernel's BTF.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel};
use guard_common::offsets::Offsets;

/// Filled by the loader, frozen before the programs are verified: the
/// verifier knows each value as a constant.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::from_array([0; Offsets::FIELDS.len()]);

/// One offset, by name.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::load_offset(core::mem::offset_of!(
            guard_common::offsets::Offsets,
            $field
        ))
    };
}
pub(crate) use offset;

/// Reads one offset. Volatile, so that the compiler does not take the zeros
/// that it sees for the values that the loader writes.
#[inline(always)]
pub fn load_offset(at: usize) -> usize {
    // SAFETY: `at` is the place of a u32 in a live static.
    unsafe {
        core::ptr::read_volatile((&raw const OFFSETS).cast::<u8>().add(at).cast::<u32>()) as usize
    }
}

/// A pointer that the verifier knows the type of: its fields are loaded directly.
#[derive(Clone, Copy)]
pub struct Typed(pub *const c_void);

impl Typed {
    /// Loads a pointer field.
    ///
    /// # Safety
    /// `offset` must be that of a pointer field of this object's type: the
    /// verifier refuses the program otherwise.
    #[inline(always)]
    pub unsafe fn pointer(self, offset: usize) -> Self {
        // SAFETY: by contract; a fault reads as zero (BPF_PROBE_MEM).
        Self(unsafe {
            core::ptr::read_volatile(self.0.cast::<u8>().add(offset).cast::<*const c_void>())
        })
    }

    /// Loads a 32-bit field.
    ///
    /// # Safety
    /// As for [`Self::pointer`].
    #[inline(always)]
    pub unsafe fn u32(self, offset: usize) -> u32 {
        // SAFETY: by contract.
        unsafe { core::ptr::read_volatile(self.0.cast::<u8>().add(offset).cast::<u32>()) }
    }

    /// Loads a 16-bit field.
    ///
    /// # Safety
    /// As for [`Self::pointer`].
    #[inline(always)]
    pub unsafe fn u16(self, offset: usize) -> u16 {
        // SAFETY: by contract.
        unsafe { core::ptr::read_volatile(self.0.cast::<u8>().add(offset).cast::<u16>()) }
    }

    /// The address as a number, for pointer chains that have no type.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }
}

/// Reads from an untyped kernel address.
#[inline(always)]
pub fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a fault.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// The running task.
#[inline(always)]
pub fn current() -> Typed {
    // SAFETY: the helper always returns the running task.
    Typed(unsafe { bpf_get_current_task_btf() }.cast::<c_void>())
}

/// `value & MASK`, in an instruction that the compiler cannot argue away: it
/// may know a bound that the verifier does not see.
#[inline(always)]
pub fn bounded<const MASK: i32>(value: u64) -> u64 {
    let mut out = value;
    // SAFETY: one arithmetic instruction on a register.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) out, const MASK, options(pure, nomem, nostack));
    }
    out
}

/// A zero that the verifier takes for any number. What is added to it is no
/// constant to the verifier, so that it does not follow each value by itself:
/// loops come to a fixpoint and equal paths are walked once.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Zero(u64);

impl Zero {
    /// From two numbers that were found equal. In one instruction that the
    /// compiler does not see through.
    #[inline(always)]
    pub fn from_equal(a: u64, b: u64) -> Self {
        let mut out = a;
        // SAFETY: one arithmetic instruction on registers.
        unsafe {
            core::arch::asm!("{0} ^= {1}", inout(reg) out, in(reg) b, options(pure, nomem, nostack));
        }
        Self(out)
    }

    /// The zero that was handed to a function as a number.
    #[inline(always)]
    pub fn again(zero: u64) -> Self {
        Self(zero)
    }

    /// `value`, unknown to the verifier. Exclusive or, since an addition
    /// would link the result to this register: kernels from 6.11 on would
    /// take what they learn of one for the other.
    #[inline(always)]
    pub fn plus(self, value: u64) -> u64 {
        let mut out = self.0;
        // SAFETY: one arithmetic instruction on registers.
        unsafe {
            core::arch::asm!("{0} ^= {1}", inout(reg) out, in(reg) value, options(pure, nomem, nostack));
        }
        out
    }

    /// As [`Self::plus`].
    #[inline(always)]
    pub fn plus32(self, value: u32) -> u32 {
        self.plus(value as u64) as u32
    }
}

/// Writes zeros, without the call to a byte-wise `memset` that the compiler makes.
///
/// # Safety
/// `start` has room for `N` words.
#[inline(always)]
pub unsafe fn zero<const N: usize>(start: *mut u64) {
    let mut i = 0;
    while i < N {
        // SAFETY: the i-th of N words, by contract.
        unsafe { core::ptr::write_volatile(start.add(i), 0) };
        i += 1;
    }
}
