//! The one inner loop: a few rows times one panel of weights, accumulated in registers.

use std::sync::LazyLock;

use bytemuck::Pod;
use pulp::{Simd, WithSimd};

use super::ARCH;

/// Rows of a tile, at most.
pub(super) const ROWS: usize = 12;

/// Rows of a tile on this machine: with two sums a row, two vectors of weights and some to spare, what the registers hold.
/// More would keep sums in memory, at half the speed.
static FITTING: LazyLock<usize> = LazyLock::new(|| {
    struct Fitting;
    impl WithSimd for Fitting {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            ((S::REGISTER_COUNT - 4) / 2).min(ROWS)
        }
    }
    ARCH.dispatch(Fitting)
});

/// Rows of the next tile when `left` are left: nearly equal tiles instead of a full one and a rest of one row.
pub(super) fn next_rows(left: usize) -> usize {
    let most = *FITTING;
    match left {
        _ if left <= most => left,
        _ if left < 2 * most => left.div_ceil(2),
        _ => most,
    }
}

/// How the numbers of a panel become float32. A panel row is what one input meets: one weight for each column.
pub(super) trait Format: Copy + Sync {
    /// As stored.
    type Number: Pod + Sync + Send;
    /// A panel row as vectors.
    type Row<S: Simd>: Copy;

    /// Stored numbers of a row of a panel of `columns` columns.
    fn stored(columns: usize) -> usize;

    fn rows<S: Simd>(panel: &[Self::Number]) -> &[Self::Row<S>];

    /// The two vectors of a row.
    fn decode<S: Simd>(self, simd: S, row: Self::Row<S>) -> [S::f32s; 2];
}

/// Four bytes a weight.
#[derive(Clone, Copy)]
pub(super) struct Float32;

/// Two bytes a weight, times a power of two; a word holds a weight of the first vector (low half) and one of the second.
#[derive(Clone, Copy)]
pub(super) struct Float16 {
    /// What the stored numbers are multiplied by.
    pub scale: f32,
}

/// Two bytes a weight, in words as for [`Float16`].
#[derive(Clone, Copy)]
pub(super) struct Bfloat16;

impl Format for Float32 {
    type Number = f32;
    type Row<S: Simd> = [S::f32s; 2];

    fn stored(columns: usize) -> usize {
        columns
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[f32]) -> &[[S::f32s; 2]] {
        S::as_simd_f32s(panel).0.as_chunks().0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, _simd: S, row: [S::f32s; 2]) -> [S::f32s; 2] {
        row
    }
}

impl Format for Float16 {
    type Number = u32;
    type Row<S: Simd> = S::u32s;

    fn stored(columns: usize) -> usize {
        columns / 2
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, simd: S, row: S::u32s) -> [S::f32s; 2] {
        // Exponent and fraction moved to float32's places make the number times 2^-112; the product mends that exactly.
        let mend = simd.splat_f32s(self.scale * 2f32.powi(112));
        let number = |high: S::u32s| {
            let sign = simd.and_u32s(high, simd.splat_u32s(0x8000_0000));
            let rest = simd.and_u32s(high, simd.splat_u32s(0x7fff_0000));
            let rest = simd.wrapping_dyn_shr_u32s(rest, simd.splat_u32s(3));
            simd.mul_f32s(simd.transmute_f32s_u32s(simd.or_u32s(sign, rest)), mend)
        };
        [number(simd.wrapping_dyn_shl_u32s(row, simd.splat_u32s(16))), number(row)]
    }
}

impl Format for Bfloat16 {
    type Number = u32;
    type Row<S: Simd> = S::u32s;

    fn stored(columns: usize) -> usize {
        columns / 2
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, simd: S, row: S::u32s) -> [S::f32s; 2] {
        let low = simd.wrapping_dyn_shl_u32s(row, simd.splat_u32s(16));
        let high = simd.and_u32s(row, simd.splat_u32s(0xffff_0000));
        [simd.transmute_f32s_u32s(low), simd.transmute_f32s_u32s(high)]
    }
}

/// Where a tile's results go: `width` columns from `first` on, rows `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub first: *mut f32,
    pub stride: usize,
    pub width: usize,
    /// Added to each row, unless it is empty; else `width` numbers.
    pub bias: &'a [f32],
    /// Whether results are added to what is there.
    pub add: bool,
}

/// `rows` interleaved rows (`xs[input * rows + row]`) times a panel.
///
/// # Safety
/// Each of the `rows` rows of `target` must be `width` initialised numbers that this call may write and that nobody else
/// reads or writes until it returns.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, F: Format>(
    simd: S,
    format: F,
    rows: usize,
    xs: &[f32],
    panel: &[F::Number],
    target: Target,
) {
    macro_rules! of_rows {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller promises the same of so many rows.
                $($n => unsafe { fixed::<S, F, $n>(simd, format, xs, panel, target) },)*
                _ => unreachable!("next_rows gives 1 to 12"),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// [`tile`] with the number of rows known to the compiler, which keeps the sums in registers.
///
/// # Safety
/// As for [`tile`], with `R` rows.
#[inline(always)]
unsafe fn fixed<S: Simd, F: Format, const R: usize>(
    simd: S,
    format: F,
    xs: &[f32],
    panel: &[F::Number],
    target: Target,
) {
    let mut sums = [[simd.splat_f32s(0.0); 2]; R];
    for (x, row) in xs.as_chunks::<R>().0.iter().zip(F::rows::<S>(panel)) {
        let [first, second] = format.decode(simd, *row);
        for r in 0..R {
            let x = simd.splat_f32s(x[r]);
            sums[r][0] = simd.mul_add_f32s(x, first, sums[r][0]);
            sums[r][1] = simd.mul_add_f32s(x, second, sums[r][1]);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller promises that row `r`, of `width` numbers, may be written and is used by nobody else.
        let out = unsafe { std::slice::from_raw_parts_mut(target.first.add(r * target.stride), target.width) };
        let sums: &[f32] = &bytemuck::cast_slice(sums)[..target.width];
        if !target.bias.is_empty() {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(target.bias) {
                *out = if target.add { *out + (sum + bias) } else { sum + bias };
            }
        } else {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if target.add { *out + sum } else { *sum };
            }
        }
    }
}
