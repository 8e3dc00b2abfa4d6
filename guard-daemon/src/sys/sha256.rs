//! SHA-256 of many messages beside each other (FIPS 180-4), a block of each at
//! a time, one message in each lane of a vector register. On processors without
//! instructions for SHA-256 this is several times as fast as one after the
//! other; the digests are the same.

/// Messages that are hashed beside each other.
pub const LANES: usize = 16;

/// One word of each message.
pub type Words = [u32; LANES];

/// The state of each message: eight words of all.
pub type State = [Words; 8];

/// The state that every message starts from, one word each.
pub const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// What this processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors(Width);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // never made elsewhere
enum Width {
    Eight,
    Sixteen,
}

impl Vectors {
    /// All ways that this processor has, the fastest last.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx2") {
                all.push(Self(Width::Eight));
            }
            if std::is_x86_feature_detected!("avx512f") {
                all.push(Self(Width::Sixteen));
            }
        }
        all
    }

    /// The fastest way; `None` where one message after the other is faster.
    #[must_use]
    pub fn fastest() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("sha") {
            return None;
        }
        Self::all().pop()
    }

    /// Takes one block of each of the first `used` messages: `block[n]` has
    /// the `n`th word of all. What becomes of the other lanes is not said.
    pub fn compress(self, state: &mut State, block: &[Words; 16], used: usize) {
        #[cfg(target_arch = "x86_64")]
        match self.0 {
            // SAFETY: this value exists only where the processor has AVX2.
            Width::Eight => unsafe {
                x86::eight(state, block, 0);
                if used > 8 {
                    x86::eight(state, block, 8);
                }
            },
            // SAFETY: this value exists only where the processor has AVX-512F.
            Width::Sixteen => unsafe { x86::sixteen(state, block) },
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (state, block, used);
    }
}

#[cfg(target_arch = "x86_64")]
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256,
        _mm256_loadu_si256, _mm256_or_si256, _mm256_set1_epi32, _mm256_slli_epi32,
        _mm256_srli_epi32, _mm256_storeu_si256, _mm256_xor_si256, _mm512_add_epi32,
        _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_srli_epi32,
        _mm512_storeu_si512, _mm512_ternarylogic_epi32,
    };

    use super::{K, State, Words};

    /// The 64 rounds, by the functions of one width.
    macro_rules! rounds {
        ($state:ident, $w:ident, $add:ident, $set:path,
         $big0:ident, $big1:ident, $small0:ident, $small1:ident, $choose:ident, $majority:ident) => {{
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = $state;
            for turn in 0..4 {
                macro_rules! round {
                    ($n:literal: $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {
                        if turn > 0 {
                            let more = $add(
                                $add($small0($w[($n + 1) & 15]), $w[($n + 9) & 15]),
                                $small1($w[($n + 14) & 15]),
                            );
                            $w[$n] = $add($w[$n], more);
                        }
                        let k = $set(K[16 * turn + $n].cast_signed());
                        let first = $add(
                            $add($add($h, $big1($e)), $choose($e, $f, $g)),
                            $add(k, $w[$n]),
                        );
                        $d = $add($d, first);
                        $h = $add(first, $add($big0($a), $majority($a, $b, $c)));
                    };
                }
                round!(0: a b c d e f g h);
                round!(1: h a b c d e f g);
                round!(2: g h a b c d e f);
                round!(3: f g h a b c d e);
                round!(4: e f g h a b c d);
                round!(5: d e f g h a b c);
                round!(6: c d e f g h a b);
                round!(7: b c d e f g h a);
                round!(8: a b c d e f g h);
                round!(9: h a b c d e f g);
                round!(10: g h a b c d e f);
                round!(11: f g h a b c d e);
                round!(12: e f g h a b c d);
                round!(13: d e f g h a b c);
                round!(14: c d e f g h a b);
                round!(15: b c d e f g h a);
            }
            let [sa, sb, sc, sd, se, sf, sg, sh] = $state;
            [
                $add(sa, a), $add(sb, b), $add(sc, c), $add(sd, d),
                $add(se, e), $add(sf, f), $add(sg, g), $add(sh, h),
            ]
        }};
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn sixteen(state: &mut State, block: &[Words; 16]) {
        #[inline(always)]
        fn load(words: &Words) -> __m512i {
            // SAFETY: 16 words are the 64 bytes that are read; no alignment is asked for.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        }
        macro_rules! ror {
            ($x:expr, $n:literal) => {
                _mm512_ror_epi32::<$n>($x)
            };
        }
        macro_rules! xor3 {
            ($x:expr, $y:expr, $z:expr) => {
                _mm512_ternarylogic_epi32::<0x96>($x, $y, $z)
            };
        }
        macro_rules! functions {
            ($($name:ident($($arg:ident),*) = $value:expr;)*) => {$(
                #[target_feature(enable = "avx512f")]
                #[inline]
                fn $name($($arg: __m512i),*) -> __m512i { $value }
            )*};
        }
        functions! {
            add(x, y) = _mm512_add_epi32(x, y);
            big0(x) = xor3!(ror!(x, 2), ror!(x, 13), ror!(x, 22));
            big1(x) = xor3!(ror!(x, 6), ror!(x, 11), ror!(x, 25));
            small0(x) = xor3!(ror!(x, 7), ror!(x, 18), _mm512_srli_epi32::<3>(x));
            small1(x) = xor3!(ror!(x, 17), ror!(x, 19), _mm512_srli_epi32::<10>(x));
            choose(x, y, z) = _mm512_ternarylogic_epi32::<0xca>(x, y, z);
            majority(x, y, z) = _mm512_ternarylogic_epi32::<0xe8>(x, y, z);
        }
        let mut w = block.each_ref().map(load);
        let before = state.each_ref().map(load);
        let after = rounds!(
            before,
            w,
            add,
            _mm512_set1_epi32,
            big0,
            big1,
            small0,
            small1,
            choose,
            majority
        );
        for (words, value) in state.iter_mut().zip(after) {
            // SAFETY: 16 words are the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) };
        }
    }

    /// Eight of the lanes, from `from` on, which is 0 or 8.
    #[target_feature(enable = "avx2")]
    pub(super) fn eight(state: &mut State, block: &[Words; 16], from: usize) {
        let load = |words: &Words| -> __m256i {
            let half: &[u32] = &words[from..from + 8];
            // SAFETY: 8 words are the 32 bytes that are read; no alignment is asked for.
            unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
        };
        macro_rules! ror {
            ($x:expr, $n:literal) => {
                _mm256_or_si256(
                    _mm256_srli_epi32::<$n>($x),
                    _mm256_slli_epi32::<{ 32 - $n }>($x),
                )
            };
        }
        macro_rules! xor3 {
            ($x:expr, $y:expr, $z:expr) => {
                _mm256_xor_si256(_mm256_xor_si256($x, $y), $z)
            };
        }
        macro_rules! functions {
            ($($name:ident($($arg:ident),*) = $value:expr;)*) => {$(
                #[target_feature(enable = "avx2")]
                #[inline]
                fn $name($($arg: __m256i),*) -> __m256i { $value }
            )*};
        }
        functions! {
            add(x, y) = _mm256_add_epi32(x, y);
            big0(x) = xor3!(ror!(x, 2), ror!(x, 13), ror!(x, 22));
            big1(x) = xor3!(ror!(x, 6), ror!(x, 11), ror!(x, 25));
            small0(x) = xor3!(ror!(x, 7), ror!(x, 18), _mm256_srli_epi32::<3>(x));
            small1(x) = xor3!(ror!(x, 17), ror!(x, 19), _mm256_srli_epi32::<10>(x));
            choose(x, y, z) = _mm256_xor_si256(_mm256_and_si256(x, y), _mm256_andnot_si256(x, z));
            majority(x, y, z) = _mm256_or_si256(
                _mm256_and_si256(x, y),
                _mm256_and_si256(_mm256_or_si256(x, y), z)
            );
        }
        let mut w = block.each_ref().map(load);
        let before = state.each_ref().map(load);
        let after = rounds!(
            before,
            w,
            add,
            _mm256_set1_epi32,
            big0,
            big1,
            small0,
            small1,
            choose,
            majority
        );
        for (words, value) in state.iter_mut().zip(after) {
            let half: &mut [u32] = &mut words[from..from + 8];
            // SAFETY: 8 words are the 32 bytes that are written.
            unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), value) };
        }
    }
}
