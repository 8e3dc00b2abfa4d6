//! Reads of kernel memory.
//!
//! Offsets and other facts of the running kernel are marks in the
//! instructions, which the loader replaces ([`guard_common::offsets`]): a load
//! of a field is one instruction, and a fact is a constant to the verifier.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel};
use guard_common::offsets::MARK_CAST;

/// Some kernel object. To the verifier it is a typed pointer, whose fields
/// are loaded directly, or a number, whose fields are copied.
pub type Object = *const c_void;

/// The number of a field, as a constant.
macro_rules! number {
    ($field:ident) => {
        (core::mem::offset_of!(guard_common::offsets::Offsets, $field) / 4) as i32
    };
}
pub(crate) use number;

/// The offset of a field.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::value::<
            { guard_common::offsets::MARK_VALUE + $crate::kernel::number!($field) },
        >()
    };
}
pub(crate) use offset;

/// A fact of the running kernel.
macro_rules! fact {
    ($fact:ident) => {
        $crate::kernel::value::<
            {
                guard_common::offsets::MARK_VALUE + guard_common::offsets::Fact::$fact as u32 as i32
            },
        >()
    };
}
pub(crate) use fact;

/// Loads a field of a typed object: a pointer, or with `as u16`, `u32`, `u64` a number.
macro_rules! load {
    ($object:expr, $field:ident) => {
        $crate::kernel::load64::<
            { guard_common::offsets::MARK_LOAD + $crate::kernel::number!($field) },
        >($object) as $crate::kernel::Object
    };
    ($object:expr, $field:ident as u64) => {
        $crate::kernel::load64::<
            { guard_common::offsets::MARK_LOAD + $crate::kernel::number!($field) },
        >($object)
    };
    ($object:expr, $field:ident as u32) => {
        $crate::kernel::load32::<
            { guard_common::offsets::MARK_LOAD + $crate::kernel::number!($field) },
        >($object)
    };
    ($object:expr, $field:ident as u16) => {
        $crate::kernel::load16::<
            { guard_common::offsets::MARK_LOAD + $crate::kernel::number!($field) },
        >($object)
    };
}
pub(crate) use load;

/// Copies a field of an object that has no type.
macro_rules! copy {
    ($address:expr, $field:ident as $ty:ty) => {
        $crate::kernel::read::<$ty>($address as u64 + $crate::kernel::offset!($field))
    };
}
pub(crate) use copy;

/// A constant that the loader puts in.
#[inline(always)]
pub fn value<const MARK: i32>() -> u64 {
    let out: u64;
    // SAFETY: one move of a constant.
    unsafe { asm!("{0} = {1}", out(reg) out, const MARK, options(pure, nomem, nostack)) };
    out
}

macro_rules! loads {
    ($($name:ident $ty:ty = $text:literal;)*) => {
        $(
            /// Loads a field of a typed object; a fault reads as zero
            /// (`BPF_PROBE_MEM`). The verifier refuses what is no object.
            #[inline(always)]
            pub fn $name<const MARK: i32>(object: Object) -> $ty {
                let out: u64;
                // SAFETY: one load, checked by the verifier.
                unsafe {
                    asm!($text, out(reg) out, in(reg) object, const MARK, options(readonly, nostack));
                }
                out as $ty
            }
        )*
    };
}
loads! {
    load64 u64 = "{0} = *(u64 *)({1} + {2})";
    load32 u32 = "{0} = *(u32 *)({1} + {2})";
    load16 u16 = "{0} = *(u16 *)({1} + {2})";
}

/// The `WORD`th word of the room for a short name in a dentry.
#[inline(always)]
pub fn inline_word<const WORD: i32>(dentry: Object) -> u64 {
    let out: u64;
    // SAFETY: one load, checked by the verifier. `WORD` goes through the
    // address, since the mark takes the place of the offset.
    unsafe {
        asm!(
            "{0} = {1}",
            "{0} += {2}",
            "{0} = *(u64 *)({0} + {3})",
            out(reg) out,
            in(reg) dentry,
            const 8 * WORD,
            const guard_common::offsets::MARK_LOAD + number!(dentry_inline),
            options(readonly, nostack)
        );
    }
    out
}

/// Gives an address the type with that BTF id (`bpf_rdonly_cast`, kernels
/// from 6.2 on, where it costs nothing).
#[inline(always)]
pub fn cast(address: u64, type_id: u64) -> Object {
    let out: u64;
    // SAFETY: a call of a kernel function with two arguments; it changes nothing.
    unsafe {
        asm!(
            "call {0}",
            const MARK_CAST,
            inlateout("r1") address => _,
            inlateout("r2") type_id => _,
            lateout("r0") out,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nomem, nostack)
        );
    }
    out as Object
}

/// Reads from an untyped kernel address.
#[inline(always)]
pub fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a fault.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// The running task.
#[inline(always)]
pub fn current() -> Object {
    // SAFETY: the helper always returns the running task.
    unsafe { bpf_get_current_task_btf() }.cast::<c_void>()
}

/// `value & MASK`, in an instruction that the compiler cannot argue away: it
/// may know a bound that the verifier does not see.
#[inline(always)]
pub fn bounded<const MASK: i32>(value: u64) -> u64 {
    let mut out = value;
    // SAFETY: one arithmetic instruction on a register.
    unsafe {
        asm!("{0} &= {1}", inout(reg) out, const MASK, options(pure, nomem, nostack));
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
            asm!("{0} ^= {1}", inout(reg) out, in(reg) b, options(pure, nomem, nostack));
        }
        Self(out)
    }

    /// The zero that was handed to a function as a number.
    #[inline(always)]
    pub fn again(zero: u64) -> Self {
        Self(zero)
    }

    /// `value`, unknown to the verifier. An instruction of its own each time:
    /// of one register in two places the verifier remembers that they are the
    /// same, and would walk every combination of places that still are.
    /// Exclusive or, since an addition
    /// would link the result to this register: kernels from 6.11 on would
    /// take what they learn of one for the other.
    #[inline(always)]
    pub fn plus(self, value: u64) -> u64 {
        let mut out = self.0;
        // SAFETY: one arithmetic instruction on registers.
        unsafe {
            asm!("{0} ^= {1}", inout(reg) out, in(reg) value, options(pure, nomem, nostack));
        }
        out
    }

    /// As [`Self::plus`].
    #[inline(always)]
    pub fn plus32(self, value: u32) -> u32 {
        self.plus(value as u64) as u32
    }

    /// As [`Self::plus`].
    #[inline(always)]
    pub fn plus8(self, value: u8) -> u8 {
        self.plus(value as u64) as u8
    }
}

/// The address of an object as a number that can be computed with: how far it
/// is from `origin`. The verifier allows no other arithmetic on pointers.
#[inline(always)]
pub fn distance(object: Object, origin: *const u8) -> u64 {
    let mut out = object as u64;
    // SAFETY: one arithmetic instruction on registers.
    unsafe {
        asm!("{0} -= {1}", inout(reg) out, in(reg) origin, options(pure, nomem, nostack));
    }
    out
}

/// Bits of a word that lie behind `len` bytes, 0 from eight on. Without a
/// branch, which the verifier would follow.
#[inline(always)]
pub fn bits_over(len: u64) -> u64 {
    let mut out = len;
    // SAFETY: arithmetic on registers: max(8 - len, 0) * 8.
    unsafe {
        asm!(
            "{0} += -8",
            "{1} = {0}",
            "{1} s>>= 63",
            "{0} &= {1}",
            "{0} = -{0}",
            "{0} <<= 3",
            "{0} &= 63",
            inout(reg) out,
            out(reg) _,
            options(pure, nomem, nostack)
        );
    }
    out
}

/// Stores a word at any address, in one instruction.
///
/// # Safety
/// `to` has room for eight bytes.
#[inline(always)]
pub unsafe fn store64(to: *mut u8, word: u64) {
    // SAFETY: by contract.
    unsafe { asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) word, options(nostack)) };
}
